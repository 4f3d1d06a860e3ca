"""Files and modules that pages, docstrings and comments name are there."""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from syntax import scopes

import luvc_export

ROOT = Path(luvc_export.__file__).resolve().parents[1]
PARTS = ("export", "engines", "runtime", "calibration")
FOLDERS = (*PARTS, "luvc_export", "docs", "tests", "plugins", "examples", "benchmarks")
#: Rooms of ``luvc_export`` whose modules are also named without it: ``runtime.session``.
ROOMS = (*PARTS, "core", "bundle", "packing", "pipeline", "cli")
#: Files of other projects that docstrings cite, with the project on the same line or the next.
CITED = {"docs/operators.md", "jetson_containers/l4t_version.py", "jtop/core/nvpmodel.py"}
#: Groups of entry points, which look like modules.
GROUPS = {f"luvc_export.{kind}" for kind in ("families", "passes", "scores", "targets")}
#: What is built, written by commands or made by users, not kept.
MADE = re.compile(r"(^|/)(build|dist|runs|site|wheels|cases|demo-out)/|^x/|[<>*{}A-Z]{2,}|[<>*{}]")

SUFFIXES = r"(?:py|c|cpp|h|cu|cuh|sh|md)"
PATH = re.compile(rf"(?<![\w./~-])((?:[\w.-]+/)+[\w.-]+\.{SUFFIXES}|[a-z_0-9]+\.(?:py|cuh?|cpp))(?![\w/-])(?!\.\w)")
FOLDER = re.compile(rf"(?<![\w./-])((?:{'|'.join(FOLDERS)})(?:/[\w-]+)*/?)(?=`)")
LINK = re.compile(r"\[([^]]*)\]\(([^)#:\s]+)(?:#[^)]*)?\)")
IMPORT = re.compile(r"^\s*from luvc_export((?:\.\w+)*) import (\w+(?:, \w+)*)")
DOTTED = re.compile(r"(?<![\w./-])luvc_export((?:\.[A-Za-z_]\w*)+)(?![\w/])")
ROOM = re.compile(rf"``((?:{'|'.join(ROOMS)})(?:\.[A-Za-z_]\w*)+)(?:\(.*?\))?``")


@functools.cache
def files() -> frozenset[str]:
    """Every file of the checkout, relative, that is not built or hidden."""
    skipped = {"__pycache__", "build", "dist", "node_modules"}  # and environments that benchmarks/run.py makes
    paths = set()
    for top in [*FOLDERS, *(path.name for path in ROOT.iterdir() if path.is_file())]:
        for path in [ROOT / top] if (ROOT / top).is_file() else (ROOT / top).rglob("*"):
            if path.is_file() and not skipped & set(path.parts) and "site-packages" not in path.parts:
                paths.add(path.relative_to(ROOT).as_posix())
    return frozenset(paths)


@functools.cache
def ends() -> frozenset[str]:
    """Ends of files' paths, without the first folder."""
    parts = [file.split("/") for file in files()]
    return frozenset("/".join(path[start:]) for path in parts for start in range(1, len(path)))


def is_there(name: str, page: Path) -> bool:
    """A path from the root, from the page, or the end of one, such as ``passes/fuse_qkv.py``."""
    if (ROOT / name).exists() or (page.parent / name).exists():
        return True
    return name.removeprefix("./") in ends()


@functools.cache
def names_of(module: Path) -> set[str]:
    """What a module defines or imports at its top level, and what it says it gives."""
    names = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            names.add(node.value)
    return names


def resolves(dotted: str) -> bool:
    """Whether ``luvc_export.`` + ``dotted`` is a module, or a name in one."""
    place = ROOT / "luvc_export"
    for part in dotted.split("."):
        if (place / part).is_dir():
            place = place / part
        elif (place / f"{part}.py").is_file():
            place = place / f"{part}.py"
        else:
            return part in names_of(place if place.is_file() else place / "__init__.py")
    return True


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of a page's lines, or of a module's docstrings and comments."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        yield from enumerate(text.splitlines(), 1)
        return
    for node in scopes(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False):
            first = node.body[0]
            yield from enumerate((ast.get_docstring(node, clean=False) or "").splitlines(), first.lineno)
    if any(stale(line.partition("#")[2], path) for line in text.splitlines() if "#" in line):  # tokens take long
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string


def stale(line: str, page: Path) -> list[str]:
    """What a line names that is not there."""
    paths = {name for pattern in (PATH, FOLDER) for name in pattern.findall(line)} - CITED
    gone = [name for name in sorted(paths) if not MADE.search(name) and not is_there(name, page)]
    dotted = {f"luvc_export{name}" for name in DOTTED.findall(line)} - GROUPS
    gone += [name for name in sorted(dotted) if not resolves(name.removeprefix("luvc_export."))]
    gone += [name for name in ROOM.findall(line) if not resolves(name)]
    for module, names in IMPORT.findall(line):
        gone += [f"{name} of luvc_export{module}" for name in names.split(", ") if not resolves(f"{module}.{name}"[1:])]
    if page.suffix == ".md":
        for text, target in LINK.findall(line):
            called = text.strip("`")
            if not (page.parent / target).exists() or (PATH.fullmatch(called) and not target.endswith(called)):
                gone.append(f"[{text}]({target})")
    return gone


PAGES = sorted(
    ROOT / name
    for name in files()
    if name.endswith((".md", ".py")) and name != "CHANGELOG.md" and not name.startswith("luvc_export/demo/MODEL_CARD")
)


def test_every_file_and_module_named_in_prose_is_there() -> None:
    unread = [
        f"{page.relative_to(ROOT)}:{number}: {name}"
        for page in PAGES
        for number, line in prose(page)
        for name in stale(line, page)
    ]
    assert len(PAGES) > 300 and not unread, "\n".join(unread)


@pytest.mark.parametrize(
    "line",
    [
        "see [the code](../core/manifest.py)",
        "written in `engines/pack/facts.py`",
        "the folder `calibration/subjects`",
        "``luvc_export.runtime.trt`` runs it",
        "``runtime.tiling`` chooses",
        "what ``calibration.tolerances.TABLE`` says",
        "`trt_cache.py`: states that never change",
        "[timing.py](../engines/builder.py)",
        "from luvc_export.core.plan import Plan, Plane",
    ],
)
def test_what_is_gone_is_found(line: str) -> None:
    assert stale(line, ROOT / "docs/cli.md"), line


@pytest.mark.parametrize(
    "line",
    [
        "see [the manifest](../luvc_export/bundle/manifest.py)",
        "`export/surgeon/passes/fuse_qkv.py`, or `passes/fuse_qkv.py`, in `export/surgeon`",
        "``luvc_export.core.plan.Plan.keep`` and ``core.plan.Plan``",
        "from luvc_export.core.plan import Plan, MergePass",
        "from luvc_export import load_bundle",
        "[`plan.py`](../luvc_export/core/plan/plan.py) and [a plan](../luvc_export/core/plan/plan.py)",
        "`luvc_export.load_bundle` and https://example.org/x/y.py",
    ],
)
def test_what_is_there_is_not(line: str) -> None:
    assert not stale(line, ROOT / "docs/cli.md"), line
