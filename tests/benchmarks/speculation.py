"""What guessing ahead brings: tokens per second with it, and without, for texts that repeat their prompt and for others.

    OMP_WAIT_POLICY=PASSIVE python tests/benchmarks/speculation.py MODEL [--threads N] [--draft MODEL] [--batches 1 4 16]

MODEL is a local directory (float32 on a CPU). Greedy answers, decoding alone. Time is that of the processor, all
threads together over their number: what else runs on the machine matters little. Runs take turns; each ratio is that
of the best ones. The answers are compared as well: they must be the same.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from headrace_shared.protocol.codec import pack_ids
from headrace_shared.protocol.job import GenerateJob, JobHeader
from headrace_shared.protocol.sampling import SamplingSpec, StoppingSpec
from headrace_shared.text.tokenizer import Tokenizer
from headrace_worker.engine.speculate import build_speculation
from headrace_worker.execute.build import BuiltRunner, assemble
from headrace_worker.execute.kv_cache import CacheSize
from headrace_worker.models.load import ModelSource, load_model
from headrace_worker.schedule.request import Request
from headrace_worker.schedule.scheduler import Scheduler, SchedulerLimits
from headrace_worker.schedule.speculation.speculation import Speculation, SpeculationStats
from headrace_worker.speculative_config import SpeculativeConfig

NAMES = [
    "Ada",
    "Bao",
    "Cleo",
    "Dirk",
    "Esra",
    "Finn",
    "Gita",
    "Hugo",
    "Ines",
    "Joao",
    "Kai",
    "Lena",
    "Mads",
    "Nora",
    "Omar",
    "Pia",
]
COPY = """Repeat this code exactly, without any comment:

```python
class {name}Account:
    def __init__(self, owner, balance=0):
        self.owner = owner
        self.balance = balance
        self.{lower}_history = []

    def deposit(self, amount):
        self.balance += amount
        self.{lower}_history.append(("deposit", amount))
        return self.balance

    def withdraw(self, amount):
        if amount > self.balance:
            raise ValueError("{name} has insufficient funds")
        self.balance -= amount
        self.{lower}_history.append(("withdraw", amount))
        return self.balance
```"""
CHAT = "My name is {name}. Tell me a short story about somebody called {name} who crosses a river in spring."
KINDS = {"copy": COPY, "chat": CHAT}
TOKENS = 96


@dataclass
class Result:
    """One run."""

    rate: float
    """Tokens per second of decoding."""
    answers: list[list[int]]
    guessed: int
    right: int


def prompts(tokenizer: Tokenizer, kind: str, batch: int) -> list[list[int]]:
    texts = [KINDS[kind].format(name=name, lower=name.lower()) for name in NAMES[:batch]]
    chats = [f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n" for text in texts]
    return [tokenizer.encode(chat, add_special_tokens=False) for chat in chats]


def run(built: BuiltRunner, asked: list[list[int]], speculation: Speculation | None) -> Result:
    """The clock starts when every sequence has its first token. What a step takes is learned as ``GenerateEngine`` does."""
    limits = SchedulerLimits(len(asked), 512, 2048, 16, built.num_blocks)
    before = speculation.stats() if speculation is not None else SpeculationStats()
    scheduler = Scheduler(limits, eos_token_ids=built.model.eos_token_ids, speculation=speculation)
    for number, prompt in enumerate(asked):
        job = GenerateJob(
            JobHeader(str(number), "bench"),
            pack_ids(prompt),
            sampling=SamplingSpec(temperature=0),
            stopping=StoppingSpec(max_tokens=TOKENS),
        )
        scheduler.add(Request.from_job(job, arrival=number))
    answers: list[list[int]] = [[] for _ in asked]
    spent_s, made = 0.0, 0
    while scheduler.has_work():
        decoding = all(answers)
        begin_s = time.process_time()
        plan = scheduler.plan()
        outputs = scheduler.commit(plan, built.runner.execute(plan))
        step_s = (time.process_time() - begin_s) / torch.get_num_threads()
        scheduler.cost.note(plan.load, step_s)
        spent_s += step_s if decoding else 0.0
        for output in outputs:
            answers[int(output.request_id)] += output.token_ids
            made += len(output.token_ids) if decoding else 0
    rate = made / spent_s
    after = speculation.stats() if speculation is not None else before
    return Result(
        rate, answers, after.draft_tokens - before.draft_tokens, after.accepted_tokens - before.accepted_tokens
    )


def report(
    built: BuiltRunner, asked: list[list[int]], ways: dict[str, Speculation | None], title: str, runs: int
) -> None:
    best: dict[str, Result] = {}
    for _ in range(runs):
        for name, speculation in ways.items():
            result = run(built, asked, speculation)
            if name not in best or result.rate > best[name].rate:
                best[name] = result
    plain = best["off"]
    told = [f"off {plain.rate:6.1f} tokens/s"]
    for name, result in best.items():
        if name == "off":
            continue
        assert result.answers == plain.answers, f"{name} has changed an answer"
        told.append(f"{name} {result.rate / plain.rate:.2f}x ({result.right} of {result.guessed} right)")
    print(f"{title:16} {sum(map(len, plain.answers)):5} tokens  {',  '.join(told)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--draft", help="also with this draft model")
    parser.add_argument("--guesses", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    draft = load_model(ModelSource(given.draft, device="cpu")) if given.draft else None
    loaded = load_model(ModelSource(given.model, device="cpu"))
    built = assemble(loaded, CacheSize(block_size=16, memory_bytes=512 << 20), draft=draft)
    tokenizer = Tokenizer.from_bytes((Path(given.model) / "tokenizer.json").read_bytes())
    many = {"num_speculative_tokens": given.guesses}
    configs: dict[str, SpeculativeConfig] = {}
    if draft is not None:
        configs["draft"] = SpeculativeConfig(model=given.draft, **many)
    else:
        lengths = {"prompt_lookup_min": 2, "prompt_lookup_max": 5}
        configs["ngram"] = SpeculativeConfig(method="ngram", **many, **lengths)
        # Runs are repeated, and would find their own answers.
        configs["suffix"] = SpeculativeConfig(method="suffix", suffix_decoding_max_cached_requests=0)
        configs["always"] = SpeculativeConfig(method="ngram", **many, **lengths, disable_by_batch_size=10_000)
    # As in a worker, what is learned of a step's time stays.
    ways = {"off": None} | {name: build_speculation(config, built) for name, config in configs.items()}
    for kind in KINDS:
        for batch in given.batches:
            report(built, prompts(tokenizer, kind, batch), ways, f"{kind}, batch {batch}", given.runs)


if __name__ == "__main__":
    main()
