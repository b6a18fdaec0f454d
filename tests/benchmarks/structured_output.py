"""What a JSON schema costs: tokens per second with one, and without, at one batch size.

    OMP_WAIT_POLICY=PASSIVE python tests/benchmarks/structured_output.py MODEL [--threads N] [--batch 8]

MODEL is a local directory (float32 on a CPU). Runs take turns, so that a busy machine hurts all of
them alike, and each figure is its best one; the ratios are what to compare.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from headrace_shared.protocol.codec import pack_ids
from headrace_shared.protocol.grammar import GrammarBackend, GrammarKind, GrammarSpec
from headrace_shared.protocol.job import GenerateJob, JobHeader
from headrace_shared.protocol.sampling import SamplingSpec, StoppingSpec
from headrace_shared.text.tokenizer import Tokenizer
from headrace_worker.execute.build import BuiltRunner, assemble
from headrace_worker.execute.grammar.compiler import GrammarCompiler
from headrace_worker.execute.grammar.vocabulary import Vocabulary
from headrace_worker.execute.kv_cache import CacheSize
from headrace_worker.models.load import ModelSource, load_model
from headrace_worker.schedule.request import Request
from headrace_worker.schedule.scheduler import Scheduler, SchedulerLimits

BLOCK = 16
SCHEMA = {
    "type": "array",
    "minItems": 100,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "email": {"type": "string", "pattern": "^[a-z]{1,12}@[a-z]{1,12}\\.com$"},
            "tags": {"type": "array", "items": {"enum": ["new", "old", "hot"]}},
        },
        "required": ["name", "age", "email", "tags"],
        "additionalProperties": False,
    },
}


def tokens_per_second(
    built: BuiltRunner, compiler: GrammarCompiler, grammar: GrammarSpec | None, batch: int, tokens: int
) -> float:
    """Of decoding alone: the clock starts when every sequence has its first token."""
    limits = SchedulerLimits(batch, 1024, 1024, BLOCK, built.num_blocks)
    scheduler = Scheduler(limits, eos_token_ids=built.model.eos_token_ids)
    for number in range(batch):
        job = GenerateJob(
            JobHeader(str(number), "bench"),
            pack_ids([100 + (7 * number + place) % 900 for place in range(64)]),
            sampling=SamplingSpec(seed=number, grammar=grammar),
            stopping=StoppingSpec(max_tokens=tokens, ignore_eos=True),
        )
        request = Request.from_job(job, arrival=number)
        if grammar is not None:
            request.constrain(compiler.compile(grammar).result())
        scheduler.add(request)
    plan = scheduler.plan()
    scheduler.commit(plan, built.runner.execute(plan))
    begin, made = time.perf_counter(), 0
    while scheduler.has_work():
        plan = scheduler.plan()
        made += len(scheduler.commit(plan, built.runner.execute(plan)))
    return made / (time.perf_counter() - begin)


def forced_tokens(
    compiler: GrammarCompiler, tokenizer: Tokenizer, grammar: GrammarSpec, vocab_size: int
) -> tuple[int, int]:
    """(how many tokens of a plain answer were the only ones allowed, how many it has): what could be skipped at best."""
    person = {"name": "Ada Lovelace", "age": 36, "email": "ada@math.com", "tags": ["new", "hot"]}
    separators = (",", ":") if grammar.compact else None
    answer = tokenizer.encode(json.dumps([person] * 6, separators=separators), add_special_tokens=False)
    matcher = compiler.compile(grammar).result().matcher()
    bitmask = np.zeros((1, -(-vocab_size // 32)), dtype=np.int32)
    forced = 0
    for token_id in answer:
        matcher.fill(bitmask, 0)
        forced += int(np.unpackbits(bitmask.view(np.uint8)).sum()) == 1
        matcher.accept(token_id)
    return forced, len(answer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--runs", type=int, default=4)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    loaded = load_model(ModelSource(given.model, device="cpu"))
    built = assemble(loaded, CacheSize(block_size=BLOCK, memory_bytes=512 << 20))
    tokenizer = Tokenizer.from_bytes((Path(given.model) / "tokenizer.json").read_bytes())
    compiler = GrammarCompiler(lambda: Vocabulary.of(tokenizer, loaded.vocab_size, loaded.eos_token_ids))
    source = json.dumps(SCHEMA)
    specs: dict[str, GrammarSpec | None] = {"none": None}
    for backend in (GrammarBackend.XGRAMMAR, GrammarBackend.GUIDANCE):
        spec = specs[backend.value] = GrammarSpec(GrammarKind.JSON_SCHEMA, source, backend)
        begin = time.perf_counter()
        compiler.compile(spec).result()
        print(
            f"{backend.value}: compiled in {(time.perf_counter() - begin) * 1e3:.0f} ms (the first with the vocabulary)"
        )
    compact = GrammarSpec(GrammarKind.JSON_SCHEMA, source, compact=True)
    print("forced: {} of {} tokens".format(*forced_tokens(compiler, tokenizer, compact, loaded.vocab_size)))
    best = dict.fromkeys(specs, 0.0)
    for _ in range(given.runs):
        for name, grammar in specs.items():
            best[name] = max(best[name], tokens_per_second(built, compiler, grammar, given.batch, given.tokens))
    for name, rate in best.items():
        print(f"{name:10} {rate:7.1f} tokens/s at batch {given.batch}, {rate / best['none']:.3f} of unconstrained")
    compiler.close()


if __name__ == "__main__":
    main()
