"""The import rule of the four folders, read from the imports themselves."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from syntax import importing, scopes

import luvc_export

ROOT = Path(luvc_export.__file__).resolve().parent
PARTS = ("export", "engines", "runtime", "calibration")
GLUE = ("cli", "pipeline", "packing", "serve", "trial", "batch", "ray", "triton", "search")
#: Rooms and modules of the root that everything may use, each with what it may use itself.
SHARED = {
    "errors": set[str](),
    "version": set[str](),
    "registry": {"errors"},
    "signals": set[str](),
    "core": {"errors", "registry"},
    "bundle": {"core", "errors"},
    "demo": {"errors"},
}
ALLOWED = {
    "core": set[str](),
    "runtime": set[str](),
    "engines": set[str](),
    "export": set[str](),
    "calibration": {"export", "runtime"},
    "glue": set(PARTS),
}
HEAVY = ("torch", "transformers", "onnx", "onnxscript", "onnx_ir")


def owner(path: Path) -> str:
    top = path.relative_to(ROOT).parts[0].removesuffix(".py")
    return top if top in PARTS else "glue" if top in GLUE else "core"


def imports(path: Path) -> list[tuple[str, bool]]:
    """(module, only for type checkers) of every import in a file, those inside functions too."""
    nodes = importing(path.resolve())
    typing_only = {
        id(inner)
        for node in nodes
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in scopes(node)
    }
    names = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [(alias.name, id(node) in typing_only) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.append((str(node.module), id(node) in typing_only))
    return names


SOURCES = sorted(path for path in ROOT.rglob("*.py") if "__pycache__" not in path.parts)
SOURCES += sorted(path for part in PARTS for path in (ROOT / part).resolve().rglob("*.py"))


def test_dir_shows_the_public_names_and_nothing_else() -> None:
    """In a process of its own: what was imported by then would show."""
    code = (
        "import luvc_export as l, sys; print(*dir(l)); [getattr(l, n) for n in dir(l) if n not in sys.argv[1:]]; "
        "print(l.Session.__module__, l.Plan.__module__, l.Sampling.__module__, l.Generation.__module__)"
    )
    done = subprocess.run([sys.executable, "-c", code, "compressed"], capture_output=True, text=True, check=True)
    names, modules = done.stdout.splitlines()
    assert names.split() == sorted(luvc_export.__all__)
    assert {"Generation", "Plan", "Sampling", "Session", "load_bundle"} <= set(names.split())
    assert modules.split()[0] == "luvc_export.runtime.session" and len(modules.split()) == 4


def test_links_point_at_the_top_level_folders() -> None:
    for part in PARTS:
        link = ROOT / part
        assert link.is_symlink() and link.readlink() == Path("..") / part
    assert len({path.resolve() for path in SOURCES}) > 30


@pytest.mark.parametrize("part", [*PARTS, "core"])
def test_a_part_imports_only_what_it_may(part: str) -> None:
    folders = [(ROOT / part).resolve()] if part in PARTS else [ROOT]
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            if part == "core" and (any(p in path.relative_to(ROOT).parts for p in PARTS) or owner(path) == "glue"):
                continue
            for module, typing_only in imports(path):
                words = module.split(".")
                used = words[1] if words[0] == "luvc_export" and len(words) > 1 else ""
                if used in PARTS and used != part:
                    named = typing_only and path == ROOT / "__init__.py"  # the lazy public names
                    assert used in ALLOWED[part] or named, f"{path} imports {module}"
                assert used not in GLUE or part == "core" or typing_only, f"{path} imports {module}"
                if part in ("runtime", "engines", "core"):
                    assert words[0] not in HEAVY, f"{path} imports {module}"


@pytest.mark.parametrize("room", sorted(SHARED))
def test_a_shared_room_imports_only_what_it_may(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py")) if (ROOT / room).is_dir() else [ROOT / f"{room}.py"]
    for path in files:
        for module, _ in imports(path):
            words = module.split(".")
            if words[0] == "luvc_export" and len(words) > 1:
                assert words[1] in SHARED[room] | {room}, f"{path} imports {module}"


@pytest.mark.parametrize(
    ("room", "beside"),
    [("serve", {"version"}), ("batch", {"signals"}), ("ray", {"batch"}), ("triton", {"serve"}), ("search", {"batch"})],
)
def test_who_answers_many_needs_the_light_runtime_alone(room: str, beside: set[str]) -> None:
    for path in sorted((ROOT / room).rglob("*.py")):
        for module, _ in imports(path):
            words = module.split(".")
            assert words[0] not in HEAVY, f"{path} imports {module}"
            if words[0] == "luvc_export" and len(words) > 1:
                allowed = {room, "runtime", "bundle", "core", "errors"} | beside
                assert words[1] in allowed, f"{path} imports {module}"


def graph() -> dict[str, set[str]]:
    """Module -> the modules of this package it imports, those inside functions and for type checkers too."""
    files = {}
    for path in SOURCES:
        inside = ROOT / path.relative_to(ROOT.parent) if not path.is_relative_to(ROOT) else path
        parts = ("luvc_export", *inside.relative_to(ROOT).with_suffix("").parts)
        files[".".join(parts).removesuffix(".__init__")] = path
    imports_of: dict[str, set[str]] = {}
    for module, path in files.items():
        used = set()
        for node in importing(path.resolve()):
            if isinstance(node, ast.ImportFrom):
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                used |= {name if name in files else str(node.module) for name in names}
            elif isinstance(node, ast.Import):
                used |= {alias.name for alias in node.names}
        imports_of[module] = used & set(files) - {module}
    return imports_of


def cycles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Modules that import each other: what is left when modules that import nothing left are taken away in turn."""
    left = {module: set(used) for module, used in edges.items()}
    while free := [module for module, used in left.items() if not used & left.keys()]:
        for module in free:
            del left[module]
    while ends := [module for module in left if not any(module in used for used in left.values())]:
        for module in ends:
            del left[module]
    return [sorted(left)] if left else []


def test_no_modules_import_each_other() -> None:
    assert cycles(graph()) == []
    assert len(graph()) > 200
    assert cycles({"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": set(), "e": {"a"}}) == [["a", "b", "c"]], "sabotage"


def test_bare_names_are_refused() -> None:
    for part in PARTS:
        result = subprocess.run(
            [sys.executable, "-c", f"import {part}"], cwd=ROOT.parent, capture_output=True, text=True, check=False
        )
        assert result.returncode == 1 and f"import luvc_export.{part}" in result.stderr


def test_the_public_names_import_lazily_and_help_is_light() -> None:
    code = (
        "import sys, luvc_export, luvc_export.cli\n"
        "sys.argv = ['luvc-export', '--help']\n"
        "try: luvc_export.cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'onnx', 'onnxruntime', 'numpy', 'PIL', 'matplotlib'}\n"
        "print(sorted(heavy & sys.modules.keys()), 'luvc_export.pipeline' in sys.modules)\n"
        "print(luvc_export.load_bundle.__name__, sorted(heavy & sys.modules.keys()))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "make-random" in result.stdout
    assert result.stdout.splitlines()[-2:] == ["[] False", "load_bundle []"]
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = luvc_export.nothing
