"""Count what the tests assert: ``assert`` statements and ``pytest.raises``, by folder, here or at another revision.

``python benchmarks/measure/source/assertions.py [REVISION]``
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[3]


def count(source: str) -> int:
    """Assertions of one file."""
    nodes = [*ast.walk(ast.parse(source))]
    raises = [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.raises"]
    return sum(isinstance(node, ast.Assert) for node in nodes) + len(raises)


def by_folder(revision: str | None) -> Counter[str]:
    """Assertions of every folder of tests, of the files git knows."""
    listing = ["ls-tree", "-r", "--name-only", revision] if revision else ["ls-files"]
    counts = Counter[str]()
    for name in _git(*listing).splitlines():
        path = PurePosixPath(name)
        if path.suffix == ".py" and "tests" in path.parts:
            source = _git("show", f"{revision}:{name}") if revision else (ROOT / name).read_text(encoding="utf-8")
            counts[str(path.parent)] += count(source)
    return counts


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    counts = by_folder(sys.argv[1] if len(sys.argv) > 1 else None)
    for folder, number in sorted(counts.items()):
        print(f"{number:6} {folder}")
    print(f"{sum(counts.values()):6} in all")
