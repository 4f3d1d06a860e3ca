"""Which tests of what strangers brought fail on the commit before the one that mended it: docs/results/strangers.md.

    python benchmarks/measure/source/parents.py [--kind WORDS ...]

A kind of fault is a line of ``KINDS``: its words, the commit that mended it, its tests as that commit has them. The
commit's parent is checked out beside this tree, those test files are laid over it, and pytest runs there in this
environment, then on the commit itself, where all must pass. A file that cannot be imported on the parent, since it
asks for what was not there, is said to be so. Exit code 1 where a kind fails nothing on its parent, or anything on its
own commit.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parents[3]
PAGE = HERE / "docs" / "results" / "strangers.md"
HEADING = """# What strangers brought, and the commit before

Written by `python benchmarks/measure/source/parents.py`: tests of each kind of fault, as the commit that mended it has
them, on that commit's parent and on itself. A file that asks for what the parent has not is not imported there.

| kind | mended by | tests | on the parent | on the commit |
|---|---|---|---|---|
"""


class Kind(NamedTuple):
    """A kind of fault.

    ``only`` is an expression of ``pytest -k``; ``final`` is a later commit where its tests were put right.
    """

    words: str
    commit: str
    tests: str
    only: str = ""
    final: str = ""


KINDS = (
    Kind("heads", "55eae20a", "tests/export/families/test_family_heads.py", "transformers_loads or peft_computes"),
    Kind("sixteen bits", "c5333e09", "tests/export/families/test_family_sixteen_bits.py"),
    Kind("a second file of weights", "43d6551b", "tests/export/reading/test_weight_files.py"),
    Kind("facts of tokenizers", "1ca19689", "tests/export/reading/test_tokenizer_files.py"),
    Kind("templates", "1ca19689", "tests/export/reading/test_remarks.py"),
    Kind("variables of templates", "e65876f6", "tests/runtime/prompt/test_template_values.py"),
    Kind("Windows' habits", "1ca19689", "tests/core/test_text.py"),
    Kind("closed streams, no folder, no width", "86fe25d3", "tests/cli/test_shell_habits.py", "", "b4e96afe"),
    Kind("readers that leave", "ccffa27b", "tests/cli/test_failures.py", "141 or leaves or reader"),
    Kind("adapters of the text model", "ccffa27b", "tests/export/families/test_family_lora.py", "text_model"),
    Kind("tools of others", "a8d26fab", "tests/export/surgeon/test_plain_graph.py"),
    Kind("doubles, marks taken away, named files", "3f952359", "tests/export/reading", "away or doubles or names"),
    Kind("a server that loads", "bb2e2373", "tests/serve/test_serve_options.py", "says_that_it_answers"),
    Kind("files of the tutorial", "80fe14ae", "tests/docs/test_tutorial.py", "files_that_steps_read"),
)


def git(*words: str, folder: Path = HERE) -> str:
    """What git prints."""
    return subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def ran(folder: Path, kind: Kind) -> str:
    """How many of a kind's tests fail and pass in a checkout, in words."""
    words = [sys.executable, "-m", "pytest", "-n", "0", "-m", "not slow", kind.tests]
    options = {**os.environ, "PYTHONPATH": str(folder)}
    chosen = ["-k", kind.only] if kind.only else []
    done = subprocess.run([*words, *chosen], cwd=folder, env=options, capture_output=True, text=True)
    last = done.stdout.strip().splitlines()[-1:] or ["nothing"]
    if "error" in last[0] and "passed" not in last[0] and "failed" not in last[0]:
        (why,) = re.findall(r"^E +(\w*Error): ", done.stdout, re.MULTILINE)[-1:] or ("an error",)
        return f"not imported: {why}"
    counts = re.findall(r"(\d+) (failed|passed|error)", last[0])
    return ", ".join(f"{number} {word}" for number, word in counts) or last[0]


def row(kind: Kind, folder: Path) -> tuple[str, bool]:
    """A line of the page, and whether it shows what it must."""
    git("checkout", "--quiet", "--force", "--detach", f"{kind.commit}^", folder=folder)
    git("checkout", kind.final or kind.commit, "--", "tests", folder=folder)
    before = ran(folder, kind)
    git("checkout", "--quiet", "--force", "--detach", kind.final or kind.commit, folder=folder)
    after = ran(folder, kind)
    seen = ("failed" in before or "not imported" in before or "error" in before) and re.fullmatch(r"\d+ passed", after)
    only = f' (`-k "{kind.only}"`)' if kind.only else ""
    return f"| {kind.words} | {kind.commit} | `{kind.tests}`{only} | {before} | {after} |", bool(seen)


def main() -> int:
    """Run the kinds; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", action="append", help="those whose words hold these")
    asked, good = parser.parse_args().kind, True
    lines = PAGE.read_text(encoding="utf-8").splitlines() if PAGE.is_file() else []
    rows = {line.split(" | ")[0][2:]: line for line in lines}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "parent"
        git("worktree", "add", "--detach", str(folder), "HEAD")
        try:
            for kind in KINDS:
                if not asked or any(words in kind.words for words in asked):
                    rows[kind.words], seen = row(kind, folder)
                    good = good and seen
                    print(rows[kind.words], seen, flush=True)
        finally:
            git("worktree", "remove", "--force", str(folder))
    shown = [rows[kind.words] for kind in KINDS if kind.words in rows]
    PAGE.write_text(HEADING + "\n".join(shown) + "\n", encoding="utf-8")
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
