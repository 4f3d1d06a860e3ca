"""What the emulation counts is what the formulas say, and the page and the surgeon say what follows."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from luvc_export.export.surgeon.passes import call_plugins

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "plugins"))

from costs import __main__ as command  # noqa: E402
from costs import inlined  # noqa: E402
from costs.kernels import Launch, Merge, Prune  # noqa: E402
from costs.machines import MACHINES, least_seconds  # noqa: E402

sys.path.pop(0)  # plugins/tensorrt is no package of that name

COUNTS = ROOT / "build" / "emulate-check" / "plugins" / "tests" / "emulate" / "luvc_counts"
ROWS = 3 * 4 + 2 * 6 * 4  # of the problems the tool makes: three positions, two caches of six numbers
PRUNES = [
    Prune(2, 96, 128, 17, 40, 2, rows=ROWS),
    Prune(1, 100, 72, 33, 30, 4, residual=True, rows=ROWS),
    Prune(1, 100, 72, 33, 30, 2, ratio=True, rows=ROWS),
    Prune(1, 65, 24, 1, 64, 2, residual=True, rows=ROWS),
]
MERGES = [Merge(1, 12, 16, 64, 4, 3, 2), Merge(2, 9, 11, 40, 3, 4, 4), Merge(1, 8, 10, 32, 4, 3, 2)]


def counted(*arguments: object) -> dict[str, tuple[int, int, int]]:
    """Bytes read and written and products by kernel, as the emulation counts them."""
    if not COUNTS.is_file():
        if "LUVC_EMULATED" in os.environ:
            raise FileNotFoundError(COUNTS)
        pytest.skip("the emulation is not built: make native")
    printed = subprocess.run([COUNTS, *map(str, arguments)], capture_output=True, text=True, check=True).stdout
    counts = {}
    for line in printed.splitlines():
        numbers = [int(number) for number in line.split()[-9:]]
        counts[line[: line.index("_kernel")]] = (numbers[4], numbers[5], numbers[6])
    return counts


def foretold(launches: list[Launch]) -> dict[str, tuple[int, int, int]]:
    """The same from formulas."""
    counts: dict[str, tuple[int, int, int]] = {}
    for each in launches:
        before = counts.get(each.name, (0, 0, 0))
        counts[each.name] = (before[0] + each.read, before[1] + each.written, before[2] + each.products)
    return counts


@pytest.mark.parametrize("shape", PRUNES)
def test_prunes_move_what_the_formulas_say(shape: Prune) -> None:
    score = 1 if shape.residual else 2 if shape.ratio else 0
    sizes = (shape.groups, shape.tokens, shape.channels, shape.frequencies, shape.keep, shape.element)
    assert counted("prune", *sizes, score) == foretold(shape.launches())


@pytest.mark.parametrize("shape", MERGES)
def test_merges_move_what_the_formulas_say(shape: Merge) -> None:
    counts, wanted = counted("merge", *dataclasses.astuple(shape)), foretold(shape.launches())
    read, *rest = counts.pop("move")
    most, *others = wanted.pop("move")
    assert counts == wanted and rest == others
    units = shape.batch * shape.height * (2 * shape.width - shape.columns)
    assert most - 4 * units <= read <= most, "it looks at neighbours alone"


def test_another_shape_counts_otherwise() -> None:
    shape = PRUNES[0]
    assert foretold(dataclasses.replace(shape, frequencies=65).launches()) != foretold(shape.launches())


def test_the_page_is_written_from_the_formulas() -> None:
    """Mended by ``PYTHONPATH=plugins python -m costs``."""
    assert command.PAGE.read_text(encoding="utf-8") == command.page()


def test_the_surgeon_s_limit_is_the_page_s() -> None:
    """Prunes up to it pay on every machine at every size of the page, and none far above it does."""
    limit = call_plugins.MOST_FREQUENCIES
    for tokens, channels in command.PRUNES:
        shape = command.prune_of(tokens, channels)
        assert command.pays(shape.launches(), inlined.prune(shape)) == (shape.frequencies <= limit)
        at = dataclasses.replace(shape, tokens=4 * limit, frequencies=limit, keep=2 * limit)
        assert command.pays(at.launches(), inlined.prune(at)) or channels < 256
    assert all(command.pays(command.merge_of(*size).launches(), inlined.merge(command.merge_of(*size)))
               for size in command.MERGES)  # fmt: skip


def test_a_launch_takes_its_bytes_or_its_operations() -> None:
    machine = dataclasses.replace(MACHINES[0], bandwidth=100.0, tf32=10.0)
    assert least_seconds([Launch("a", 300, 200, 10), Launch("b", 10, 10, 50)], machine) == 5 + 10
