"""What long prompts do to those who are being answered beside them, and what sparing those costs the prompts.

    python tests/benchmarks/paced_prefill.py [--target-ms 200] [--prompts 2] [--length 4000] [--chats 2]

Valkey, an API node and a worker with the demo model, first without a target for the step, then with it. Prints the gaps
between the tokens of the chats while the prompts are computed, and how fast those are; gates nothing.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from itertools import count, pairwise
from pathlib import Path
from statistics import median

import uvloop

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from fleet import ApiProcess, fleet_on
from timed_stream import TimedStream

from headrace_cli import demo_model
from headrace_cli.embedded_redis import EmbeddedRedis
from headrace_cli.terminal import Terminal

NAME = "demo"
_numbers = count(1)


def a_prompt(tokens: int) -> list[int]:
    """One that nobody has sent before."""
    draw = random.Random(next(_numbers))
    return [draw.randrange(100, 40_000) for _ in range(tokens)]


async def measure(api: ApiProcess, given: argparse.Namespace) -> tuple[list[float], float, float]:
    """Gaps of the chats (ms), and tokens of prompts per second beside them and with nobody beside them."""

    async def prompts() -> float:
        begin = time.monotonic()
        streams = [await TimedStream.open(api.port, 1, 1, NAME, a_prompt(given.length)) for _ in range(given.prompts)]
        last = max([answer.came_s[0] for answer in [await stream.answer() for stream in streams]])
        return given.prompts * given.length / (last - begin)

    # The worker learns what its steps cost.
    await (await TimedStream.open(api.port, 1, 20, NAME, a_prompt(600))).answer()
    alone = await prompts()
    chats = [await TimedStream.open(api.port, i, given.tokens, NAME, a_prompt(64)) for i in range(given.chats)]
    await asyncio.sleep(3)
    begin = time.monotonic()
    beside = await prompts()
    end = time.monotonic()
    answers = [await chat.answer() for chat in chats]
    gaps = [
        (later - earlier) * 1000
        for answer in answers
        for earlier, later in pairwise(answer.came_s)
        if begin < later < end
    ]
    return sorted(gaps), beside, alone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target-ms", type=float, default=200.0)
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--length", type=int, default=4000)
    parser.add_argument("--chats", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=400, help="that each chat is answered with")
    given = parser.parse_args()
    model = demo_model.ensure(Terminal())
    for target_ms in (0.0, given.target_ms):
        with (
            tempfile.TemporaryDirectory() as folder,
            EmbeddedRedis(Path(folder) / "valkey") as server,
            fleet_on(server.url) as fleet,
        ):
            # No larger than needed: memory that was never touched has to be found by the kernel in the middle of a step.
            settings = {"served_model_name": NAME, "kv_cache_memory": "440MiB", "lease_ms": 3000}
            fleet.worker(model=model, engine="torch", target_step_ms=target_ms, **settings)
            api = fleet.api()
            api.wait_until_ready(timeout_s=120)
            gaps, beside, alone = uvloop.run(measure(api, given))
        print(
            f"target {target_ms:g} ms: gaps between tokens median {median(gaps):.0f} ms, "
            f"p95 {gaps[int(len(gaps) * 0.95)]:.0f} ms, most {gaps[-1]:.0f} ms; prompts {beside:.0f} tokens/s beside "
            f"{given.chats} chats, {alone:.0f} with nobody beside them ({beside / alone:.2f}x)",
            flush=True,
        )


if __name__ == "__main__":
    main()
