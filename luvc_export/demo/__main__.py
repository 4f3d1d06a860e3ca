"""Pictures of the bundled model's kind and questions about them, for verbs that ask: docs/tutorial.md.

Run: python -m luvc_export.demo FOLDER [--count 8]. FOLDER, which must not be there, gets 0.png, 1.png, ... and
cases.jsonl, a question about each picture with its right answer, as ``--cases`` and ``--data`` take them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from PIL import Image

from luvc_export.demo.questions import ONE_PICTURE, cases
from luvc_export.errors import LuvcError, UsageError


def write(folder: Path, count: int) -> None:
    """Write ``count`` pictures and questions of several kinds into ``folder``.

    Raises:
        UsageError: The folder is there, or cannot be made.
    """
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UsageError(
            "the folder for pictures and questions cannot be made",
            where=str(folder),
            got=str(error.strerror),
            fix="name a folder that is not there",
        ) from error
    kinds = len(ONE_PICTURE)
    every = [*cases("heldout", count * kinds, kinds=(*ONE_PICTURE,))]
    lines = []
    for number in range(count):
        of_picture = [case for case in every if case.picture == number]
        case = of_picture[number % len(of_picture)]
        Image.fromarray(case.images[0]).save(folder / f"{number}.png")
        lines.append({"image": f"{number}.png", "prompt": case.prompt, "answer": case.answer, "kind": case.kind})
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (folder / "cases.jsonl").write_text(text, encoding="utf-8", newline="\n")


def main() -> None:
    """Read the command line and write."""
    parser = argparse.ArgumentParser(prog="python -m luvc_export.demo", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, choices=range(1, 1001), default=8, metavar="1..1000")
    args = parser.parse_args()
    try:
        write(args.folder, args.count)
    except LuvcError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
