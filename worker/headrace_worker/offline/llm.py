"""LLM: a model inside a Python program, with continuous batching and without queue or HTTP."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from tqdm import tqdm

from headrace_shared.clock import mono_s
from headrace_shared.protocol.codec import pack_ids
from headrace_shared.protocol.job import GenerateJob, JobHeader
from headrace_shared.settings_report import problems_of
from headrace_shared.text.tokenizer import Tokenizer
from headrace_worker.engine.build import EngineSetupError, build_engine
from headrace_worker.offline.batch import Running, run_all
from headrace_worker.offline.options import engine_settings
from headrace_worker.offline.outputs import RequestOutput
from headrace_worker.offline.params import Model, SamplingParams, derived_seed, stopping

Prompt = str | list[int] | Mapping[str, Any]
"""A text, token ids, or ``{"prompt": text}`` or ``{"prompt_token_ids": ids}``."""
Message = Mapping[str, Any]
Progress = bool | Callable[..., Any]
"""Whether a progress bar is shown, or what makes one, called as ``tqdm`` is."""

_MOST_PROBLEMS = 10


class LLM:
    """One model. Not thread-safe: one thread uses it.

    ``options`` are a worker's settings by their names (``dtype``, ``max_model_len``, ``max_num_seqs``, ...), as in
    docs/configuration.md; exported ones count too. ``seed``: what is drawn for parameters without one; an LLM that is
    given the same prompts in the same order gives the same answers.

    Raises TypeError for an option that means nothing here, and EngineSetupError when the model cannot be loaded.
    """

    def __init__(self, model: str, *, seed: int = 0, **options: Any) -> None:
        try:
            settings = engine_settings(model, options)
        except ValidationError as error:
            raise EngineSetupError("; ".join(problems_of(error))) from None
        setup = build_engine(settings)
        self._engine = setup.engine
        self._files = setup.files
        self._template_variables = settings.default_chat_template_kwargs
        self._seed = seed
        self._numbers = itertools.count()
        self.max_model_len: int = setup.limits.context_tokens
        """Prompt and answer together, tokens."""
        self.tokenizer: Tokenizer = setup.files.tokenizer()
        self._model = Model(self.tokenizer, setup.vocab_size, settings.max_logprobs)

    def get_default_sampling_params(self) -> SamplingParams:
        """What the model's generation_config suggests."""
        return SamplingParams.of_defaults(self._files.defaults)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: Progress = True,
    ) -> list[RequestOutput]:
        """The answers, in the order of the prompts. ``sampling_params``: for all, one for each, or the model's.

        Raises ValueError, before anything is computed, with what is wrong with which prompts.
        """
        batch = self._prepared(_listed(prompts), sampling_params)
        self.run(batch, use_tqdm, "Processed prompts")
        return [running.output() for running in batch]

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: Progress = True,
        **template: Any,
    ) -> list[RequestOutput]:
        """The answers to one conversation, or to each of several. ``template``: as in ``render_chat``.

        Raises ValueError as ``generate`` does, and when the template refuses a conversation.
        """
        several = bool(messages) and not isinstance(messages[0], Mapping)
        conversations: Any = messages if several else [messages]
        prompts = [
            {"prompt": text, "prompt_token_ids": self.tokenizer.encode(text, add_special_tokens=False)}
            for text in (self.render_chat(each, **template) for each in conversations)
        ]
        return self.generate(prompts, sampling_params, use_tqdm=use_tqdm)

    def render_chat(
        self,
        messages: Sequence[Message],
        *,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """The text of a conversation's prompt, by ``chat_template`` or the model's own.

        Raises ValueError when there is none, or it refuses the conversation.
        """
        from headrace_worker.models.chat import render_chat  # the simulated engine may run without transformers

        own = (self._files.tool_template if tools else None) or self._files.chat_template
        if (source := chat_template or own) is None:
            raise ValueError("the model has no chat template; give one with chat_template")
        return render_chat(
            source,
            messages,
            tools,
            {**self._special_tokens(), **self._template_variables, **(chat_template_kwargs or {})},
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
        )

    def _special_tokens(self) -> dict[str, str]:
        files = self._files
        named = {"bos_token": files.bos_token, "eos_token": files.eos_token, **files.special_tokens}
        return {name: token for name, token in named.items() if token is not None}

    @property
    def chat_template(self) -> str | None:
        """The model's own."""
        return self._files.chat_template

    @property
    def begin_of_text(self) -> str | None:
        """How that token is written, where the model has one."""
        return self._files.bos_token

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text of which everything is to be scored: begin-of-text, else end-of-text.

        Raises ValueError for a model that has neither.
        """
        for token_id in (self._token_id(self._files.bos_token), self.eos_token_id):
            if token_id is not None:
                return token_id
        raise ValueError("the model has neither a begin-of-text nor an end-of-text token")

    @property
    def eos_token_id(self) -> int | None:
        """End-of-text, as the tokenizer names it; a model may have further tokens that end its answers."""
        return self._token_id(self._files.eos_token)

    def _token_id(self, token: str | None) -> int | None:
        return None if token is None else self.tokenizer.token_to_id(token)

    def prepare(self, prompt: Prompt, params: SamplingParams) -> Running:
        """One prompt, ready for ``run``. Raises ValueError when the model or the context cannot do it."""
        text, ids = self._read(prompt)
        if problems := self._model.problems(params):
            raise ValueError("; ".join(problems))
        room = self.max_model_len - len(ids)
        if room < min(1, params.max_tokens if params.max_tokens is not None else 1):
            raise ValueError(f"has {len(ids)} tokens, and {self.max_model_len} fit into the context, answer included")
        number = next(self._numbers)
        job = GenerateJob(
            JobHeader(str(number), "offline"),
            pack_ids(ids),
            n=params.n,
            sampling=self._model.sampling(params, derived_seed(self._seed, number)),
            stopping=stopping(params, room),
        )
        return Running(job, text, number, self.tokenizer)

    def _read(self, prompt: Prompt) -> tuple[str | None, list[int]]:
        text: Any = prompt if isinstance(prompt, str) else None
        ids: Any = None
        if isinstance(prompt, Mapping):
            if unknown := prompt.keys() - {"prompt", "prompt_token_ids"}:
                raise ValueError(f"{min(unknown)}: is not known; a prompt has prompt or prompt_token_ids")
            text, ids = prompt.get("prompt"), prompt.get("prompt_token_ids")
        elif not isinstance(prompt, str):
            ids = list(prompt)
        if ids is None:
            if not isinstance(text, str):
                raise ValueError("is neither a text nor token ids")
            ids = self.tokenizer.encode(text, add_special_tokens=True)
        if not ids:
            raise ValueError("has no tokens")
        if not all(isinstance(each, int) and 0 <= each < self._model.vocab_size for each in ids):
            raise ValueError(f"has something else than token ids below {self._model.vocab_size}")
        return text, ids

    def _prepared(
        self, prompts: Sequence[Prompt], sampling_params: SamplingParams | Sequence[SamplingParams] | None
    ) -> list[Running]:
        if sampling_params is None:
            sampling_params = self.get_default_sampling_params()
        several = [sampling_params] * len(prompts) if isinstance(sampling_params, SamplingParams) else sampling_params
        if len(several) != len(prompts):
            raise ValueError(f"there are {len(prompts)} prompts and {len(several)} sampling_params")
        batch, problems = [], []
        for index, (prompt, params) in enumerate(zip(prompts, several, strict=True)):
            try:
                batch.append(self.prepare(prompt, params))
            except ValueError as error:
                problems.append(f"prompt {index}: {error}")
        if problems:
            more = [f"and {len(problems) - _MOST_PROBLEMS} more"] if len(problems) > _MOST_PROBLEMS else []
            raise ValueError("; ".join([*problems[:_MOST_PROBLEMS], *more]))
        return batch

    def run(self, batch: Sequence[Running], use_tqdm: Progress, title: str) -> None:
        """Compute all of it. Ctrl-C ends it, and leaves the LLM usable."""
        make = use_tqdm if callable(use_tqdm) else tqdm
        begun_s, tokens = mono_s(), [0, 0]
        with make(total=len(batch), desc=title, dynamic_ncols=True, disable=not use_tqdm) as bar:

            def ended(running: Running) -> None:
                tokens[0] += len(running.prompt_ids)
                tokens[1] += running.output_tokens
                per_s = 1 / max(mono_s() - begun_s, 1e-9)
                bar.set_postfix_str(
                    f"{tokens[0] * per_s:.0f} prompt and {tokens[1] * per_s:.0f} output tokens/s", False
                )
                bar.update(1)

            run_all(self._engine, batch, ended)


def _listed(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    if isinstance(prompts, str | Mapping):
        return [prompts]
    each: list[Any] = list(prompts)
    return [each] if each and isinstance(each[0], int) else each
