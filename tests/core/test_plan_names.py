"""Names of variants: written for people, read by one module for what has names alone."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import luvc_export
from luvc_export.core.plan import names as plan_names
from luvc_export.core.precision import PRECISIONS

ROOT = Path(luvc_export.__file__).parents[1]
READER = "luvc_export/core/plan/names.py"
#: What a reader of names holds: a mark in a pattern or a text, or a suffix of a precision.
MARK = re.compile(r"@(video|tiles|\\d|\[1-9\]|\(|%|$)|^_quantized$")
#: Calls that take a text apart.
APART = {
    "partition", "rpartition", "split", "rsplit", "endswith", "startswith", "removesuffix", "removeprefix",
    "find", "rfind", "index", "match", "fullmatch", "search", "compile", "findall", "sub",
}  # fmt: skip
#: An @ that is no mark of a plan's name: SHARE@BLOCK, TOKENS@WIDTH:HEIGHT, and PLAN@TARGET, where names with an @ are
#: looked up first.
OTHERS = {"luvc_export/core/plan/request.py", "luvc_export/core/image_tokens.py", "calibration/runners/__init__.py"}


def readers(source: str) -> list[int]:
    """Lines that take a text apart at an @ or at a suffix of a precision."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        texts: list[ast.expr] = []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in APART:
            texts = [*node.args, node.func.value]
        elif isinstance(node, ast.Compare):
            texts = [node.left, *node.comparators]
        constants = [each for text in texts for each in ast.walk(text) if isinstance(each, ast.Constant)]
        if any(isinstance(each.value, str) and MARK.search(each.value) for each in constants):
            lines.append(node.lineno)
    return lines


def modules() -> list[Path]:
    rooms = ("luvc_export", "export", "engines", "runtime", "calibration")
    return [path for room in rooms for path in sorted((ROOT / room).rglob("*.py"))]


def test_no_other_module_reads_the_names_of_plans() -> None:
    reading = {path.relative_to(ROOT).as_posix(): readers(path.read_text()) for path in modules()}
    assert {path for path, lines in reading.items() if lines and path not in OTHERS} <= {READER}
    assert reading[READER] and all(reading[path] for path in OTHERS), "an exception that is none any more"


@pytest.mark.parametrize(
    "line",
    [
        'name.partition("@")',
        'plan.endswith("@video")',
        're.fullmatch(r".+@(\\d+)x(\\d+)", name)',
        'f"{name}@tiles" in plans',
        'other = name.removesuffix("_quantized")',
    ],
)
def test_each_way_of_reading_them_is_seen(line: str) -> None:
    assert readers(f"x = {line}" if "=" not in line else line)


@pytest.mark.parametrize(
    ("name", "suffix", "root"),
    [
        ("even", "", None),
        ("even@448x672", "", "even"),
        ("even@video", "", "even"),
        ("even@video@448x672", "", "even"),
        ("even@448x672@50", "", "even"),
        ("even_int8", "_int8", "even"),
        ("even_int8@448x672", "_int8", "even"),
        ("none_int8@448x672", "_int8", "none_int8"),
        ("none@448x672", "", None),
        ("wide@448x672@50", "", "wide@448x672"),
        ("even@home", "", None),
        ("even@100", "", None),
    ],
)
def test_what_a_name_stands_beside(name: str, suffix: str, root: str | None) -> None:
    plans = {"even", "even@448x672", "wide@448x672", "none_int8", "even@home", name}
    assert plan_names.variant_of(name, plans, suffix) == root


def test_names_are_read_as_they_are_written() -> None:
    sized = plan_names.sized_name(plan_names.shared_name("even", "clip"), (448, 672))
    assert sized == "even@video@448x672" and plan_names.size_of(sized, "even") == (448, 672)
    assert plan_names.shared_name("even", "picture") == "even" and plan_names.size_of("even@50", "even") is None
    assert plan_names.bucket_name("even@448x672", 50) == "even@448x672@50"
    for precision in PRECISIONS.values():
        name = precision.plan_name("even@448x672", "even")
        assert name == f"even{precision.suffix}@448x672"
        assert plan_names.variant_of(name, {"even", name}, precision.suffix) == "even"
