"""The files that adding a family touches, seen by taking it out of a copy of HEAD and putting it back.

    python benchmarks/measure/source/one_family.py FAMILY [--tests PATH ...]

Out go its file, its test checkpoint, its records in docs/results and the rows that ``docs/family_tables.py`` writes;
then tests of all families must pass. Back come the two files and the records, and that command; then nothing may differ
from HEAD. The list is written to docs/adding-a-family.md. Exit code 1 where tests fail or anything does not come back.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from parents import HERE, git

from luvc_export.core.files.pages import within

PAGE = HERE / "docs" / "adding-a-family.md"
#: Those that ask every family or hold its rows to the code; ``--tests tests/export/families`` exports each as well.
MODULES = (
    "discovery",
    "parity",
    "pixels",
    "processor",
    "prompts",
    "odd_sizes",
    "published",
    "switches",
    "loading",
    "tiling",
)
TESTS = [
    *(f"tests/export/families/test_family_{name}.py" for name in MODULES),
    *("tests/export/test_model_types.py", "tests/export/new_family", "tests/docs"),
]

#: Says itself which files one family has.
OWN = "tests/export/families/test_family_discovery.py::test_the_files_of_a_family_are_two"


def files(name: str) -> list[str]:
    """What is written by hand."""
    return [f"export/families/{name}.py", f"tests/export/families/family_checkpoints/{name}.py"]


def drop_records(name: str, results: Path) -> None:
    """Lines of figures and rows of pages that say ``name`` first."""
    for path in [*results.glob("*.json"), *results.glob("*.md")]:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        left = [line for line in lines if not re.match(rf'\W*("family": ")?{name}\b', line)]
        path.write_text(re.sub(r",(?=\s*[\]}]\s*$)", "", "".join(left)), encoding="utf-8")


def run(folder: Path, *words: str) -> int:
    """Run Python on the copy; the exit code."""
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}
    ).returncode


def main() -> int:
    """Take the family out and put it back; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family")
    parser.add_argument("--tests", nargs="+", default=TESTS)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "copy"
        git("worktree", "add", "--detach", str(folder), "HEAD")
        try:
            git("rm", "--quiet", *files(asked.family), folder=folder)
            drop_records(asked.family, folder / "docs" / "results")
            failed = run(folder, "docs/family_tables.py") or run(
                folder, "-m", "pytest", "-q", "-n", "0", "-m", "not slow", "--deselect", OWN, *asked.tests
            )
            listed = git("diff", "-R", "--stat=100", "HEAD", folder=folder)
            git("checkout", "HEAD", "--", *files(asked.family), "docs/results", folder=folder)
            failed = failed or run(folder, "docs/family_tables.py")
            left = git("status", "--porcelain", folder=folder)
        finally:
            git("worktree", "remove", "--force", str(folder))
    print(listed, f"did not come back: {left or 'nothing'}", sep="\n")
    if not (failed or left):
        text = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(within(text, "files", f"```\n{listed}\n```\n"), encoding="utf-8")
    return int(bool(failed or left))


if __name__ == "__main__":
    sys.exit(main())
