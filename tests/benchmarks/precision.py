"""How exact each precision is: perplexity, agreement with float32 and divergence from it on a fixed text.

    PYTHONPATH=tests/support OMP_WAIT_POLICY=PASSIVE python tests/benchmarks/precision.py MODEL [--only int8,int4] [--moved]

MODEL is a local directory or a GGUF file. The text is tests/support/prose.txt, computed in one step: each place is given
the text's own tokens before it, so that one mistake does not lead to others. Greedy answers are to the
beginnings of the text's paragraphs. With --moved every weight is moved at random within a step of four bits first, which
leaves the model on no grid, and agreement and divergence are also those of the licence and of Python code.
"""

import argparse
import time
from pathlib import Path

from exactness import BLOCK, PRECISIONS, PROSE, build_as, compare, logits_of
from transformers import AutoTokenizer

from headrace_shared.protocol.codec import pack_ids
from headrace_shared.protocol.job import GenerateJob, JobHeader
from headrace_shared.protocol.sampling import SamplingSpec, StoppingSpec
from headrace_worker.execute.build import BuiltRunner
from headrace_worker.models.load import locate
from headrace_worker.schedule.request import Request
from headrace_worker.schedule.scheduler import Scheduler, SchedulerLimits

ROOT = Path(__file__).parents[2]
LICENCE, CODE = ROOT / "LICENSE", ROOT / "worker/headrace_worker/execute/verify.py"


def answers(built: BuiltRunner, prompts: list[list[int]], count: int) -> list[list[int]]:
    """Greedy, all at once."""
    limits = SchedulerLimits(
        max_num_seqs=len(prompts), max_num_batched_tokens=512, max_model_len=2048, block_size=BLOCK, num_blocks=built.num_blocks
    )  # fmt: skip
    scheduler = Scheduler(limits, eos_token_ids=frozenset())
    for number, prompt in enumerate(prompts):
        job = GenerateJob(
            JobHeader(str(number), "bench"),
            pack_ids(prompt),
            sampling=SamplingSpec(temperature=0),
            stopping=StoppingSpec(max_tokens=count),
        )
        scheduler.add(Request.from_job(job, arrival=number))
    made: list[list[int]] = [[] for _ in prompts]
    while scheduler.has_work():
        plan = scheduler.plan()
        for output in scheduler.commit(plan, built.runner.execute(plan)):
            made[int(output.request_id)] += output.token_ids
    return made


def same_beginning(one: list[int], other: list[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))


def mean(values: list[float], weights: list[int]) -> float:
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--only", default=",".join(PRECISIONS), help="precisions, comma separated")
    parser.add_argument("--moved", action="store_true", help="move the weights off every grid first")
    parser.add_argument("--tokens", type=int, default=64, help="length of each greedy answer")
    given = parser.parse_args()
    place = locate(given.model)
    tokenizer = AutoTokenizer.from_pretrained(place.path, **place.kwargs)
    prose = PROSE.read_text("utf-8")
    others = [LICENCE, CODE] if given.moved else []
    texts = [tokenizer(text)["input_ids"] for text in (prose, *(path.read_text("utf-8") for path in others))]
    prompts = [tokenizer(part)["input_ids"][:24] for part in prose.split("\n\n") if len(part) > 120]
    reference = build_as(given.model, "float32", moved=given.moved)
    exact, due = [logits_of(reference, ids) for ids in texts], answers(reference, prompts, given.tokens)
    places = [len(ids) - 1 for ids in texts]
    print(f"{sum(places)} places; {len(prompts)} greedy answers of {given.tokens}")
    for precision in given.only.split(","):
        begin = time.perf_counter()
        built = build_as(given.model, precision, moved=given.moved)
        took = time.perf_counter() - begin
        found = [
            compare(logits_of(built, ids), *of) for ids, of in zip(texts, zip(exact, texts, strict=True), strict=True)
        ]
        alike = [same_beginning(*pair) for pair in zip(answers(built, prompts, given.tokens), due, strict=True)]
        print(
            f"{precision:12} perplexity {found[0].perplexity:.3f}, "
            f"agreement {100 * mean([each.agreement for each in found], places):.2f} %, "
            f"KL {mean([each.divergence for each in found], places):.2e}; "
            f"{sum(each == given.tokens for each in alike)} of {len(alike)} answers the same, "
            f"{sum(alike) / len(alike):.0f} tokens until they differ; built in {took:.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
