"""Which wheels a device's Python takes, by their names, and what is still missing.

Names and tags are read by ``packaging`` (packaging.python.org, "Binary distribution format", and PEP 600 for
``manylinux_2_17_aarch64``: glibc 2.17 or later), which boards do not have: nothing here imports it at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from luvc_export.errors import UsageError

if TYPE_CHECKING:
    from packaging.tags import Tag
    from packaging.version import Version


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
_GLIBC = {"3.10": 35, "3.12": 39}
#: Older names of the same promise (PEP 600, "Legacy manylinux tags").
_LEGACY = ("manylinux1", "manylinux2010", "manylinux2014")


class Wheel(NamedTuple):
    """A wheel's name, taken apart."""

    file: str
    distribution: str
    version: Version
    tags: frozenset[Tag]


def parse(file: str) -> Wheel:
    """Take a wheel's file name apart.

    Raises:
        UsageError: It is none.
    """
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    try:
        name, version, _, tags = parse_wheel_filename(file)
    except InvalidWheelFilename as error:
        raise UsageError(
            "this is not the name of a wheel", where=file, expected="distribution-version-python-abi-platform.whl"
        ) from error
    return Wheel(file, name, version, tags)


def fits(wheel: Wheel, python: str, machine: str) -> bool:
    """Whether CPython ``python`` (3.10) of a ``machine`` (aarch64) with Linux takes a wheel."""
    from packaging.tags import compatible_tags, cpython_tags

    version, glibc = [int(part) for part in python.split(".")], _GLIBC.get(python, -1)
    names = (*(f"manylinux_2_{minor}" for minor in range(glibc + 1)), *_LEGACY * (glibc >= 0), "linux")
    platforms = [f"{name}_{machine}" for name in names]
    return not wheel.tags.isdisjoint(
        {
            *cpython_tags(version, platforms=platforms),
            *compatible_tags(version, f"cp{''.join(python.split('.'))}", platforms),
        }
    )


def missing(wheels: Iterable[Wheel], python: str, machine: str) -> list[str]:
    """One line for every requirement that no wheel meets: what is missing, and what was there in its place."""
    from packaging.version import Version

    names = list(wheels)
    lines = []
    for wanted in REQUIRED:
        named = [wheel for wheel in names if wheel.distribution == wanted.distribution]
        if any(fits(wheel, python, machine) and wheel.version >= Version(wanted.at_least) for wheel in named):
            continue
        there = f" (there is {', '.join(wheel.file for wheel in named)})" if named else ""
        lines.append(f"{wanted.distribution}>={wanted.at_least}{there}")
    return lines


def download(python: str, machine: str) -> str:
    """The command that fetches what is missing, for people."""
    tags = f"--platform manylinux_2_28_{machine} --platform manylinux2014_{machine} --python-version {python}"
    names = " ".join(f"'{item.distribution}>={item.at_least}'" for item in REQUIRED)
    return f"pip download --no-deps --only-binary=:all: {tags} -d DIR {names}"
