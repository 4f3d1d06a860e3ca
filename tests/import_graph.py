"""Which files of the checkout a module may run, from the import graph."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "luvc_export"
_IMPORT = re.compile(r"^[ \t]*((?:from|import)\b[^(\n]*(?:\([^)]*\))?)", re.MULTILINE)


def reached(start: Path) -> frozenset[Path]:
    """``start`` and the files of the checkout that it imports, wherever in a file an import stands, in their turn.

    A test's module may import those beside it and in the folders above. A package on the way to a module, or one that
    hands on what it imports (``from luvc_export import export_bundle``), counts without its other imports. A package
    that finds its modules by their names (it makes a ``Registry``) imports all of them.
    """
    whole, passed, left = set[Path](), set[Path](), [start.resolve()]
    while left:
        path = left.pop()
        if path not in whole:
            whole.add(path)
            for other, on_the_way in _imported(path):
                if on_the_way:
                    passed.add(other)
                else:
                    left.append(other)
    return frozenset(whole | passed)


@cache
def _imported(path: Path) -> frozenset[tuple[Path, bool]]:
    imports = set[tuple[Path, bool]]()
    if path.name == "__init__.py" and re.search(r"\bRegistry(\[.*\])?\(", path.read_text(encoding="utf-8")):
        imports.update((file.resolve(), False) for file in path.parent.glob("*.py"))
    for node in _statements(path):
        if isinstance(node, ast.Import):
            for alias in node.names:
                imports.update(_files(alias.name, path.parent))
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                imports.update(_files(f"{node.module}.{alias.name}", path.parent))
    return frozenset(imports)


@cache
def _statements(path: Path) -> list[ast.AST]:
    """What imports, found by its lines in half the time; all that a file has where these are no statements."""
    text = path.read_text(encoding="utf-8")
    try:
        return [*ast.parse("\n".join(_IMPORT.findall(text))).body]
    except SyntaxError:  # a line of prose, or a comment inside of parentheses
        return [*ast.walk(ast.parse(text))]


def _files(name: str, folder: Path) -> Iterator[tuple[Path, bool]]:
    """Files of a dotted name, and whether each is but on the way: those of its packages, and its own.

    Where a package hands the name on, its files are those it comes from there.
    """
    parts = name.split(".")
    tests = ROOT / "tests"
    beside = (place for place in (folder, *folder.parents) if tests in (place, *place.parents))
    for place in [ROOT] if parts[0] == PACKAGE else beside:
        path, above = place.joinpath(*parts), place.joinpath(*parts[:-1])
        for package in (place.joinpath(*parts[:count]) / "__init__.py" for count in range(1, len(parts) - 1)):
            if package.is_file():
                yield package.resolve(), True
        files = [file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()]
        yield from ((file.resolve(), False) for file in files)
        if len(parts) > 1 and above.with_suffix(".py").is_file():
            yield above.with_suffix(".py").resolve(), False
        if len(parts) > 1 and (init := above / "__init__.py").is_file():
            handed = [] if files else [*_handed_on(init, ".".join(parts[:-1]), parts[-1])]
            yield init.resolve(), bool(files or handed)
            yield from handed


def _handed_on(init: Path, package: str, name: str) -> Iterator[tuple[Path, bool]]:
    """Files of what ``package`` imports as ``name``, for its types alone even: it may import that by name later."""
    for node in _statements(init):
        if not isinstance(node, ast.ImportFrom) or node.module in (None, package):
            continue
        if any(alias.name == name for alias in node.names):
            yield from _files(f"{node.module}.{name}", init.parent)
