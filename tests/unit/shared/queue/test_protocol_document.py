"""docs/protocol.md names everything that crosses the queue, and its example bytes are the real ones."""

import re
from pathlib import Path

import pytest

from headrace_shared.protocol.ask import Ask
from headrace_shared.protocol.codec import decode_frame, decode_job, encode_frame, encode_job
from headrace_shared.protocol.event import Event
from headrace_shared.protocol.job import GenerateJob, JobHeader
from headrace_shared.protocol.sampling import (
    BeamSpec,
    ProcessorCall,
    RepetitionSpec,
    SamplingSpec,
    StoppingSpec,
    ThinkingSpec,
)
from headrace_shared.queue import keys, scripts
from headrace_shared.queue.presence import WorkerState
from headrace_shared.queue.scripts import Script

DOCUMENT = (Path(__file__).parents[4] / "docs" / "protocol.md").read_text()
SCRIPTS = {path.stem: path.read_text() for path in Path(scripts.__file__).parent.glob("*.lua")}


def bytes_in(block: str) -> list[bytes]:
    """The hexadecimal columns of a code block; each version byte begins another example."""
    columns = [re.split(r"\s{2,}(?=[\"\w]*[^0-9a-f\s])", line, maxsplit=1)[0] for line in block.splitlines()]
    examples = re.split(r"\n(?=01\b)", "\n".join(columns))
    return [bytes.fromhex(example) for example in examples]


def examples() -> list[bytes]:
    blocks = re.findall(r"^```\n(01 .*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    return [data for block in blocks for data in bytes_in(block.rstrip())]


def test_every_key_is_named() -> None:
    names = re.findall(r"^``([^`]+)``", keys.__doc__ or "", re.MULTILINE)
    assert len(names) > 15
    fleet = ["leases", "queues", "states", "nodes", "node_ends", "card:<digest>", "blob:<digest>"]
    assert [name for name in (*names, *fleet) if f"| `{name}` |" not in DOCUMENT] == []
    assert keys.FLEET in DOCUMENT


def test_every_key_in_the_scripts_is_listed() -> None:
    source = "\n".join(SCRIPTS[script] for script in SCRIPTS if script not in ("announce", "fleet", "queues", "nodes"))
    used = set(re.findall(r"BASE \.\. '([a-z]+)", source))
    listed = {re.split(r"[:<]", name)[0] for name in re.findall(r"^``([^`]+)``", keys.__doc__ or "", re.MULTILINE)}
    assert used <= listed


def test_every_field_of_a_request_is_named() -> None:
    source = "\n".join(SCRIPTS.values())
    calls = re.findall(r"'HSET', (?:key|request_key\(rid\)), ([^)]*)\)", source)
    fields = {field for call in calls for field in re.findall(r"'([a-z]{2,})'", call)}
    assert {"state", "cancel", "finished"} <= fields
    assert [field for field in fields if f"`{field}`" not in DOCUMENT] == []


@pytest.mark.parametrize("script", Script)
def test_every_script_has_a_section_with_its_arguments(script: Script) -> None:
    [section] = re.findall(rf"^### {script}\n(.*?)(?=^##|\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    arguments = re.search(r"-- (?:.*)ARGV: ([^\n]*)", SCRIPTS[script])
    named = "" if arguments is None else re.sub(r"\(.*?\)", "", arguments[1].partition(", then")[0])
    for name in re.findall(r"[a-z_]+", named):
        assert name in section, name


def test_every_field_of_a_message_is_named() -> None:
    parts = (BeamSpec, ProcessorCall, RepetitionSpec, SamplingSpec, StoppingSpec, ThinkingSpec)
    structs = (Ask, GenerateJob, JobHeader, *parts, WorkerState, *Event.__args__)
    missing = [f for struct in structs for f in struct.__struct_fields__ if not re.search(rf"\b{f}\b", DOCUMENT)]
    assert missing == []


def test_the_example_bytes_are_what_is_sent() -> None:
    job, *frames = examples()
    assert encode_job(decode_job(job)) == job
    assert decode_job(job).header.request_id == "r1"
    assert len(frames) == 4
    for frame in frames:
        assert encode_frame(decode_frame(frame)) == frame
