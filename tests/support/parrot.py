"""A model that says what it is told to: python tests/support/parrot.py REDIS_URL

Of a last message ``... Say: TEXT`` it says TEXT, of a tool's result ``It is RESULT.``, and to anything else hello. So a
test decides what a model would have written, and everything around the model is real.
"""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from scripted_worker import Frames, ScriptedWorker, running_worker, say

from headrace_shared.protocol.codec import unpack_ids
from headrace_shared.queue.claims import Claim

NAME = "parrot"


def start(redis_url: str) -> "subprocess.Popen[bytes]":
    """In a process of its own, for clients that block theirs."""
    support = str(Path(__file__).parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([support, *sys.path])}
    return subprocess.Popen([sys.executable, __file__, redis_url], env=environment)


async def repeat(worker: ScriptedWorker, claim: Claim) -> Frames:
    """The script."""
    prompt = worker.text_of(unpack_ids(claim.job.prompt))
    role, _, said = prompt.rpartition("<|assistant|>")[0].rpartition("<|")[2].partition("|>")
    said = said.removesuffix("\n")
    _, told, text = said.partition("Say: ")
    answer = f"It is {said}." if role == "tool" else text if told else "Hello!"
    async for events in say(claim.job, answer):
        yield events


async def main(redis_url: str) -> None:
    card = {"tool_parser": "hermes", "reasoning_parser": "qwen3", "grammar_backends": ("xgrammar", "guidance")}
    async with running_worker(redis_url, NAME, repeat, max_model_len=4096, **card):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
