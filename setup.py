"""Stops a build of a checkout whose four links in ``luvc_export`` are missing; pyproject.toml has the rest.

Where git cannot make links (Windows, as it is set up) it writes each as a small text file, and a wheel made of
that would lack most of the package and say nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import setup

PARTS = ("calibration", "engines", "export", "runtime")
PACKAGE = Path(__file__).resolve().parent / "luvc_export"

FIX = """\
  fix: let git make links, then check these four out again:
         git config core.symlinks true
         git checkout HEAD -- luvc_export/calibration luvc_export/engines luvc_export/export luvc_export/runtime
       (Windows: as an administrator or with Developer Mode on), or install the wheel: pip install luvc-export"""


def problem(package: Path) -> str | None:
    """What is wrong with the links of a checkout; an sdist has folders in their place."""
    lines = []
    for part in PARTS:
        link = package / part
        if not (link / "__init__.py").is_file():
            got = f"a file that says {link.read_text(errors='replace')[:40]!r}" if link.is_file() else "nothing of use"
            lines += [
                f"  where: luvc_export/{part}",
                f"  got: {got}",
                f"  expected: a link to ../{part}, or that folder",
            ]
    head = "luvc-export cannot be built here: links in luvc_export are missing"
    return "\n".join([head, *lines, FIX]) if lines else None


if found := problem(PACKAGE):
    sys.exit(found)

setup()
