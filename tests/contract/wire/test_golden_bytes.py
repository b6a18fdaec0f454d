"""The bytes of every message, as version 1 writes them. A change here is a change of the protocol."""

import msgspec
import pytest

from headrace_shared.errors import ErrorCode
from headrace_shared.protocol.codec import (
    PROTOCOL_VERSION,
    ProtocolVersionError,
    decode_frame,
    decode_job,
    encode_frame,
    encode_job,
    pack_ids,
    unpack_ids,
)
from headrace_shared.protocol.event import (
    Delta,
    Event,
    Failed,
    Finished,
    FinishReason,
    PromptScored,
    Started,
    TokenLogprob,
    TopLogprob,
)
from headrace_shared.protocol.grammar import GrammarBackend, GrammarKind, GrammarSpec
from headrace_shared.protocol.job import GenerateJob, JobHeader
from headrace_shared.protocol.sampling import (
    BeamSpec,
    ProcessorCall,
    RepetitionSpec,
    SamplingSpec,
    StoppingSpec,
    ThinkingSpec,
)

MINIMAL = GenerateJob(JobHeader("r1", "m.1"), pack_ids([1, 70000]))
FULL = GenerateJob(
    JobHeader("r2", "m.1", -5, "ann", 300, "00-aa-bb-01", "k=v"),
    pack_ids([]),
    3,
    SamplingSpec(7, 0.5, 0.25, 40, 0.125, 1.5, -1.5, 1.25, {5: -1.0}, (1, 2), ((3, 4),), 2, 1),
    StoppingSpec(64, 2, ("\n\n",), (0,), True, True, False, False),
)
CONSTRAINED = GenerateJob(
    JobHeader("r3", "m.1"),
    pack_ids([]),
    sampling=SamplingSpec(
        grammar=GrammarSpec(GrammarKind.JSON_SCHEMA, "{}", GrammarBackend.GUIDANCE, "[ ]*", True, "</think>")
    ),
)
THINKING = GenerateJob(
    JobHeader("r4", "m.1"),
    pack_ids([]),
    sampling=SamplingSpec(
        thinking=ThinkingSpec(budget_tokens=9, end_ids=(7, 8), ends=("</think>",), starts=("<think>",), opened=True)
    ),
)
BEAMS = GenerateJob(JobHeader("r5", "m.1"), pack_ids([]), 2, SamplingSpec(beams=BeamSpec(4, 0.5)))
EXTRAS = GenerateJob(
    JobHeader("r6", "m.1"),
    pack_ids([]),
    sampling=SamplingSpec(
        logits_processors=(ProcessorCall("a.b", True, (1,), {"k": [2.5]}), ProcessorCall("a.c")),
        logprobs=0,
        logprob_token_ids=(5, 6),
    ),
    stopping=StoppingSpec(repetition=RepetitionSpec(8, 3, 2)),
)
BACKGROUND = GenerateJob(JobHeader("r7", "m.1", background=True), pack_ids([]))
JOBS = {
    "minimal": (
        MINIMAL,
        "0183a474797065a867656e6572617465a668656164657282aa726571756573745f6964a27231a57175657565a36d2e31a670726f6d7074c4080100000070110100",
    ),
    "full": (
        FULL,
        "0186a474797065a867656e6572617465a668656164657287aa726571756573745f6964a27232a57175657565a36d2e31a87072696f72697479fba674656e616e74a3616e6eab636f73745f746f6b656e73cd012cab7472616365706172656e74ab30302d61612d62622d3031aa74726163657374617465a36b3d76a670726f6d7074c400a16e03a873616d706c696e67de000da47365656407ab74656d7065726174757265cb3fe0000000000000a5746f705f70cb3fd0000000000000a5746f705f6b28a56d696e5f70cb3fc0000000000000b070726573656e63655f70656e616c7479cb3ff8000000000000b16672657175656e63795f70656e616c7479cbbff8000000000000b272657065746974696f6e5f70656e616c7479cb3ff4000000000000aa6c6f6769745f626961738105cbbff0000000000000b1616c6c6f7765645f746f6b656e5f696473920102a96261645f776f72647391920304a86c6f6770726f627302af70726f6d70745f6c6f6770726f627301a873746f7070696e6788aa6d61785f746f6b656e7340aa6d696e5f746f6b656e7302a473746f7091a20a0aae73746f705f746f6b656e5f6964739100aa69676e6f72655f656f73c3ba696e636c7564655f73746f705f7374725f696e5f6f7574707574c3b3736b69705f7370656369616c5f746f6b656e73c2bd7370616365735f6265747765656e5f7370656369616c5f746f6b656e73c2",
    ),
    "constrained": (
        CONSTRAINED,
        "0184a474797065a867656e6572617465a668656164657282aa726571756573745f6964a27233a57175657565a36d2e31a670726f6d7074c400a873616d706c696e67de0001a76772616d6d617286a46b696e64ab6a736f6e5f736368656d61a6736f75726365a27b7da76261636b656e64a867756964616e6365aa77686974657370616365a45b205d2aa7636f6d70616374c3a56166746572a83c2f7468696e6b3e",
    ),
    "thinking": (
        THINKING,
        "0184a474797065a867656e6572617465a668656164657282aa726571756573745f6964a27234a57175657565a36d2e31a670726f6d7074c400a873616d706c696e67de0001a87468696e6b696e6785ad6275646765745f746f6b656e7309a7656e645f696473920708a4656e647391a83c2f7468696e6b3ea673746172747391a73c7468696e6b3ea66f70656e6564c3",
    ),
    "beams": (
        BEAMS,
        "0185a474797065a867656e6572617465a668656164657282aa726571756573745f6964a27235a57175657565a36d2e31a670726f6d7074c400a16e02a873616d706c696e67de0001a56265616d7382a5776964746804ae6c656e6774685f70656e616c7479cb3fe0000000000000",
    ),
    "extras": (
        EXTRAS,
        "0185a474797065a867656e6572617465a668656164657282aa726571756573745f6964a27236a57175657565a36d2e31a670726f6d7074c400a873616d706c696e67de0003a86c6f6770726f627300b16c6f676974735f70726f636573736f72739284a87175616c6e616d65a3612e62a56275696c64c3a4617267739101a66b776172677381a16b91cb400400000000000081a87175616c6e616d65a3612e63b16c6f6770726f625f746f6b656e5f696473920506a873746f7070696e6781aa72657065746974696f6e83b26d61785f7061747465726e5f746f6b656e7308a96d696e5f636f756e7403b26d696e5f7061747465726e5f746f6b656e7302",
    ),
    "background": (
        BACKGROUND,
        "0183a474797065a867656e6572617465a668656164657283aa726571756573745f6964a27237a57175657565a36d2e31aa6261636b67726f756e64c3a670726f6d7074c400",
    ),
}
FRAMES: dict[str, tuple[list[Event], str]] = {
    "started": ([Started("w1", 2, 1.5)], "019195a173a2773102cb3ff8000000000000c0"),
    "delta": ([Delta(0, [1, 70000], "hé")], "019197a164009201ce00011170a368c3a9c0c0c0"),
    "delta with everything": (
        [Delta(1, [9], "", [TokenLogprob(9, -0.5, 2, [TopLogprob(8, -0.25, 1)])], FinishReason.STOP, "\n\n")],
        "019197a164019109a0919409cbbfe000000000000002919308cbbfd000000000000001a473746f70a20a0a",
    ),
    "delta stopped by a token": (
        [Delta(0, [2], "", None, FinishReason.LENGTH, 2)],
        "019197a164009102a0c0a66c656e67746802",
    ),
    "prompt scored": ([PromptScored([None, TokenLogprob(4, -1.0, 1)])], "019192a17092c09404cbbff00000000000000190"),
    "finished": (
        [Delta(0, [], "", None, FinishReason.ABORT), Finished(3, 2, 1, 0.5, 1.5, 2.5)],
        "019297a1640090a0c0a561626f7274c097a166030201cb3fe0000000000000cb3ff8000000000000cb4004000000000000",
    ),
    "failed": (
        [Failed(ErrorCode.INVALID_REQUEST, "no", "prompt")],
        "019194a178af696e76616c69645f72657175657374a26e6fa670726f6d7074",
    ),
    "empty": ([], "0190"),
}


@pytest.mark.parametrize("name", JOBS)
def test_a_job_has_these_bytes(name: str) -> None:
    job, golden = JOBS[name]
    assert encode_job(job).hex() == golden
    assert decode_job(bytes.fromhex(golden)) == job


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_has_these_bytes(name: str) -> None:
    events, golden = FRAMES[name]
    assert encode_frame(events).hex() == golden
    assert decode_frame(bytes.fromhex(golden)) == events


def test_every_kind_of_event_has_golden_bytes() -> None:
    covered = {type(event) for events, _ in FRAMES.values() for event in events}
    assert covered == set(Event.__args__)


def test_fields_of_a_newer_neighbour_are_skipped() -> None:
    [tag, *fields] = msgspec.msgpack.decode(encode_frame([Failed(ErrorCode.INTERNAL, "no")])[1:])[0]
    newer = bytes([PROTOCOL_VERSION]) + msgspec.msgpack.encode([[tag, *fields, "future"]])
    assert decode_frame(newer) == [Failed(ErrorCode.INTERNAL, "no")]
    job = msgspec.msgpack.decode(encode_job(MINIMAL)[1:]) | {"future": [1]}
    assert decode_job(bytes([PROTOCOL_VERSION]) + msgspec.msgpack.encode(job)) == MINIMAL


@pytest.mark.parametrize("data", [b"", b"\x02\x90", b"\x00"])
def test_another_version_is_named_not_guessed(data: bytes) -> None:
    for decode in (decode_job, decode_frame):
        with pytest.raises(ProtocolVersionError):
            decode(data)


def test_token_ids_are_little_endian() -> None:
    assert pack_ids([1, 0x01020304]).hex() == "0100000004030201"
    assert unpack_ids(bytes.fromhex("0100000004030201")) == [1, 0x01020304]
