"""Automata of regular expressions, built where they may fail: in a process of its own, within limits.

A short expression can have an automaton of billions of states, and the libraries that work them out ahead of time
cannot be told to stop. ``python -m headrace_worker.execute.grammar.automaton`` is that process.
"""

import enum
import re
import resource
import subprocess
import sys

import msgspec

from headrace_worker.execute.grammar.backend import GrammarError
from headrace_worker.execute.grammar.vocabulary import Vocabulary

_LONGEST_S = 8
_MOST_BYTES = 2 * 1024**3
_TOO_COMPLEX = "the automaton of the regular expression is too large"


class Library(enum.StrEnum):
    """Who builds it."""

    OUTLINES = "outlines_core"
    INTEREGULAR = "interegular"


class _Task(msgspec.Struct, array_like=True):
    library: Library
    patterns: list[str]
    tokens: list[bytes] = []
    """By id; b"" for one that is no text."""
    eos_token_id: int = 0


def outlines_index(pattern: str, vocabulary: Vocabulary) -> bytes:
    """An ``outlines_core.Index`` over the vocabulary, as ``Index.from_binary`` reads it. Raises GrammarError."""
    tokens = [b"" if id_ in vocabulary.special_ids else token for id_, token in enumerate(vocabulary.tokens)]
    return _run(_Task(Library.OUTLINES, [pattern], tokens, vocabulary.eos_token_ids[0]))


def try_interegular(patterns: list[str]) -> None:
    """Raises GrammarError unless the library builds the automata of all the patterns within the limits."""
    if patterns:
        _run(_Task(Library.INTEREGULAR, patterns))


def unanchored(pattern: str) -> str:
    """A regular expression for a whole text without the anchors at its ends, which say nothing then."""
    pattern = pattern.removeprefix("^")
    escaped = re.search(r"(\\*)\$$", pattern)
    return pattern[:-1] if escaped and len(escaped[1]) % 2 == 0 else pattern


def _run(task: _Task) -> bytes:
    command = [sys.executable, "-m", __name__]
    try:
        done = subprocess.run(  # noqa: S603 our own module; what comes from a client is on stdin
            command, input=msgspec.msgpack.encode(task), capture_output=True, timeout=_LONGEST_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise GrammarError(_TOO_COMPLEX) from None
    if done.returncode == 0:
        return done.stdout
    said = done.stderr.decode(errors="replace").strip()
    # What the library refuses ends with 1; one that runs out of memory may end in any way.
    raise GrammarError(said if done.returncode == 1 and said else _TOO_COMPLEX)


def _main() -> int:
    task = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=_Task)
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, _MOST_BYTES))
    try:
        sys.stdout.buffer.write(_index(task) if task.library is Library.OUTLINES else _tried(task))
    except (MemoryError, RecursionError):
        return 2
    except Exception as error:  # noqa: BLE001 the libraries raise plain exceptions, and this process does nothing else
        sys.stderr.write(" ".join(str(error).split())[:300] or type(error).__name__)
        return 1
    return 0


def _index(task: _Task) -> bytes:
    import outlines_core

    ids: dict[bytes, list[int]] = {}
    for token_id, token in enumerate(task.tokens):
        if token:
            ids.setdefault(token, []).append(token_id)
    index = outlines_core.Index(task.patterns[0], outlines_core.Vocabulary(task.eos_token_id, ids))
    # What pickle would store: the argument of ``from_binary``.
    binary: bytes = index.__reduce__()[1][0]
    return binary


def _tried(task: _Task) -> bytes:
    import interegular

    for pattern in task.patterns:
        interegular.parse_pattern(pattern).to_fsm()
    return b""


if __name__ == "__main__":
    sys.exit(_main())
