"""ModelDirectory: which models can be asked for now, and what it takes to write prompts for them."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from headrace_api.prompt.build import special_tokens
from headrace_api.prompt.template import ChatTemplate
from headrace_shared.clock import mono_s
from headrace_shared.errors import HeadraceError, InvalidRequestError, ModelNotFoundError, UnavailableError
from headrace_shared.model_card import ModelCard
from headrace_shared.parse.reasoning import ReasoningKind
from headrace_shared.parse.selection import NO_PARSER, choose_reasoning_parser, choose_tool_parser
from headrace_shared.parse.special_tokens import SpecialTokens
from headrace_shared.parse.tools.registry import ToolKind
from headrace_shared.queue.blobs import BlobStore
from headrace_shared.queue.presence import Fleet, LiveModel, Presence, WorkerState
from headrace_shared.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)

POLL_S = 0.5
_RETRY_LOADING_S = 5.0
_DEPARTED_KEPT = 4
"""Models without workers that stay loaded for those who come back for an answer."""
_RECENTLY_S = 30.0
"""A model that vanished less than this ago is said to be away for now, not unknown: its worker may be restarting."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A card, and what its blobs hold."""

    card: ModelCard
    tokenizer: Tokenizer
    template: ChatTemplate | None
    special_tokens: SpecialTokens
    """Of the tokenizer."""
    tool_template: ChatTemplate | None = None
    """For conversations with tools, where the model has one of its own for them."""
    tools: ToolKind | None = None
    """How the model calls tools; None: in no known way."""
    reasoning: ReasoningKind | None = None
    """How the model marks its thoughts; None: it has none that are known."""

    def template_for(self, *, tools: bool) -> ChatTemplate | None:
        """The one for a conversation with tools, or without."""
        return self.tool_template if tools and self.tool_template is not None else self.template


@dataclass(frozen=True, slots=True)
class Claimant:
    """One of the cards that claim a name."""

    card_digest: str
    workers: int
    chosen: bool


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A name that can be asked for. ``conflict``: all its claimants, when there is more than one."""

    name: str
    model: ServedModel
    created_s: int
    workers: tuple[WorkerState, ...]
    """Of the chosen card."""
    conflict: tuple[Claimant, ...]
    leases_ms: Mapping[str, int] = field(default_factory=dict)
    """What was left of each worker's lease when they were looked at last."""

    @property
    def slots(self) -> int:
        """Sequences that its workers can run at once."""
        return sum(worker.max_num_seqs for worker in self.workers)


@dataclass(frozen=True, slots=True)
class DirectoryState:
    """For readiness: what is there, and in words what is missing."""

    redis: bool
    models: list[ListedModel]
    missing: list[str]


class ModelDirectory:
    """Follows the fleet by polling; reading it never waits."""

    def __init__(self, presence: Presence, blobs: BlobStore) -> None:
        self._presence = presence
        self._blobs = blobs
        self._redis_up = False
        self._loaded: dict[str, ServedModel] = {}
        self._failed: dict[str, tuple[float, str]] = {}
        self._listed: dict[str, ListedModel] = {}
        self._last_seen_s: dict[str, float] = {}
        self._live_queues: frozenset[str] = frozenset()
        self._not_ready: list[str] = []
        self._unfit: dict[str, str] = {}
        """Why models that have workers cannot be served here, by name."""
        self._told_conflicts: set[tuple[str, tuple[str, ...]]] = set()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Look once, then go on looking in the background. Does not fail when Redis is away."""
        await self._poll()
        self._task = asyncio.create_task(self._follow(), name="model-directory")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def resolve(self, name: str | None) -> ServedModel:
        """The model that ``name`` means; None means the only one there is.

        Raises ModelNotFoundError that lists the names there are, UnavailableError while the model
        is only away for the moment or Redis has not told anything, InvalidRequestError when no name
        was given but several models are served.
        """
        if name is None:
            return self._only_one()
        listed = self._listed.get(name)
        if listed is not None:
            return listed.model
        if not self._redis_up:
            raise UnavailableError("The queue cannot be reached; try again soon.")
        if self.seen_lately(name):
            why = f": {self._unfit[name]}" if name in self._unfit else ""
            raise UnavailableError(f"No worker of the model {name[:80]!r} is ready at the moment{why}; try again soon.")
        raise ModelNotFoundError(f"The model {name[:80]!r} does not exist. {self._names_in_words()}", param="model")

    async def of_queue(self, queue: str) -> ServedModel:
        """The model whose requests travel on that queue, even if no worker serves it any more.

        Raises UnavailableError when it was served too long ago, or Redis is away.
        """
        digest = queue.rpartition(".")[2]
        if digest not in self._loaded:
            card = await self._presence.card(digest)
            if card is not None:
                await self._load(card)
        if digest not in self._loaded:
            raise UnavailableError("The model of this request cannot be loaded any more.")
        return self._loaded[digest]

    async def card_of(self, queue: str) -> ModelCard | None:
        """The card whose requests travel on that queue; None when it was announced too long ago. Raises UnavailableError."""
        digest = queue.rpartition(".")[2]
        known = self._loaded.get(digest)
        return known.card if known is not None else await self._presence.card(digest)

    async def queues(self) -> list[str]:
        """Every queue that may hold requests. Raises UnavailableError."""
        return await self._presence.queues()

    def listed(self) -> list[ListedModel]:
        """Every name that can be asked for, aliases included."""
        return list(self._listed.values())

    def find(self, name: str) -> ListedModel:
        """One of ``listed``. Raises as ``resolve`` does."""
        self.resolve(name)
        return self._listed[name]

    def has_workers(self, queue: str) -> bool:
        """Whether any worker, ready or not, reads that queue. True while Redis is away: nobody knows then."""
        return not self._redis_up or queue in self._live_queues

    def state(self) -> DirectoryState:
        missing = list(self._not_ready)
        if not self._redis_up:
            missing.append("Redis cannot be reached")
        elif not self._listed and not missing:
            missing.append("no worker is alive")
        return DirectoryState(self._redis_up, self.listed(), missing)

    def _only_one(self) -> ServedModel:
        models = {listed.model.card.digest: listed.model for listed in self._listed.values()}
        if len(models) == 1:
            return next(iter(models.values()))
        if models:
            raise InvalidRequestError(f"model: is required. {self._names_in_words()}", param="model")
        raise UnavailableError("No model is served at the moment; try again soon.")

    def _names_in_words(self) -> str:
        names = ", ".join(repr(name) for name in sorted(self._listed)[:20])
        return f"Models served: {names}." if names else "No model is served at the moment."

    def seen_lately(self, name: str) -> bool:
        """Whether a worker has announced that name within some minutes."""
        return mono_s() - self._last_seen_s.get(name, -_RECENTLY_S) < _RECENTLY_S

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            await self._poll()

    async def _poll(self) -> None:
        try:
            fleet = await self._presence.fleet()
            await self._load_new(fleet)
        except UnavailableError as error:
            if self._redis_up:
                log.warning("Redis is away", extra={"reason": error.message})
            self._redis_up = False
        except Exception:
            # The follower must outlive whatever a strange card does; the next look may succeed.
            log.exception("model directory cannot be refreshed")
        else:
            self._redis_up = True
            self._take(fleet)

    async def _load_new(self, fleet: Fleet) -> None:
        digests = {live.card.digest for live in fleet.models}
        departed = [digest for digest in self._loaded if digest not in digests]
        for digest in departed[:-_DEPARTED_KEPT]:
            del self._loaded[digest]
        for live in fleet.models:
            digest = live.card.digest
            failed_s, _ = self._failed.get(digest, (-_RETRY_LOADING_S, ""))
            if digest not in self._loaded and mono_s() - failed_s >= _RETRY_LOADING_S:
                await self._load(live.card)

    async def _load(self, card: ModelCard) -> None:
        try:
            blobs = {digest: await self._blobs.get(digest) for digest in _digests(card)}
            found = {digest: blob for digest, blob in blobs.items() if blob is not None}
            if len(found) < len(blobs):
                raise ValueError("its tokenizer or chat template is not in Redis")
            self._loaded[card.digest] = await asyncio.to_thread(_build, card, found)
            self._failed.pop(card.digest, None)
            log.info("model can be served", extra={"model": card.name, "card": card.digest})
        except (ValueError, HeadraceError) as error:
            self._failed[card.digest] = (mono_s(), str(error))
            log.error("model cannot be served", extra={"model": card.name, "card": card.digest, "reason": str(error)})

    def _take(self, fleet: Fleet) -> None:
        claims: dict[str, list[LiveModel]] = {}
        for live in fleet.models:
            for name in live.card.names:
                claims.setdefault(name, []).append(live)
        listed = {}
        self._not_ready = []
        self._unfit = {}
        for name, claimants in claims.items():
            self._last_seen_s[name] = mono_s()
            chosen = self._choose(claimants)
            if chosen is not None:
                listed[name] = self._list(name, chosen, claimants)
            else:
                self._tell_why_not_ready(name, claimants)
        self._listed = listed
        self._live_queues = frozenset(live.card.queue for live in fleet.models)
        self._last_seen_s = {name: seen_s for name, seen_s in self._last_seen_s.items() if self.seen_lately(name)}

    def _choose(self, claimants: Sequence[LiveModel]) -> LiveModel | None:
        """Of the cards with a ready worker the one with most of them; of equals the one that was there first."""
        ready = [live for live in claimants if live.card.digest in self._loaded and _ready_workers(live)]
        return max(ready, key=lambda live: (_ready_workers(live), -_started_ms(live)), default=None)

    def _list(self, name: str, chosen: LiveModel, claimants: Sequence[LiveModel]) -> ListedModel:
        conflict: tuple[Claimant, ...] = ()
        if len(claimants) > 1:
            conflict = tuple(Claimant(live.card.digest, len(live.workers), chosen=live is chosen) for live in claimants)
            self._tell_once(name, conflict)
        model = self._loaded[chosen.card.digest]
        return ListedModel(name, model, _started_ms(chosen) // 1000, tuple(chosen.workers), conflict, chosen.leases_ms)

    def _tell_once(self, name: str, conflict: Sequence[Claimant]) -> None:
        told = (name, tuple(sorted(claimant.card_digest for claimant in conflict)))
        if told not in self._told_conflicts:
            self._told_conflicts.add(told)
            log.error("workers announce different cards for one model name", extra={"model": name, "cards": told[1]})

    def _tell_why_not_ready(self, name: str, claimants: Sequence[LiveModel]) -> None:
        reasons = [self._failed[live.card.digest][1] for live in claimants if live.card.digest in self._failed]
        if reasons:
            self._unfit[name] = reasons[0]
        states = sorted({worker.state for live in claimants for worker in live.workers})
        self._not_ready.append(f"model {name!r}: {reasons[0] if reasons else 'its workers are ' + ', '.join(states)}")


def _digests(card: ModelCard) -> list[str]:
    return [digest for digest in (card.tokenizer, card.chat_template, card.tool_template) if digest is not None]


def _build(card: ModelCard, blobs: Mapping[str, bytes]) -> ServedModel:
    tokens = special_tokens(card)
    tokenizer = Tokenizer.from_bytes(
        blobs[card.tokenizer],
        add_bos_token=card.add_bos_token,
        bos_token=card.bos_token,
        special_tokens=list(tokens.values()),
    )
    sources = [blobs[digest].decode() for digest in (card.tool_template, card.chat_template) if digest is not None]
    return ServedModel(
        card=card,
        tokenizer=tokenizer,
        special_tokens=SpecialTokens(tokenizer.special_texts),
        template=ChatTemplate(blobs[card.chat_template].decode(), tokens) if card.chat_template else None,
        tool_template=ChatTemplate(blobs[card.tool_template].decode(), tokens) if card.tool_template else None,
        tools=choose_tool_parser(card.tool_parser or NO_PARSER, sources),
        reasoning=choose_reasoning_parser(card.reasoning_parser or NO_PARSER, sources),
    )


def _ready_workers(live: LiveModel) -> int:
    return sum(worker.state == "ready" for worker in live.workers)


def _started_ms(live: LiveModel) -> int:
    return min(worker.started_ms for worker in live.workers)
