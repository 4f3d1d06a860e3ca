"""A local worker, ``python -m luvc_export.batch.worker PARENT``: loads the bundle once, then answers what it is sent.

Messages are lines of JSON. It ends with its parent, and with the end of its input.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import IO, Any

from luvc_export.batch.answerer import Answerer
from luvc_export.batch.job import BatchJob
from luvc_export.batch.source import Row
from luvc_export.errors import LuvcError
from luvc_export.signals import end_with


def main() -> None:
    """Answer until nothing more comes."""
    if len(sys.argv) > 1:
        end_with(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    asked, replies = _own_pipes()
    first = json.loads(asked.readline())
    job, path, folder = BatchJob.from_json(first["job"]), Path(first["path"]), Path(first["folder"])
    try:
        answerer = Answerer.of(job)
    except LuvcError as error:
        _tell(replies, {"failed": error.to_json()})
        return
    _tell(replies, {"ready": True})
    for line in asked:
        rows = [Row(*row) for row in json.loads(line)]
        try:
            answers = answerer.answer_lines(rows, path, folder)
        except LuvcError as error:
            _tell(replies, {"failed": error.to_json()})
            return
        _tell(replies, {"answers": [[name, answer.to_json()] for name, answer in answers]})


def _own_pipes() -> tuple[IO[bytes], IO[bytes]]:
    """Standard input and output for messages alone: what a library prints goes to standard error."""
    asked, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return asked, replies


def _tell(replies: IO[bytes], message: dict[str, Any]) -> None:
    replies.write(json.dumps(message).encode() + b"\n")
    replies.flush()


if __name__ == "__main__":
    main()
