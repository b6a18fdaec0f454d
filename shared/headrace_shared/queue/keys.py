"""Every Redis key and channel.

Those of one queue share the base ``hr:{<queue>}:`` and with it a hash slot; the scripts derive them from the base:

=====================  ========  ==============================================================================
``q:<prio>:<lane>``    stream    entries ``r`` request id, ``c`` cost; group ``workers``; stays till the last ack
``prios``              zset      priorities with something to hand out
``lanes:<prio>``       zset      lanes with something to hand out -> service had so far; ``~`` always first
``rest:<prio>``        zset      service had by lanes that are empty just now
``vtime:<prio>``       string    virtual time of the fair order
``cnt``                hash      ``requests`` and ``tokens`` queued, ``running``
``tenants``            hash      per lane what of it is queued: ``r<lane>`` requests, ``t<lane>`` tokens
``level:<prio>``       hash      how many came (``in``) and went (``out``) since nobody waited on this priority, their ``tokens``
``age``                zset      queued requests -> time of enqueue
``pace``               hash      how fast the queue drains, and what the order needs to remember
``idem:<digest>``      hash      idempotency key: ``rid`` and ``print`` of the body
``aff:<digest>``       string    the worker that has served a prompt with this beginning lately
``ask:<id>``           hash      ``ask`` what a client asked for, ``open`` how many of its jobs are not done
``due``                zset      queued requests with a deadline -> deadline
``req:<rid>``          hash      the request's state (``state.lua``)
``body:<rid>``         string    the encoded job, until it is done
``out:<rid>``          stream    the token log; entry ``<seq>-0``, field ``d`` is the frame
``tok:<rid>``          channel   ``<seq>|<frame>``
``wk``                 zset      workers -> end of lease
``own:<worker>``       zset      requests it holds -> time of enqueue
``nonce:<worker>``     hash      last claim and its answer
``dlq``                stream    requests that were given up
``ctl:<worker>``       channel   ids of requests to cancel
``bell``               channel   there is work
=====================  ========  ==============================================================================

All times are Redis' own, in milliseconds. The fleet's keys have the base ``hr:{fleet}:``:
``leases`` and ``queues`` (zsets), ``states`` (hash), ``card:<digest>`` and ``blob:<digest>`` (strings), and for what API
nodes tell each other ``nodes`` (hash) and ``node_ends`` (zset).
A tenant's rates are the hash ``hr:{rate:<digest>}``.

Files and batches are of the API room alone. Their keys have the base ``hr:{batch}:``:

=====================  ========  ==============================================================================
``file:<id>``          hash      ``d`` the record, ``owner``, ``bytes``, ``uses`` how many open batches read it
``files:<owner>``      zset      an owner's files -> created
``expiry``             zset      files -> when they expire
``stored``             hash      owner -> bytes of its files
``trash``              zset      paths in the store that nothing refers to -> from when on they may be deleted
``batch:<id>``         hash      a batch (``batch_book.py``)
``batches:<owner>``    zset      an owner's batches -> created
``open``               zset      batches that are not done -> end of their owner's lease
``recent``             zset      the newest batches of all owners -> created
``webhooks``           zset      batches whose end is to be told -> time of the next attempt
``segments:<id>``      hash      recorded segments of results -> what they are made of
``done:<id>``          bitmap    lines whose result is in a recorded segment
``enqueued``           hash      ``i<owner>`` items and ``t<owner>`` tokens of its batches that are not done
``totals``             hash      what was counted over all batches
=====================  ========  ==============================================================================
"""

FLEET = "hr:{fleet}:"
BATCHES = "hr:{batch}:"


def base(queue: str) -> str:
    """What every key of one queue begins with; KEYS[1] of its scripts."""
    return f"hr:{{{queue}}}:"


def tenant_lane(tenant: str) -> str:
    """The lane of a tenant; the prefix keeps it apart from the continuation lane ``~``."""
    return f"={tenant}"


def tenant_of(lane: str) -> str:
    """Inverse of ``tenant_lane``."""
    return lane[1:]


def counters(queue: str) -> str:
    return f"{base(queue)}cnt"


def workers(queue: str) -> str:
    return f"{base(queue)}wk"


def request(queue: str, request_id: str) -> str:
    return f"{base(queue)}req:{request_id}"


def body(queue: str, request_id: str) -> str:
    return f"{base(queue)}body:{request_id}"


def ask(queue: str, request_id: str) -> str:
    return f"{base(queue)}ask:{request_id}"


def affinity_name(digest: bytes) -> str:
    """What stands for a digest in ``aff:<digest>``; it is a hint, so that half of it is enough."""
    return digest[:8].hex()


def ages(queue: str) -> str:
    return f"{base(queue)}age"


def pace(queue: str) -> str:
    return f"{base(queue)}pace"


def idempotency(queue: str, digest: str) -> str:
    return f"{base(queue)}idem:{digest}"


def dead_letters(queue: str) -> str:
    return f"{base(queue)}dlq"


def token_log(queue: str, request_id: str) -> str:
    return f"{base(queue)}out:{request_id}"


def token_channel(queue: str, request_id: str) -> bytes:
    return f"{base(queue)}tok:{request_id}".encode()


def control_channel(queue: str, worker_id: str) -> bytes:
    return f"{base(queue)}ctl:{worker_id}".encode()


def bell_channel(queue: str) -> bytes:
    return f"{base(queue)}bell".encode()


def card(digest: str) -> str:
    return f"{FLEET}card:{digest}"


def blob(digest: str) -> str:
    return f"{FLEET}blob:{digest}"


def rate(digest: str) -> str:
    """What one tenant has used of its rates; a slot of its own."""
    return f"hr:{{rate:{digest}}}"


def fleet_leases() -> str:
    return f"{FLEET}leases"


def fleet_states() -> str:
    return f"{FLEET}states"


def file(file_id: str) -> str:
    return f"{BATCHES}file:{file_id}"


def files_of(owner: str) -> str:
    return f"{BATCHES}files:{owner}"


def file_expiry() -> str:
    return f"{BATCHES}expiry"


def trash() -> str:
    return f"{BATCHES}trash"


def batch(batch_id: str) -> str:
    return f"{BATCHES}batch:{batch_id}"


def batches_of(owner: str) -> str:
    return f"{BATCHES}batches:{owner}"


def open_batches() -> str:
    return f"{BATCHES}open"


def recent_batches() -> str:
    return f"{BATCHES}recent"


def segments(batch_id: str) -> str:
    return f"{BATCHES}segments:{batch_id}"


def done_lines(batch_id: str) -> str:
    return f"{BATCHES}done:{batch_id}"


def batch_totals() -> str:
    return f"{BATCHES}totals"
