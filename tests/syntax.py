"""What the house's tests look for in every module, without walking its expressions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path


def scopes(node: ast.AST) -> Iterator[ast.AST]:
    """A module's statements, with those inside them, without walking their expressions."""
    yield node
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        for inner in getattr(node, field, ()):
            yield from scopes(inner)


@cache
def importing(path: Path) -> tuple[ast.Import | ast.ImportFrom | ast.If, ...]:
    """A file's imports, those inside functions too, and its conditions: some imports are for type checkers alone."""
    kinds = ast.Import | ast.ImportFrom | ast.If
    return tuple(node for node in scopes(ast.parse(path.read_bytes())) if isinstance(node, kinds))
