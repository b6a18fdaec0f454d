"""HeadraceLM: an LLM as lm-evaluation-harness drives models (``pip install 'headrace[eval]'``)."""

from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model

from headrace_worker.offline.llm import LLM
from headrace_worker.offline.params import SamplingParams
from headrace_worker.offline.scoring import Likelihood, Pair, loglikelihood_tokens, rolling_tokens

_ANSWERED = frozenset({"until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k", "min_p", "seed"})


@register_model("headrace")
class HeadraceLM(TemplateLM):  # type: ignore[misc]
    """``pretrained`` and further options as those of ``LLM``.

    ``max_gen_toks``: longest answer of tasks that do not say.
    """

    def __init__(
        self, pretrained: str, *, max_gen_toks: int = 256, batch_size: Any = None, device: Any = None, **options: Any
    ) -> None:
        """``batch_size`` is the engine's business, ``device`` its option; both are what the harness always says."""
        super().__init__()
        if batch_size not in (None, "auto", 1, "1"):
            raise ValueError("batch_size: batches are made by the engine; leave it out, or limit max_num_seqs")
        if device is not None:
            options["device"] = device
        self._llm = LLM(pretrained, **options)
        self._name = pretrained
        self._max_gen_toks = max_gen_toks

    @property
    def eot_token_id(self) -> int | None:
        return self._llm.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        return self._llm.prefix_token_id

    @property
    def max_length(self) -> int:
        return self._llm.max_model_len

    @property
    def tokenizer_name(self) -> str:
        return self._name.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The one that ``apply_chat_template`` uses, by which the harness tells its caches apart."""
        return self._llm.chat_template if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, Any]], add_generation_prompt: bool = True) -> str:
        return self._llm.render_chat(
            chat_history, add_generation_prompt=add_generation_prompt, continue_final_message=not add_generation_prompt
        )

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """By default begin-of-text goes before it, unless the text, as one from a chat template, has it already."""
        if add_special_tokens is None:
            bos = self._llm.begin_of_text
            add_special_tokens = bos is None or not string.startswith(bos)
        return self._llm.tokenizer.encode(string, add_special_tokens=add_special_tokens)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[Likelihood]:
        pairs: list[Pair] = [(context, continuation) for _, context, continuation in requests]
        found = loglikelihood_tokens(self._llm, pairs, use_tqdm=not disable_tqdm)
        for (texts, *_ids), likelihood in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, likelihood)
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        # A text that gets a begin-of-text token has two, which is how the harness scores models of transformers.
        texts = [self.tok_encode(request.args[0]) for request in requests]
        sums = rolling_tokens(self._llm, texts, use_tqdm=not disable_tqdm)
        for request, likely in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, likely)
        return sums

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        prompts, params = [], []
        for request in requests:
            context, asked = request.args
            each = self._params(asked)
            room = max(self.max_length - (each.max_tokens or 0), 1)
            prompts.append({"prompt": context, "prompt_token_ids": self.tok_encode(context)[-room:]})
            params.append(each)
        answers = [each.outputs[0].text for each in self._llm.generate(prompts, params, use_tqdm=not disable_tqdm)]
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, answer)
        return answers

    def _params(self, asked: Mapping[str, Any]) -> SamplingParams:
        """Raises ValueError for what a task asks that is not known here."""
        if unknown := asked.keys() - _ANSWERED:
            raise ValueError(f"{min(unknown)}: is not known; a task may ask for {', '.join(sorted(_ANSWERED))}")
        until = asked.get("until") or []
        draws = asked.get("do_sample", asked.get("temperature", 0.0) > 0)
        more = {name: asked[name] for name in ("top_p", "top_k", "min_p", "seed") if asked.get(name) is not None}
        return SamplingParams(
            temperature=asked.get("temperature", 1.0) if draws else 0.0,
            max_tokens=min(int(asked.get("max_gen_toks", self._max_gen_toks)), self.max_length - 1),
            stop=[until] if isinstance(until, str) else list(until),
            **more,
        )
