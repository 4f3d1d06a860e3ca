"""A whole batch: from questions to shards, beginning where an earlier run of the same was interrupted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

from luvc_export.batch import pool
from luvc_export.batch.job import BatchJob, sha256_manifest
from luvc_export.batch.shards import RECORD, Shards, check_record
from luvc_export.batch.source import LISTING, Source, list_folder, open_source
from luvc_export.batch.vectors import RowVectors
from luvc_export.bundle.folder import load
from luvc_export.core.files.folders import make_folder
from luvc_export.core.files.safe_files import locked
from luvc_export.errors import UsageError
from luvc_export.runtime.backend_choice import choose
from luvc_export.runtime.backends import check_name

#: Model calls' worth of rows that a worker is sent at a time: of these, rows of equal plans find each other.
CALLS = 4


@dataclass(frozen=True)
class BatchProgress:
    """How far a batch is.

    Args:
        rows: Of the input.
        done: Answered, by earlier runs too.
        errors: Of these, written with an error.
        rate: Rows a second, since this run's first row; 0 before the second.
        left: Seconds to go at that rate; None where nobody knows.
    """

    rows: int
    done: int
    errors: int
    rate: float
    left: float | None


@dataclass(frozen=True)
class BatchResult:
    """What came of a batch.

    Args:
        rows: Of the input, all of them written.
        errors: Of these, rows with an error.
        resumed: Of these, rows that earlier runs had written.
        shards: Files.
        seconds: Of this run, loading included.
        rate: Rows a second of this run, since its first row.
    """

    rows: int
    errors: int
    resumed: int
    shards: int
    seconds: float
    rate: float

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**self.__dict__}


class Fleet(Protocol):
    """Who answers: gives rows of shards as they are answered, in any order, a row perhaps twice."""

    def __call__(self, job: BatchJob, source: Source, shards: list[int]) -> Iterable[pool.Answered]:
        """Raises what stops the batch; what is wrong with a row is in its answer."""


def local(workers: int = 1, program: tuple[str, ...] = pool.PROGRAM) -> Fleet:
    """Processes of this machine."""

    def fleet(job: BatchJob, source: Source, shards: list[int]) -> Iterable[pool.Answered]:
        count = max(1, min(workers, sum(map(source.size, shards))))
        threads = job.threads or max(1, (os.cpu_count() or 1) // count)
        chunk = max(1, min(CALLS * job.rows, job.shard))
        return pool.answered(replace(job, threads=threads), source, shards, count, chunk, program)

    return fleet


def chosen_here(job: BatchJob) -> str:
    """The back-end that ``auto`` takes on this machine, for ``run_batch``."""
    return choose(load(job.bundle, task=None), job.plan, job.arithmetic).name


def run_batch(
    job: BatchJob,
    fleet: Fleet | None = None,
    progress: Callable[[BatchProgress], None] = lambda done: None,
    auto: Callable[[BatchJob], str] = lambda job: "auto",
) -> BatchResult:
    """Answer what is not answered yet.

    Args:
        job: What is asked. ``job.check`` was called.
        fleet: Who answers; None for one local worker.
        progress: Told after each row.
        auto: Names the back-end where the job says ``auto``. What it named first answers all rows, whatever engines the
            bundle got since.

    Raises:
        UsageError: There are no questions, or the output folder is not this batch's, or is being written.
        OSError: The disk is full, or refuses. Every shard that is there stays valid.
        MachineError: This machine cannot answer.
    """
    started = monotonic()
    make_folder(job.output)
    with locked(job.output, wait=False):
        source = _source(job)
        identity = {**job.identity(), "questions": source.sha256, "rows": source.rows}
        took = {"took": auto(job)} if job.backend == "auto" and not (job.output / RECORD).exists() else {}
        record = check_record(job.output, identity, took, {"bundle": sha256_manifest(job.bundle)})
        job = replace(job, backend=str(record.get("took", job.backend)))
        check_name(job.backend)
        vectors = RowVectors(load(job.bundle, task=None), job.vectors, job.vectors_as) if job.embeds else None
        shards = Shards(job.output, source, vectors)
        resumed, came, first = shards.written, 0, monotonic()
        progress(BatchProgress(source.rows, resumed, shards.errors, 0.0, None))
        if shards.missing:
            with closing(_iterate((fleet or local())(job, source, list(shards.missing)))) as answers:
                for row in answers:
                    shards.add(row.number, row.id, row.answer)
                    first = monotonic() if not came else first
                    came += 1
                    rate = _rate(came, first)
                    left = (source.rows - resumed - came) / rate if rate else None
                    progress(BatchProgress(source.rows, resumed + came, shards.errors, rate, left))
        if shards.written != source.rows:
            raise AssertionError(f"{shards.written} of {source.rows} rows are written")
        rate = _rate(came, first)
        return BatchResult(source.rows, shards.errors, resumed, len(source.starts), monotonic() - started, rate)


def _iterate(answers: Iterable[pool.Answered]) -> Any:
    yield from answers


def _rate(came: int, first: float) -> float:
    spent = monotonic() - first
    return (came - 1) / spent if came > 1 and spent > 0 else 0.0


def _source(job: BatchJob) -> Source:
    """The questions; a folder's pictures are listed once, so that pictures that come later move no row."""
    if not job.source.is_dir():
        return open_source(job.source, job.shard)
    if job.output.resolve().is_relative_to(job.source.resolve()):
        raise UsageError(
            "the output is inside the folder of pictures", where=f"--output {job.output}", fix="name another folder"
        )
    listing = job.output / LISTING
    if not (job.output / RECORD).exists():  # nothing was answered from an older list
        list_folder(job.source, job.prompt, listing)
    elif not listing.exists():
        raise UsageError("the list of pictures is gone", where=str(listing), fix="name a new --output")
    return open_source(listing, job.shard, Path(job.source).absolute())
