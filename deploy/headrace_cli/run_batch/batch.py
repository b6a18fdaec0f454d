"""The run itself: so many lines at once, and their answers into the output."""

import asyncio
from collections.abc import Iterator

from headrace_cli.run_batch.answers import Answers
from headrace_cli.run_batch.asker import Asker, Reply
from headrace_cli.run_batch.lines import Line, Lines
from headrace_cli.terminal import Tally


class Batch:
    """The lines of an input that have no answer yet."""

    def __init__(self, lines: Lines, answers: Answers, tally: Tally) -> None:
        self._lines = lines
        self._answers = answers
        self._tally = tally
        self._written: asyncio.Queue[tuple[Line, Reply]] = asyncio.Queue()
        self.failed = 0

    async def run(self, asker: Asker, concurrency: int) -> None:
        """Until every line has its answer in the output. What is cancelled has written the answers that it got.

        Raises CliError when neither the server nor the output can go on.
        """
        todo = (line for line in self._lines if line.digest not in self._answers.done)
        try:
            async with asyncio.TaskGroup() as tasks:
                writer = tasks.create_task(self._write())
                clients = [tasks.create_task(self._work(todo, asker)) for _ in range(concurrency)]
                await asyncio.wait(clients)
                await self._written.join()
                writer.cancel()
        except ExceptionGroup as group:
            # One server, one disk: what else failed has failed for the same reason.
            raise _first(group) from None
        finally:
            self._write_now()

    async def _work(self, todo: Iterator[Line], asker: Asker) -> None:
        for line in todo:
            if line.problem is None:
                reply = await asker.ask(line)
            else:
                reply = Reply(None, {"code": "invalid_line", "message": line.problem})
                await asyncio.sleep(0)  # a file of nothing else must not keep everything from running
            self._written.put_nowait((line, reply))

    async def _write(self) -> None:
        """All that has come meanwhile at once: waiting for the disk takes longer than writing."""
        while True:
            ended = [await self._written.get()]
            while not self._written.empty():
                ended.append(self._written.get_nowait())
            writing = asyncio.ensure_future(asyncio.to_thread(self._answers.add, self._entries(ended)))
            try:
                await asyncio.shield(writing)
            except asyncio.CancelledError:
                await writing  # the thread goes on whether or not somebody waits
                self._count(ended)
                raise
            self._count(ended)

    def _write_now(self) -> None:
        ended = []
        while not self._written.empty():
            ended.append(self._written.get_nowait())
        if ended:
            self._answers.add(self._entries(ended))
            self._count(ended)

    def _entries(self, ended: list[tuple[Line, Reply]]) -> list[bytes]:
        return [self._answers.entry(line, reply.response, reply.error) for line, reply in ended]

    def _count(self, ended: list[tuple[Line, Reply]]) -> None:
        for line, reply in ended:
            self._answers.done.add(line.digest)
            self.failed += reply.error is not None
            self._tally.ended(well=reply.error is None)
            self._written.task_done()


def _first(group: BaseExceptionGroup[Exception]) -> Exception:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Exception)  # noqa: S101 - a group of nothing else
    return error
