"""The architecture page: the drawing has every room, the trail its steps, the table the imports there are."""

from __future__ import annotations

import ast
import re
import runpy
from collections import defaultdict
from pathlib import Path

import pytest

import luvc_export

ROOT = Path(luvc_export.__file__).resolve().parents[1]
PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
PARTS = ("export", "engines", "runtime", "calibration")

#: Modules of the root, which belong to no room.
EVERYBODYS = {"errors", "version", "moved", "registry", "signals"}


def section(title: str) -> str:
    return PAGE.split(f"## {title}")[1].split("\n## ")[0]


def folders() -> set[str]:
    """Folders with modules of the package, by their path in the checkout."""
    package = [path for path in (ROOT / "luvc_export").iterdir() if path.is_dir() and not path.is_symlink()]
    files = [file for top in (*package, *(ROOT / part for part in PARTS)) for file in top.rglob("*.py")]
    return {file.parent.relative_to(ROOT).as_posix() for file in files}


def test_the_drawing_has_every_room_and_no_other() -> None:
    pytest.importorskip("matplotlib")
    drawn = runpy.run_path(str(ROOT / "docs/architecture_drawing.py"))["rooms"]()
    assert drawn | {"export"} == folders(), "add the folder to a box of docs/architecture_drawing.py and run it"


def test_the_trail_from_keep_to_rows_has_at_most_six_files_that_say_so() -> None:
    steps = re.split(r"\n\d\. ", section("From `keep` to rows of a cache").split("\n\n")[2])
    assert 1 < len(steps) <= 6
    for step in steps:
        (name,) = re.findall(r"\]\(\.\./([^)]+)\)", step)
        source = (ROOT / name).read_text(encoding="utf-8")
        words = re.findall(r"`([\w.]+)`", step.split("):", 1)[1])
        assert words, step
        missing = [word for word in words if word.removeprefix("Plan.") not in source]
        assert not missing, f"{name} has no {missing}"


def table() -> dict[str, set[str]]:
    """Room -> rooms it may import, as the page says."""
    rows = [line.split("|")[1:4] for line in section("What may import what").splitlines() if line.startswith("| `")]
    layers = {first.strip(" `"): set(re.findall(r"`(\w+)`", second)) for first, second, _ in rows}
    return {room: set(layers) - {room} if room == "cli" else named for room, named in layers.items()}


def used() -> dict[str, set[str]]:
    """Room -> rooms its modules import, those inside functions and for type checkers too."""
    imports: dict[str, set[str]] = defaultdict(set)
    for room in table():
        for path in (ROOT / "luvc_export" / room).resolve().rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                module = node.module if isinstance(node, ast.ImportFrom) else None
                if module and module.startswith("luvc_export."):
                    imports[room].add(module.split(".")[1])
        imports[room] -= {room} | EVERYBODYS
    return imports


def test_the_table_of_imports_is_what_modules_import() -> None:
    allowed, imports = table(), used()
    rooms = {path.name for path in (ROOT / "luvc_export").iterdir() if (path / "__init__.py").is_file()}
    assert set(allowed) == rooms
    assert {room: imports[room] - names for room, names in allowed.items() if imports[room] - names} == {}
    never = {room: names - imports[room] for room, names in allowed.items() if names - imports[room]}
    assert not never, f"the page allows what nothing does: {never}"


def test_imports_go_down_the_table() -> None:
    order = list(table())
    for room, names in table().items():
        assert all(order.index(name) < order.index(room) for name in names), room
