"""Which wheels a device's Python takes, by their names, and what is still missing.

A name is ``distribution-version(-build)?-python-abi-platform.whl`` with tags joined by dots (packaging.python.org,
"Binary distribution format", and PEP 600 for ``manylinux_2_17_aarch64``: glibc 2.17 or later).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from luvc_export.errors import UsageError


@dataclass(frozen=True)
class Requirement:
    """A Python package the runtime imports.

    Args:
        distribution: As indexes call it.
        module: As Python imports it.
        at_least: Oldest version that will do.
    """

    distribution: str
    module: str
    at_least: str


#: What running takes; bounds are those of pyproject.toml. Of tokenizers' own requirements nothing is imported.
REQUIRED = (
    Requirement("numpy", "numpy", "1.26"),
    Requirement("pillow", "PIL", "11"),
    Requirement("tokenizers", "tokenizers", "0.21"),
    Requirement("jinja2", "jinja2", "3.1.6"),
    Requirement("markupsafe", "markupsafe", "2.0"),
)

#: glibc by the Python a system comes with: Ubuntu 22.04 has Python 3.10 and glibc 2.35, 24.04 has 3.12 and 2.39
#: (packages.ubuntu.com: jammy and noble, libc6 and python3).
_GLIBC = {"3.10": (2, 35), "3.12": (2, 39)}
#: Older names of the same promise (PEP 600, "Legacy manylinux tags").
_LEGACY = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}


@dataclass(frozen=True)
class Wheel:
    """A wheel's name, taken apart."""

    file: str
    distribution: str
    version: str
    pythons: tuple[str, ...]
    abis: tuple[str, ...]
    platforms: tuple[str, ...]


def parse(file: str) -> Wheel:
    """Take a wheel's file name apart.

    Raises:
        UsageError: It is none.
    """
    parts = file.removesuffix(".whl").split("-")
    if not file.endswith(".whl") or len(parts) not in (5, 6) or not all(parts):
        raise UsageError(
            "this is not the name of a wheel", where=file, expected="distribution-version-python-abi-platform.whl"
        )
    pythons, abis, platforms = (tuple(part.split(".")) for part in parts[-3:])
    return Wheel(file, normal(parts[0]), parts[1], pythons, abis, platforms)


def normal(name: str) -> str:
    """A distribution's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def fits(wheel: Wheel, python: str, machine: str) -> bool:
    """Whether CPython ``python`` (3.10) of a ``machine`` (aarch64) with Linux takes a wheel."""
    return _python(wheel, python) and any(_platform(name, python, machine) for name in wheel.platforms)


def missing(wheels: Iterable[Wheel], python: str, machine: str) -> list[str]:
    """One line for every requirement that no wheel meets: what is missing, and what was there in its place."""
    names = list(wheels)
    lines = []
    for wanted in REQUIRED:
        named = [wheel for wheel in names if wheel.distribution == wanted.distribution]
        if any(fits(wheel, python, machine) and version(wheel.version) >= version(wanted.at_least) for wheel in named):
            continue
        there = f" (there is {', '.join(wheel.file for wheel in named)})" if named else ""
        lines.append(f"{wanted.distribution}>={wanted.at_least}{there}")
    return lines


def download(python: str, machine: str) -> str:
    """The command that fetches what is missing, for people."""
    tags = f"--platform manylinux_2_28_{machine} --platform manylinux2014_{machine} --python-version {python}"
    names = " ".join(f"'{item.distribution}>={item.at_least}'" for item in REQUIRED)
    return f"pip download --no-deps --only-binary=:all: {tags} -d DIR {names}"


def version(text: str) -> tuple[int, ...]:
    """The numbers at the front of a version, to compare."""
    match = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def _python(wheel: Wheel, python: str) -> bool:
    minor = int(python.split(".")[1])
    for tag in wheel.pythons:
        if tag == "py3" or tag == f"cp3{minor}":
            return True
        older = re.fullmatch(r"cp3(\d+)", tag)
        if older and "abi3" in wheel.abis and int(older[1]) <= minor:
            return True
    return False


def _platform(name: str, python: str, machine: str) -> bool:
    if name == "any":
        return True
    match = re.fullmatch(r"(manylinux\w*?)(?:_(\d+)_(\d+))?_" + re.escape(machine), name)
    if not match:
        return name == f"linux_{machine}"
    needs = (int(match[2]), int(match[3])) if match[2] else _LEGACY.get(match[1], (99, 0))
    return needs <= _GLIBC.get(python, (0, 0))
