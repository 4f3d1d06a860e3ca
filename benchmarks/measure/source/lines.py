"""Count the lines of Python: the five package folders, tests, and all else, here or at another revision.

``python benchmarks/measure/source/lines.py [REVISION]``
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("luvc_export", "export", "engines", "runtime", "calibration")


def part(path: PurePosixPath) -> str:
    """Which part of the house a file counts for: a package folder, ``tests`` wherever they lie, or its top folder."""
    return "tests" if "tests" in path.parts else path.parts[0]


def by_part(revision: str | None) -> Counter[str]:
    """Lines of every part, of the files git knows."""
    listing = ["ls-tree", "-r", "--name-only", revision] if revision else ["ls-files"]
    lines = Counter[str]()
    for name in _git(*listing).splitlines():
        path = PurePosixPath(name)
        if path.suffix == ".py" and len(path.parts) > 1:
            text = _git("show", f"{revision}:{name}") if revision else (ROOT / name).read_text(encoding="utf-8")
            lines[part(path)] += len(text.splitlines())
    return lines


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    counted = by_part(sys.argv[1] if len(sys.argv) > 1 else None)
    for name, number in sorted(counted.items()):
        print(f"{number:6} {name}")
    print(f"{sum(counted[name] for name in PACKAGES):6} in the five package folders")
