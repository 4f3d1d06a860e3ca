"""The import rule of the four folders, read from the imports themselves."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import luvc_export

ROOT = Path(luvc_export.__file__).resolve().parent
PARTS = ("export", "engines", "runtime", "calibration")
GLUE = ("cli", "pipeline", "packing")
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
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in typing_only) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.append((str(node.module), id(node) in typing_only))
    return found


SOURCES = sorted(path for path in ROOT.rglob("*.py") if "__pycache__" not in path.parts)
SOURCES += sorted(path for part in PARTS for path in (ROOT / part).resolve().rglob("*.py"))


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
                    assert used in ALLOWED[part], f"{path} imports {module}"
                assert used not in GLUE or part == "core" or typing_only, f"{path} imports {module}"
                if part in ("runtime", "engines", "core"):
                    assert words[0] not in HEAVY, f"{path} imports {module}"


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
