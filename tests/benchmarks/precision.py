"""How exact each precision is: perplexity, agreement with float32 and divergence from it on a fixed text.

    PYTHONPATH=tests/support OMP_WAIT_POLICY=PASSIVE python tests/benchmarks/precision.py MODEL [--only int8,int4]

MODEL is a local directory or a GGUF file. The text is tests/support/prose.txt, computed in one step: each place is given
the text's own tokens before it, so that one mistake does not lead to others. Greedy answers are to the
beginnings of the text's paragraphs.
"""

import argparse

from exactness import BLOCK, PRECISIONS, PROSE, build_as, compare, logits_of
from transformers import AutoTokenizer

from headrace_shared.protocol.codec import pack_ids
from headrace_shared.protocol.job import GenerateJob, JobHeader
from headrace_shared.protocol.sampling import SamplingSpec, StoppingSpec
from headrace_worker.execute.build import BuiltRunner
from headrace_worker.models.load import locate
from headrace_worker.schedule.request import Request
from headrace_worker.schedule.scheduler import Scheduler, SchedulerLimits


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--only", default=",".join(PRECISIONS), help="precisions, comma separated")
    parser.add_argument("--tokens", type=int, default=64, help="length of each greedy answer")
    given = parser.parse_args()
    place = locate(given.model)
    tokenizer = AutoTokenizer.from_pretrained(place.path, **place.kwargs)
    text = PROSE.read_text("utf-8")
    ids = tokenizer(text)["input_ids"]
    prompts = [tokenizer(part)["input_ids"][:24] for part in text.split("\n\n") if len(part) > 120]
    reference = build_as(given.model, "float32")
    exact, due = logits_of(reference, ids), answers(reference, prompts, given.tokens)
    print(f"{len(ids)} tokens; {len(prompts)} greedy answers of {given.tokens}")
    for precision in given.only.split(","):
        built = build_as(given.model, precision)
        found = compare(logits_of(built, ids), exact, ids)
        made = answers(built, prompts, given.tokens)
        alike = [same_beginning(*pair) for pair in zip(made, due, strict=True)]
        print(
            f"{precision:9} perplexity {found.perplexity:.3f}, agreement {100 * found.agreement:.2f} %, "
            f"KL {found.divergence:.2e}; {sum(each == given.tokens for each in alike)} of {len(alike)} answers the same, "
            f"{sum(alike) / len(alike):.0f} tokens until they differ",
            flush=True,
        )


if __name__ == "__main__":
    main()
