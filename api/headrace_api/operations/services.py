"""What operations work with; wired once per process, in ``app``."""

from dataclasses import dataclass

from headrace_api.console.feed import ConsoleFeed
from headrace_api.directory import ModelDirectory
from headrace_api.dispatch import Dispatcher
from headrace_api.drain import Drain
from headrace_api.grammar.check import GrammarChecker
from headrace_api.limits import RateLimiter
from headrace_api.metrics import Metrics
from headrace_api.operations.followers import Followers
from headrace_api.prompt.build import TokenizerPool
from headrace_api.settings import ApiSettings
from headrace_api.storage import ByteStore
from headrace_api.tenants import Caller
from headrace_api.timeline import Timelines
from headrace_shared.queue.batch_book import BatchBook
from headrace_shared.queue.batch_jobs import BatchJobs
from headrace_shared.queue.dead_letters import DeadLetters
from headrace_shared.queue.file_book import FileBook
from headrace_shared.queue.requests import RequestQueue
from headrace_shared.queue.webhook_book import WebhookBook
from headrace_shared.telemetry.exposition import Exposition


@dataclass(frozen=True, slots=True)
class Services:
    """One of each."""

    settings: ApiSettings
    metrics: Metrics
    exposition: Exposition
    timelines: Timelines
    directory: ModelDirectory
    dispatcher: Dispatcher
    queue: RequestQueue
    tokenizers: TokenizerPool
    grammars: GrammarChecker
    limiter: RateLimiter
    followers: Followers
    drain: Drain
    console: ConsoleFeed
    dead_letters: DeadLetters
    files: FileBook
    store: ByteStore
    batches: BatchBook
    batch_jobs: BatchJobs
    webhooks: WebhookBook
    anyone: Caller
    """Who sends requests without a key, where none is needed."""
