"""A worker that knows docs/protocol.md, the Lua scripts, and nothing else of Headrace: it stands for other languages.

    python -I -S foreign_worker.py HOST PORT PASSWORD SCRIPTS_FOLDER TOKENIZER_FILE TOKEN_ID TEXT STEP_S

Imports the standard library alone, speaks RESP and MessagePack by hand, and answers every request with ``TEXT``, once
per token, until the request's ``max_tokens``.
"""

import hashlib
import pathlib
import secrets
import socket
import struct
import sys
import time

LEASE_MS = 600
FLEET = "hr:{fleet}:"


def pack(value: object) -> bytes:
    """MessagePack, of what a worker writes, each value in its shortest form and maps sorted."""
    match value:
        case None:
            return b"\xc0"
        case int() if 0 <= value < 128:
            return bytes([value])
        case int() if value < 2**8:
            return struct.pack(">BB", 0xCC, value)
        case int() if value < 2**16:
            return struct.pack(">BH", 0xCD, value)
        case int():
            return struct.pack(">BI", 0xCE, value)
        case str():
            data = value.encode()
            return (bytes([0xA0 | len(data)]) if len(data) < 32 else bytes([0xD9, len(data)])) + data
        case list():
            return bytes([0x90 | len(value)]) + b"".join(map(pack, value))
        case dict():
            pairs = [pack(key) + pack(value[key]) for key in sorted(value)]
            return bytes([0x80 | len(pairs)]) + b"".join(pairs)
    raise TypeError(value)


def unpack(data: bytes, at: int) -> tuple[object, int]:
    """One MessagePack value, and where the next one begins."""
    tag = data[at]
    at += 1
    if tag < 0x80 or tag >= 0xE0:
        return (tag if tag < 0x80 else tag - 256), at
    if tag < 0x90 or tag in (0xDE, 0xDF):
        return _map(data, *_length(data, at, tag, 0x80, 0x0F, 0xDE))
    if tag < 0xA0 or tag in (0xDC, 0xDD):
        return _array(data, *_length(data, at, tag, 0x90, 0x0F, 0xDC))
    if tag < 0xC0:
        return data[at : at + (tag & 0x1F)].decode(), at + (tag & 0x1F)
    if tag in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[tag], at
    if tag in (0xC4, 0xC5, 0xC6, 0xD9, 0xDA, 0xDB):
        size = 1 << ((tag - 0xC4) if tag < 0xD0 else (tag - 0xD9))
        length = int.from_bytes(data[at : at + size], "big")
        found = data[at + size : at + size + length]
        return (found if tag < 0xD0 else found.decode()), at + size + length
    form = {0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"} | {
        0xD0: ">b",
        0xD1: ">h",
        0xD2: ">i",
        0xD3: ">q",
    }
    size = struct.calcsize(form[tag])
    return struct.unpack(form[tag], data[at : at + size])[0], at + size


def _length(data: bytes, at: int, tag: int, short: int, mask: int, long: int) -> tuple[int, int]:
    if short <= tag <= short + mask:
        return at, tag & mask
    size = 2 if tag == long else 4
    return at + size, int.from_bytes(data[at : at + size], "big")


def _map(data: bytes, at: int, length: int) -> tuple[dict[object, object], int]:
    found = {}
    for _ in range(length):
        key, at = unpack(data, at)
        found[key], at = unpack(data, at)
    return found, at


def _array(data: bytes, at: int, length: int) -> tuple[list[object], int]:
    found = []
    for _ in range(length):
        value, at = unpack(data, at)
        found.append(value)
    return found, at


class Redis:
    """One connection. Errors come back as exceptions."""

    def __init__(self, host: str, port: int, scripts: pathlib.Path) -> None:
        self._socket = socket.create_connection((host, port))
        self._file = self._socket.makefile("rb")
        self._scripts = scripts

    def call(self, *words: object):
        encoded = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        parts = [b"*%d\r\n" % len(encoded), *(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded)]
        self._socket.sendall(b"".join(parts))
        return self._reply()

    def run(self, script: str, base: str, *arguments: object):
        alone = script in ("announce", "fleet", "queues")
        files = [f"{script}.lua"] if alone else ["state.lua", f"{script}.lua"]
        text = b"".join((self._scripts / name).read_bytes() for name in files)
        try:
            return self.call("EVALSHA", hashlib.sha1(text).hexdigest(), 1, base, *arguments)  # noqa: S324
        except LookupError:
            return self.call("EVAL", text, 1, base, *arguments)

    def _reply(self):
        line = self._file.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise (LookupError if rest.startswith(b"NOSCRIPT") else RuntimeError)(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"+":
            return rest
        length = int(rest)
        if length < 0:
            return None
        if kind == b"*":
            return [self._reply() for _ in range(length)]
        return self._file.read(length + 2)[:-2]


class Worker:
    """One request at a time."""

    def __init__(self, redis: Redis, tokenizer: bytes, token_id: int, text: str, step_s: float) -> None:
        self._redis, self._token_id, self._text, self._step_s = redis, token_id, text, step_s
        self._id = f"foreign-{secrets.token_hex(4)}"
        digest = hashlib.sha256(tokenizer).hexdigest()
        redis.call("SET", f"{FLEET}blob:{digest}", tokenizer, "PX", 86_400_000)
        self._blob = digest
        self._card = pack({"name": "foreign", "max_model_len": 512, "vocab_size": 300, "tokenizer": digest})
        self._card_digest = hashlib.blake2b(self._card, digest_size=8).hexdigest()
        self._queue = f"foreign.{self._card_digest}"
        self._base = f"hr:{{{self._queue}}}:"
        self._announced_s = 0.0

    def serve(self) -> None:
        failed = b"\x01" + pack([["x", "deadline_exceeded", "too late"]])
        cancelled = b"\x01" + pack([["x", "cancelled", "cancelled"]])
        poisoned = b"\x01" + pack([["x", "request_poisoned", "given up"]])
        while True:
            self._announce()
            self._redis.run("reap", self._base, self._id, LEASE_MS, "", 64, poisoned, cancelled, failed)
            nonce = secrets.token_hex(8)
            _, *claims = self._redis.run("claim", self._base, self._id, nonce, 1, 2**53, LEASE_MS, failed)
            for claim in claims:
                self._answer(*claim)
            time.sleep(0.01)

    def _announce(self) -> None:
        if time.monotonic() - self._announced_s < LEASE_MS / 3000:
            return
        self._announced_s = time.monotonic()
        state = pack({"worker_id": self._id, "queue": self._queue, "card_digest": self._card_digest, "state": "ready"})
        words = (self._id, LEASE_MS, state, self._card_digest, self._card, 86_400_000, self._queue, self._blob)
        missing = self._redis.run("announce", FLEET, *words)
        assert missing == [], "the blob was put before"

    def _answer(self, rid: bytes, epoch: bytes, seq: bytes, *more: bytes) -> None:
        attempt, body = int(more[3]), more[4]
        assert body[:1] == b"\x01"
        job, _ = unpack(body, 1)
        most = job.get("stopping", {}).get("max_tokens", 16)
        prompt_tokens = len(job["prompt"]) // 4
        said, last = 0, int(seq)
        for _, (_, frame) in self._redis.call("XRANGE", f"{self._base}out:{rid.decode()}", "-", "+") if last else []:
            events, _ = unpack(frame, 1)
            said += sum(len(event[2]) for event in events if event[0] == "d")
        events = [["s", self._id, attempt]]
        while said < most:
            time.sleep(self._step_s)
            self._announce()
            said += 1
            over = said == most
            events.append(["d", 0, [self._token_id], self._text, None, "length" if over else None])
            mark = "t"
            if over:
                events.append(["f", prompt_tokens, said])
                mark = f"f{prompt_tokens + said}"
            last += 1
            frame = b"\x01" + pack(events)
            status, *_ = self._redis.run("append", self._base, self._id, LEASE_MS, rid, epoch, last, mark, frame)
            if status != 1:
                assert status == 0, f"status {status} is more than this worker knows"
                return
            events = []


def main() -> None:
    host, port, password, scripts, tokenizer, token_id, text, step_s = sys.argv[1:]
    redis = Redis(host, int(port), pathlib.Path(scripts))
    if password:
        redis.call("AUTH", password)
    Worker(redis, pathlib.Path(tokenizer).read_bytes(), int(token_id), text, float(step_s)).serve()


if __name__ == "__main__":
    main()
