"""A beam search finds what transformers' does, token for token, whatever else the engine has to do."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_engine import PATHS, build, prompts
from tiny_models import VOCAB
from transformers import AutoModelForCausalLM

from headrace_shared.protocol.codec import pack_ids
from headrace_shared.protocol.event import FinishReason
from headrace_shared.protocol.job import GenerateJob, JobHeader
from headrace_shared.protocol.sampling import BeamSpec, SamplingSpec, StoppingSpec
from headrace_worker.execute.build import BuiltRunner
from headrace_worker.execute.sampler import Sampler
from headrace_worker.schedule.plan import SequenceOutput
from headrace_worker.schedule.request import Request
from headrace_worker.schedule.scheduler import Scheduler, SchedulerLimits

EOS = frozenset({5, 17, 33})
ASKED = prompts(3, 33, 18, 47)
COUNT = 20

pytestmark = pytest.mark.slow


@dataclass
class Bench:
    """An engine with end-of-text tokens of the test's choice."""

    built: BuiltRunner
    eos: frozenset[int] = EOS
    limits: dict[str, Any] = field(default_factory=dict)
    preemptions: int = 0
    shared_blocks: int = 0
    """Most blocks that several sequences held at once."""

    def run(self, jobs: list[GenerateJob]) -> list[list[SequenceOutput]]:
        """The outputs of each job."""
        self.built.runner._sampler = Sampler(VOCAB, self.eos)
        limits = {
            "max_num_seqs": 16,
            "max_num_batched_tokens": 40,
            "max_model_len": 256,
            "num_blocks": self.built.num_blocks,
            "swap_blocks": self.built.swap_blocks,
        }
        scheduler = Scheduler(SchedulerLimits(block_size=16, **(limits | self.limits)), eos_token_ids=self.eos)
        for number, job in enumerate(jobs):
            scheduler.add(Request.from_job(job, arrival=number, run_id=str(number)))
        outputs: list[list[SequenceOutput]] = [[] for _ in jobs]
        pool = scheduler._blocks.pool
        for _ in range(5000):
            if not scheduler.has_work():
                break
            plan = scheduler.plan()
            self.shared_blocks = max(self.shared_blocks, sum(pool.users(block) > 1 for block in range(pool.total)))
            for output in scheduler.commit(plan, self.built.runner.execute(plan)):
                outputs[int(output.request_id)].append(output)
        assert not scheduler.has_work()
        assert pool.free == pool.total
        self.preemptions = scheduler.stats().preemptions
        return outputs


def job(
    prompt: list[int], width: int, *, n: int = 0, penalty: float = 1.0, count: int = COUNT, **rest: Any
) -> GenerateJob:
    stopping = {key: rest.pop(key) for key in list(rest) if key in StoppingSpec.__struct_fields__}
    sampling = SamplingSpec(beams=BeamSpec(width, penalty), **rest)
    return GenerateJob(
        JobHeader("r", "tests"), pack_ids(prompt), n or width, sampling, StoppingSpec(max_tokens=count, **stopping)
    )


def tokens(outputs: list[SequenceOutput]) -> list[list[int]]:
    assert [output.choice for output in outputs] == list(range(len(outputs)))
    return [output.token_ids for output in outputs]


Search = Callable[..., list[list[int]]]


@pytest.fixture(scope="module")
def search(tiny: Callable[[str], Path]) -> Search:
    """transformers' answers: ``search(name, prompt, width, **options)``."""
    models: dict[str, Any] = {}

    def answers(
        name: str, prompt: list[int], width: int, *, n: int = 0, eos: frozenset[int] = EOS, **options: Any
    ) -> list[list[int]]:
        if name not in models:
            models[name] = AutoModelForCausalLM.from_pretrained(tiny(name), attn_implementation="eager").eval()
        options = {"max_new_tokens": COUNT, "length_penalty": 1.0, "early_stopping": False, **options}
        inputs = torch.tensor([prompt])
        ends = sorted(eos) or None
        out = models[name].generate(
            inputs, attention_mask=torch.ones_like(inputs), do_sample=False, num_beams=width, eos_token_id=ends,
            num_return_sequences=n or width, pad_token_id=0, **options,
        )  # fmt: skip
        return [_cut(row[len(prompt) :].tolist(), eos) for row in out]

    return answers


def _cut(row: list[int], eos: frozenset[int]) -> list[int]:
    """Without the padding behind the first end-of-text token."""
    end = next((place for place, token in enumerate(row) if token in eos), len(row))
    return row[: end + 1]


@pytest.fixture(scope="module")
def ends(search: Search) -> Callable[[str], frozenset[int]]:
    """End-of-text tokens that a model's answers do meet."""
    return lambda name: frozenset({5, *search(name, ASKED[1], 3, eos=frozenset())[0][9:11]})


@pytest.mark.parametrize("path", ["portable", "lean"])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "mistral_window", "gpt2", "mixtral"])
def test_beams_equal_those_of_transformers_alone_and_in_a_batch(name, path, tiny, search, ends):
    eos = ends(name)
    bench = Bench(build(tiny(name), PATHS[path]), eos)
    kinds = ((2, 1.0), (4, 0.0), (5, 2.5), (3, -1.0))
    wanted = [(prompt, width, penalty) for prompt in ASKED for width, penalty in kinds]
    expected = [search(name, prompt, width, length_penalty=penalty, eos=eos) for prompt, width, penalty in wanted]
    assert any(row[-1] in eos for rows in expected for row in rows)
    assert any(len(row) == COUNT for rows in expected for row in rows)
    asked = [job(prompt, width, penalty=penalty) for prompt, width, penalty in wanted]
    assert [tokens(bench.run([one])[0]) for one in asked[4:8]] == expected[4:8]
    assert [tokens(outputs) for outputs in bench.run(asked)] == expected
    assert bench.shared_blocks > 0


@pytest.mark.parametrize("swap_blocks", [0, 50])
@pytest.mark.parametrize(
    "limits",
    [{"num_blocks": 10}, {"num_blocks": 6}, {"max_num_seqs": 3}, {"max_num_seqs": 1}, {"enable_prefix_caching": False}],
)
def test_beams_that_have_to_take_turns_find_the_same(limits, swap_blocks, tiny, search):
    limits = {"num_blocks": 12, "max_model_len": 80, **limits}
    bench = Bench(build(tiny("llama"), PATHS["lean"], swap_blocks=swap_blocks), limits=limits)
    asked = [job(prompt, 4) for prompt in ASKED[:3]]
    assert [tokens(outputs) for outputs in bench.run(asked)] == [search("llama", prompt, 4) for prompt in ASKED[:3]]
    assert bench.preemptions > 0


def test_ordinary_requests_beside_beams_get_what_they_get_alone(tiny, search):
    bench = Bench(build(tiny("llama"), PATHS["lean"]), limits={"num_blocks": 24})
    plain = [
        GenerateJob(JobHeader("r", "t"), pack_ids(prompt), 2, SamplingSpec(seed=7, logprobs=1), StoppingSpec(max_tokens=COUNT))
        for prompt in ASKED
    ]  # fmt: skip
    alone = [bench.run([one])[0] for one in plain]
    mixed = bench.run([*plain[:2], job(ASKED[1], 5, n=2), *plain[2:], job(ASKED[0], 3)])

    def said(outputs: list[SequenceOutput]) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {0: [], 1: []}
        for output in outputs:
            found[output.choice] += output.token_ids
        return found

    assert [said(mixed[place]) for place in (0, 1, 3, 4)] == [said(outputs) for outputs in alone]
    assert tokens(mixed[2]) == search("llama", ASKED[1], 5, n=2)
    assert tokens(mixed[5]) == search("llama", ASKED[0], 3)


def test_what_changes_the_distribution_changes_beams_as_in_transformers(tiny, search, ends):
    eos = ends("llama")
    bench = Bench(build(tiny("llama"), PATHS["lean"]), eos)
    prompt = ASKED[1]
    plain = search("llama", prompt, 4, eos=eos)
    best = plain[0]
    wanted: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"min_tokens": 18}, {"min_new_tokens": 18}),
        ({"repetition_penalty": 1.4}, {"repetition_penalty": 1.4}),
        ({"bad_words": ((best[3],), tuple(best[:2]))}, {"bad_words_ids": [[best[3]], best[:2]]}),
        ({"logit_bias": {best[0]: -4.0, 40: 2.5}}, {"sequence_bias": [[[best[0]], -4.0], [[40], 2.5]]}),
        ({"stop_token_ids": (best[2],)}, {"eos": eos | {best[2]}}),
        ({"ignore_eos": True}, {"eos": frozenset()}),
    ]
    for ours, theirs in wanted:
        expected = search("llama", prompt, 4, **{"eos": eos, **theirs})
        assert expected != plain, ours
        assert tokens(bench.run([job(prompt, 4, **ours)])[0]) == expected, ours


def test_a_beam_tells_why_it_ended_how_likely_its_tokens_were_and_what_its_prompt_scored(tiny, search):
    bench = Bench(build(tiny("llama"), PATHS["lean"]))
    prompt = ASKED[1]

    def ends_some(token: int) -> bool:
        found = search("llama", prompt, 4, n=3, eos=frozenset({token}))
        return len({row[-1] == token for row in found}) == 2

    stop = next(filter(ends_some, search("llama", prompt, 4, eos=frozenset())[0]))
    [outputs] = bench.run([job(prompt, 4, n=3, logprobs=2, prompt_logprobs=0, stop_token_ids=(stop,), ignore_eos=True)])
    model = AutoModelForCausalLM.from_pretrained(tiny("llama"), attn_implementation="eager").eval()
    scores = []
    for output in outputs:
        with torch.inference_mode():
            expected = model(torch.tensor([prompt + output.token_ids])).logits[0].log_softmax(1)[len(prompt) - 1 :]
        assert output.logprobs is not None
        assert [entry.token_id for entry in output.logprobs] == output.token_ids
        got = torch.tensor([entry.logprob for entry in output.logprobs])
        torch.testing.assert_close(got, expected[range(len(got)), output.token_ids], rtol=1e-3, atol=1e-3)
        assert all(len(entry.top) == 2 for entry in output.logprobs)
        last = output.token_ids[-1]
        assert output.finish_reason is (FinishReason.STOP if last == stop else FinishReason.LENGTH)
        assert output.stop_reason == (stop if last == stop else None)
        scores.append(float(got.sum()) / len(got))
    assert scores == sorted(scores, reverse=True)
    assert {output.stop_reason for output in outputs} == {stop, None}
    assert [entry and entry.token_id for entry in outputs[0].prompt_logprobs or []] == [None, *prompt[1:]]
    assert all(output.prompt_logprobs is None for output in outputs[1:])


def test_a_temperature_flattens_what_beams_are_chosen_by_and_zero_does_not(tiny, search):
    bench = Bench(build(tiny("llama"), PATHS["lean"]))
    plain, zero, hot = bench.run(
        [job(ASKED[1], 4), job(ASKED[1], 4, temperature=0.0), job(ASKED[1], 4, temperature=3.0)]
    )
    assert tokens(plain) == tokens(zero) == search("llama", ASKED[1], 4)
    assert tokens(hot) != tokens(plain)
