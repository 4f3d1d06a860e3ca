"""``luvc-export batch`` on a cluster: Ray Data moves rows and restarts what dies, this process writes the shards.

What goes through Ray is where each shard's lines begin; nodes read them. So the questions, the pictures and the bundle
must have the same paths on every node.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import ray
import ray.data
import ray.exceptions

from luvc_export.batch.answerer import Answer, Answerer
from luvc_export.batch.job import BatchJob
from luvc_export.batch.pool import Answered
from luvc_export.batch.run import CALLS, Fleet
from luvc_export.batch.source import Row, Source, read_rows
from luvc_export.errors import LuvcError, MachineError, UsageError
from luvc_export.ray.actor import RESTARTS, TASK_RETRIES, placed

#: Blocks that the shards are dealt to: each is one task.
_BLOCKS = 1000


def cluster(address: str, actors: int = 1, num_cpus: float = 1.0, num_gpus: float = 0.0) -> Fleet:
    """Actors of a Ray cluster.

    Args:
        address: Of the cluster (``auto``, ``HOST:PORT``, ``ray://HOST:PORT``), or ``local``.
        actors: How many; each loads the bundle once.
        num_cpus: CPUs of each, and threads where the job says nothing.
        num_gpus: GPUs of each.

    Raises:
        MachineError: There is no cluster at that address.
        UsageError: The cluster has not what one actor asks for.
    """
    if not ray.is_initialized():
        try:
            ray.init(address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise MachineError(
                "there is no Ray cluster to run on", where=f"--ray {address}", got=str(error).splitlines()[0]
            ) from error
        atexit.register(_shut_down)
    has = ray.cluster_resources()
    for name, wanted, flag in (("CPU", num_cpus, "--num-cpus"), ("GPU", num_gpus, "--num-gpus")):
        if wanted > has.get(name, 0.0):
            raise UsageError("the cluster has fewer", where=f"{flag} {wanted:g}", got=f"{has.get(name, 0.0):g} in all")

    def fleet(job: BatchJob, source: Source, shards: list[int]) -> Iterable[Answered]:
        places = [(source.starts[at], source.lines[at], at * source.shard, source.size(at)) for at in shards]
        items = [dict(zip(("start", "where", "first", "count"), place, strict=True)) for place in places]
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        arguments = {**job.to_json(), "threads": job.threads or max(1, int(num_cpus))}
        dataset = ray.data.from_items(items, override_num_blocks=min(len(items), _BLOCKS))
        # The reader asks for no CPU: actors may hold them all.
        read = reader(str(source.path.absolute()))
        rows = dataset.flat_map(read, num_cpus=0, compute=ray.data.TaskPoolStrategy(size=1))
        answers = rows.map_batches(
            LineAnswerer,
            fn_constructor_args=(arguments, str(source.path), str(source.folder)),
            batch_size=CALLS * job.rows,
            **placed(actors, num_cpus, num_gpus),
        )
        return _collected(answers)

    return fleet


def reader(path: str) -> Callable[[dict[str, Any]], Iterator[dict[str, Any]]]:
    """What reads the rows of a shard, on a node."""

    def read(shard: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for row in read_rows(Path(path), shard["start"], shard["where"], shard["first"], shard["count"]):
            yield {"number": row.number, "line": row.line, "where": row.where}

    return read


class LineAnswerer:
    """What ``Answerer`` does, for rows of a file: their lines in, answers as JSON out."""

    def __init__(self, job: dict[str, Any], path: str, folder: str) -> None:
        self._path, self._folder = Path(path), Path(folder)
        self._answerer = Answerer.of(BatchJob.from_json(job))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Answer rows."""
        rows = [
            Row(int(number), str(line), int(where))
            for number, line, where in zip(batch["number"], batch["line"], batch["where"], strict=True)
        ]
        answers = self._answerer.answer_lines(rows, self._path, self._folder)
        lines = [json.dumps([name, answer.to_json()]) for name, answer in answers]
        return {"number": [row.number for row in rows], "said": lines}


def _collected(answers: ray.data.Dataset) -> Iterator[Answered]:
    try:
        for row in answers.iter_rows():
            name, fields = json.loads(row["said"])
            yield Answered(int(row["number"]), name, Answer(**fields))
    except ray.exceptions.RayError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, LuvcError):
            cause = getattr(cause, "cause", None) or cause.__cause__
        if isinstance(cause, LuvcError):
            raise cause from error
        last = [line for line in str(error).splitlines() if line.strip()][-1:]
        raise MachineError(
            "the Ray cluster ended the batch",
            got=" ".join(last)[:500],
            fix=f"rows whose actor died {TASK_RETRIES + 1} times end it, and an actor started {RESTARTS} times again; "
            "finished shards stay, and the same command goes on from them",
        ) from error


def _shut_down() -> None:
    """End this process's part; what Ray still has to say goes to standard error, since ``--json`` has the other."""
    with contextlib.redirect_stdout(sys.stderr):
        ray.shutdown()
