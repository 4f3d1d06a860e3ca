"""A local worker, ``python -m luvc_export.batch.worker PARENT``: loads the bundle once, then answers what it is sent.

It ends with its parent, and with the end of its input.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from luvc_export.batch.answerer import Answerer
from luvc_export.batch.job import BatchJob
from luvc_export.batch.source import Row
from luvc_export.errors import LuvcError
from luvc_export.runtime.confined import frames
from luvc_export.signals import end_with


def main() -> None:
    """Answer until nothing more comes."""
    if len(sys.argv) > 1:
        end_with(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    asked, replies = frames.own_pipes()
    first, _ = frames.receive(asked)
    job, path, folder = BatchJob.from_json(first["job"]), Path(first["path"]), Path(first["folder"])
    try:
        answerer = Answerer.of(job)
    except LuvcError as error:
        frames.send(replies, {"failed": error.to_json()})
        return
    frames.send(replies, {"ready": True})
    while True:
        try:
            message, _ = frames.receive(asked)
            answers = answerer.answer_lines([Row(*row) for row in message["rows"]], path, folder)
        except EOFError:
            return
        except LuvcError as error:
            frames.send(replies, {"failed": error.to_json()})
            return
        frames.send(replies, {"answers": [[name, answer.to_json()] for name, answer in answers]})


if __name__ == "__main__":
    main()
