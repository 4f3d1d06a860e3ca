"""Local workers: each a process with the bundle loaded once, fed a chunk of rows at a time.

A worker that dies is started again and its chunk asked row by row; a row that takes a worker with it twice becomes an
error, and no other row does.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple
from itertools import islice
from typing import Any, NamedTuple

from luvc_export.batch.answerer import Answer
from luvc_export.batch.job import BatchJob
from luvc_export.batch.source import Row, Source
from luvc_export.errors import LuvcError, MachineError
from luvc_export.runtime.confined.helpers import start_program
from luvc_export.runtime.prompt.case_lines import case_id

#: What a worker runs; measurements put their own in its place.
PROGRAM = ("-m", "luvc_export.batch.worker")
#: Times a row may take a worker with it.
TRIES = 2


class Answered(NamedTuple):
    """A row that came back."""

    number: int
    id: str | int | None
    answer: Answer


class WorkerDied(Exception):  # noqa: N818
    """A worker ended without being told to; ``code`` as ``subprocess`` has it."""

    def __init__(self, code: int) -> None:
        super().__init__(f"signal {-code}" if code < 0 else f"exit code {code}")


class Worker:
    """One process.

    Raises:
        LuvcError: What the worker said it could not do.
        WorkerDied: It said nothing.
    """

    def __init__(self, job: BatchJob, source: Source, program: Sequence[str]) -> None:
        self._child = start_program(program)
        self.ready = False
        self._first = {"job": job.to_json(), "path": str(source.path), "folder": str(source.folder)}

    def start(self) -> None:
        """Wait until it is loaded. Raises as the class."""
        if not self.ready:
            self._ask(self._first)
            self.ready = True

    def answer(self, rows: Sequence[Row]) -> list[Answered]:
        """Have rows answered. Raises as the class."""
        answers = self._ask({"rows": [astuple(row) for row in rows]})["answers"]
        return [Answered(row.number, name, Answer(**fields)) for row, (name, fields) in zip(rows, answers, strict=True)]

    def end(self) -> None:
        """End it now."""
        self._child.end()

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        try:
            reply, _ = self._child.ask(message)
        except (EOFError, OSError, ValueError):  # the pipe broke, or was closed by end()
            raise WorkerDied(self._child.process.wait()) from None
        if "failed" in reply:
            raise LuvcError.from_json(reply["failed"])
        return reply


def answered(
    job: BatchJob, source: Source, shards: Iterable[int], workers: int, chunk: int, program: Sequence[str] = PROGRAM
) -> Iterator[Answered]:
    """Rows of shards as they are answered, in no order.

    ``chunk`` rows are sent to a worker at a time; ``program``: see ``PROGRAM``.

    Raises:
        LuvcError: A worker cannot load the bundle, or this machine answers no more.
    """
    feeders = _Feeders(job, source, _chunks(source, shards, chunk), workers, program)
    threads = [threading.Thread(target=feeders.feed, daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    try:
        yield from feeders.answered(workers)
    finally:
        feeders.stop()
        for thread in threads:
            thread.join(5)


class _Feeders:
    """Threads that each start a worker, give it rows and gather its answers; rows whose worker died get another."""

    def __init__(
        self, job: BatchJob, source: Source, rows: Iterator[list[Row]], workers: int, program: Sequence[str]
    ) -> None:
        self._of_worker, self._rows = (job, source, program), rows
        self._taking, self._stopped = threading.Lock(), threading.Event()
        self._answers, self._alive = queue.Queue[Any](2 * workers), list[Worker]()

    def answered(self, running: int) -> Iterator[Answered]:
        """Answers of so many threads, until all have ended.

        Raises:
            MachineError: A worker ended before it was ready.
            LuvcError: What a worker could not do.
        """
        while running:
            item = self._answers.get()
            if item is None:
                running -= 1
            elif isinstance(item, WorkerDied):
                raise MachineError(
                    "a worker ended before it was ready", got=str(item), fix="run one question: luvc-export run"
                ) from item
            elif isinstance(item, BaseException):
                raise item
            else:
                yield from item

    def stop(self) -> None:
        """End all workers."""
        self._stopped.set()
        with self._taking:
            for worker in self._alive:
                worker.end()

    def feed(self) -> None:
        """Of one thread: give a worker rows until there are none."""
        try:
            worker = self._open_worker()
            while not self._stopped.is_set():
                with self._taking:
                    rows = next(self._rows, None)
                if rows is None:
                    break
                try:
                    self._put(worker.answer(rows))
                except WorkerDied:
                    worker = self._one_by_one(rows)
            worker.end()
            self._put(None)
        except BaseException as error:  # told to whoever iterates
            self._put(error)

    def _open_worker(self) -> Worker:
        with self._taking:
            if self._stopped.is_set():
                raise WorkerDied(0)
            worker = Worker(*self._of_worker)
            self._alive.append(worker)
        worker.start()
        return worker

    def _one_by_one(self, rows: Sequence[Row]) -> Worker:
        """A new worker, when it has answered rows that another one died with."""
        worker = self._open_worker()
        for row in rows:
            for left in reversed(range(TRIES)):
                try:
                    self._put(worker.answer([row]))
                    break
                except WorkerDied as death:
                    worker = self._open_worker()
                    if not left:
                        text = f"MachineError: the worker ended with this row: {death}"
                        self._put([Answered(row.number, case_id(row.line), Answer(error=text))])
        return worker

    def _put(self, item: Any) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Full):
                self._answers.put(item, timeout=0.2)
                return


def _chunks(source: Source, shards: Iterable[int], chunk: int) -> Iterator[list[Row]]:
    for index in shards:
        rows = source.read(index)
        while some := list(islice(rows, chunk)):
            yield some
