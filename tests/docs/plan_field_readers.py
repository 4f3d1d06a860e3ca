"""Modules that read a field of a plan, counted by their syntax: ``python tests/docs/plan_field_readers.py [TREE]``.

A read is an attribute of that name, or of its name in the plan's part, on anything called a plan or a part; the owners,
``core/plan`` and the requests that make a plan, are left out.
"""

from __future__ import annotations

import ast
import sys
from functools import cache
from pathlib import Path

import luvc_export

ROOT = Path(luvc_export.__file__).resolve().parents[1]
#: Old name -> (part, name in it).
FIELDS = {
    "bucket": ("encoder", "bucket"),
    "kv_only": ("llm", "kv_only"),
    "joint_tiles": ("sharing", "tiles"),
    "encoder_prune": ("encoder", "prune"),
    "aggregate": ("llm", "aggregate"),
}
#: The second was the whole plan before it had parts.
OWNERS = (
    "luvc_export/core/plan/",
    "luvc_export/core/plan.py",
    "luvc_export/core/plan/request.py",
    "luvc_export/core/planning.py",
)
MOST = 8


@cache
def readers(root: Path = ROOT) -> dict[str, list[str]]:
    """Field -> modules of the tree that read it."""
    modules: dict[str, set[str]] = {name: set() for name in FIELDS}
    names = {*FIELDS, *(name for _, name in FIELDS.values())}
    for room in ("luvc_export", "export", "engines", "runtime", "calibration"):
        for path in sorted((root / room).rglob("*.py")):
            where = path.relative_to(root).as_posix()
            if path.resolve() != root.joinpath(where) or where.startswith(OWNERS):
                continue  # seen through a link, or the field's own
            source = path.read_text(encoding="utf-8")
            for node in ast.walk(ast.parse(source)) if any(f".{name}" in source for name in names) else ():
                if not isinstance(node, ast.Attribute) or not isinstance(node.ctx, ast.Load):
                    continue
                owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
                for old, (part, name) in FIELDS.items():
                    on_plan = owner == "plan" or owner.endswith("_plan")
                    if (node.attr == name and owner == part) or (node.attr == old and (on_plan or owner == part)):
                        modules[old].add(where)
    return {name: sorted(modules) for name, modules in modules.items()}


if __name__ == "__main__":
    for field, modules in readers(*(Path(word).resolve() for word in sys.argv[1:2])).items():
        print(f"{field}: {len(modules)}\n  " + "\n  ".join(modules))
