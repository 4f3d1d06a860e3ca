"""The output folder: shards written whole and renamed, so that one that is there has every row of its, once.

Row i is in shard ``i // rows``, wherever and whenever it was answered. What an interrupted run had of a shard that was
not whole is answered again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from luvc_export.batch.answerer import Answer
from luvc_export.batch.source import LISTING, Source
from luvc_export.batch.vectors import RowVectors
from luvc_export.core.files.folders import list_names, writing_to
from luvc_export.core.files.json_file import read_json
from luvc_export.core.files.safe_files import is_scratch, open_regular, write_whole
from luvc_export.errors import UsageError

#: What the folder was made from.
RECORD = "batch.json"


def check_record(
    folder: Path, identity: dict[str, Any], noted: dict[str, Any] | None = None, earlier: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Begin a folder, or see that it was begun with the same bundle, options and questions.

    Args:
        folder: Of the shards; there already.
        identity: ``BatchJob.identity`` and the hash of the questions, plain data.
        noted: More to remember of a folder that begins.
        earlier: What earlier versions wrote in place of values of ``identity``.

    Returns:
        What is remembered.

    Raises:
        UsageError: It was not, naming what differs; or it holds something else.
    """
    record = folder / RECORD
    if not record.exists():
        others = [name for name in list_names(folder) if name != LISTING and not is_scratch(name)]
        if others:
            raise UsageError(
                "this folder holds something else",
                where=f"--output {folder}",
                got=", ".join(others[:3]),
                expected="a folder that is empty, missing, or was begun by this command",
            )
        begun = {**identity, **(noted or {})}
        with writing_to(record):
            write_whole(record, json.dumps(begun, indent=1) + "\n")
        return begun
    stored = read_json(record, 2**20, UsageError, "the record of this batch")
    held = stored if isinstance(stored, dict) else {}
    left_out = dict.fromkeys(held.keys() - identity.keys() - {"took"})  # options that are as usual now
    wanted = {**json.loads(json.dumps(identity)), **left_out}
    same = [wanted, {**wanted, **(earlier or {})}]
    differs = [name for name in wanted if not any(held.get(name) == each[name] for each in same)]
    if differs:
        raise UsageError(
            "this folder was begun with something else",
            where=f"--output {folder}",
            got="; ".join(f"{name} {_short(wanted[name])}" for name in differs),
            expected="; ".join(f"{name} {_short(held.get(name))}" for name in differs),
            fix="run it as it was begun, or name another folder",
        )
    return held


class Shards:
    """Shards of one folder.

    Args:
        folder: Where they are.
        source: The questions.
        vectors: Where rows have vectors, what writes them: each shard's in a file beside its lines.

    Raises:
        UsageError: One that is there is not whole, or not one of these.
    """

    def __init__(self, folder: Path, source: Source, vectors: RowVectors | None = None) -> None:
        self._folder, self._source, self._vectors = folder, source, vectors
        self._open: dict[int, dict[int, dict[str, Any]]] = {}
        #: Rows that are written, and of these those with an error.
        self.written = self.errors = 0
        self.missing: list[int] = []
        for index in range(len(source.starts)):
            if self.path(index).exists():
                self._count(index)
            else:
                self.missing.append(index)

    def path(self, index: int) -> Path:
        """Of a shard."""
        return self._folder / f"part-{index:06d}.jsonl"

    def add(self, number: int, name: str | int | None, answer: Answer) -> None:
        """Take a row's answer, and write its shard if that is whole now. A row that came already is not counted again.

        Raises:
            OSError: The disk is full, or refuses; the other shards stay as they are.
        """
        index = number // self._source.shard
        if self.path(index).exists():
            return
        rows = self._open.setdefault(index, {})
        rows[number] = {"row": number, "id": name, **answer.to_json()}
        if len(rows) < self._source.size(index):
            return
        path, records = self.path(index), [rows[one] for one in sorted(rows)]
        if self._vectors is not None:  # before the lines: a shard whose lines are there is whole
            places = self._vectors.write(path, records)
            records = [
                {"row": one["row"], "id": one["id"], "first": first, "count": count, "error": one["error"]}
                for one, (first, count) in zip(records, places, strict=True)
            ]
        lines = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records)
        with writing_to(path):
            write_whole(path, lines.encode("utf-8", "backslashreplace"))
        del self._open[index]
        self.written += len(rows)
        self.errors += sum(one["error"] is not None for one in records)

    def _count(self, index: int) -> None:
        path, size, vectors = self.path(index), self._source.size(index), 0
        expected = index * self._source.shard
        try:
            with open_regular(path) as file:
                for line in file:
                    data = json.loads(line)
                    if data["row"] != expected:
                        raise ValueError(f"row {data['row']} where {expected} belongs")
                    self.errors += data["error"] is not None
                    expected += 1
                    if self._vectors is not None:
                        if data["first"] != vectors or not data["count"] >= 0:
                            raise ValueError(f"row {data['row']}: vectors {data['first']} and {data['count']} more")
                        vectors += data["count"]
            if expected != index * self._source.shard + size:
                raise ValueError(f"{expected - index * self._source.shard} rows of {size}")
            if self._vectors is not None:
                self._vectors.check(path, vectors)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UsageError(
                "this shard is not as it was written",
                where=str(path),
                got=str(error)[:200],
                fix="remove it and run again: its rows are answered again",
            ) from error
        self.written += size


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:12] + "..." + text[-1:]
