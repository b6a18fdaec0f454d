"""A small model of the queue protocol: what must be true, without Redis."""

from dataclasses import dataclass, field

ACQUITTING = 8
"""Frames of one attempt after which a request is taken for harmless."""


@dataclass
class ModelRequest:
    """One request as it should be."""

    priority: int
    tenant: str
    arrival: int
    ask: str
    state: str = "Q"
    epoch: int = 0
    seq: int = 0
    lost: int = 0
    started: int = 0
    """``seq`` when its owner took it."""
    owner: str | None = None
    cancelled: bool = False
    expired: bool = False


@dataclass
class QueueModel:
    """Requests by id. Every change is one script's effect."""

    max_lost: int
    requests: dict[str, ModelRequest] = field(default_factory=dict)
    dead: set[str] = field(default_factory=set)

    def running(self, worker: str | None = None) -> list[str]:
        return [rid for rid, r in self.requests.items() if r.state == "R" and (worker is None or r.owner == worker)]

    def waiting(self) -> dict[str, ModelRequest]:
        return {rid: r for rid, r in self.requests.items() if r.state in "QO"}

    def is_suspect(self, request: ModelRequest) -> bool:
        return request.lost >= max(self.max_lost - 2, 1)

    def open_to(self, worker: str) -> int:
        """How many of those that wait a worker may take: a suspect only apart from all that are not acquitted."""
        unproven = [r for rid in self.running(worker) if (r := self.requests[rid]).seq - r.started < ACQUITTING]
        if any(self.is_suspect(request) for request in unproven):
            return 0
        ready = [request for request in self.waiting().values() if not request.expired]
        suspects = [self.rank(request) for request in ready if self.is_suspect(request)]
        if not suspects:
            return len(ready)
        before = sum(self.rank(request) < min(suspects) for request in ready)
        return before or int(not unproven)

    def rank(self, request: ModelRequest) -> tuple[int, int]:
        """Lowest priority; in it what is to be continued, then suspects, then the rest."""
        return request.priority, 2 if request.state == "Q" else int(self.is_suspect(request))

    def may_be_next(self, rid: str) -> bool:
        """Nothing of lower rank waits; first come first served within a tenant."""
        mine = self.requests[rid]
        others = self.waiting()
        if others.pop(rid, None) is None:
            return False
        for other in others.values():
            if self.rank(other) < self.rank(mine):
                return False
            same_lane = other.state == mine.state == "Q" and other.tenant == mine.tenant
            if same_lane and other.priority == mine.priority and other.arrival < mine.arrival:
                return False
        return True

    def claim(self, rid: str, worker: str, epoch: int) -> None:
        request = self.requests[rid]
        request.state, request.owner = "R", worker
        request.epoch, request.started = epoch, request.seq

    def append(self, rid: str, worker: str, epoch: int, seq: int, *, final: bool) -> int:
        """The status that the script must answer."""
        request = self.requests[rid]
        if (request.owner, request.epoch) != (worker, epoch):
            return 0
        if seq <= request.seq:
            return 3
        if request.state != "R":
            return 0
        if seq > request.seq + 1:
            return 4
        if request.cancelled and not final:
            return 2
        if request.expired and not final:
            return 5
        request.seq = seq
        if final:
            request.state = "D"
        return 1

    def unfinished(self, ask: str) -> int:
        """Of the jobs of one ask."""
        return sum(r.ask == ask and r.state != "D" for r in self.requests.values())

    def cancel(self, rid: str, *, heard: bool = False) -> int:
        """``heard``: only the unheard were to be cancelled, and somebody listens to this one."""
        request = self.requests[rid]
        if request.state == "D":
            return 0
        if heard:
            return 3
        if request.state == "R" and request.owner not in self.dead:
            request.cancelled = True
            return 2
        self.end(request)
        return 1

    def give_back(self, worker: str, *, voluntary: bool) -> int:
        """How many go back into the queue."""
        back = 0
        for rid in self.running(worker):
            request = self.requests[rid]
            request.lost += not voluntary
            request.owner = None
            if request.cancelled or request.lost >= self.max_lost:
                self.end(request)
            else:
                request.state = "O"
                back += 1
        return back

    def end(self, request: ModelRequest) -> None:
        """Somebody other than the owner writes the terminal frame."""
        request.state, request.owner = "D", None
        request.seq += 1
