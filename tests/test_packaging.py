"""The wheel holds everything under one name and imports on its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import luvc_export
from luvc_export.packing import programs

ROOT = Path(luvc_export.__file__).resolve().parents[1]
PARTS = ("calibration", "engines", "export", "runtime")


def checkout(tree: Path) -> Path:
    """What a build reads of a checkout, links as links."""
    tree.mkdir()
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    skipped = shutil.ignore_patterns("__pycache__")
    for folder in ("luvc_export", *PARTS):
        shutil.copytree(ROOT / folder, tree / folder, symlinks=True, ignore=skipped)
    return tree


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made by pip of a copy: what an older build left in ``build/`` of the checkout would go in as well."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = checkout(folder / "checkout")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, tree]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return next(folder.glob("luvc_export-*.whl"))


def test_the_wheel_has_one_top_level_name_every_part_and_the_model(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"luvc_export"}
    for part in ("export/llm/decoder.py", "engines/__init__.py", "runtime/session.py", "calibration/__init__.py"):
        assert f"luvc_export/{part}" in names
    assert {"luvc_export/demo/checkpoint/model.safetensors", "luvc_export/py.typed"} <= set(names)
    packed = zipfile.ZipFile(wheel).getinfo("luvc_export/demo/retriever/model.safetensors").compress_size
    assert packed < 12_000_000, "the model that searches without a download"
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "luvc_export").rglob("*.py")}
    data = {
        path.relative_to(ROOT)
        for part in PARTS
        for kind in ("json", "onnxtxt")
        for path in (ROOT / part).rglob(f"*.{kind}")
    }
    assert data
    sources |= {f"luvc_export/{path.as_posix()}" for path in data}
    assert sources <= set(names), sorted(sources - set(names))
    tables = {f"luvc_export/{name}" for name in ("calibration/parity/tolerances.json", "core/named_plans.json")}
    tables |= {f"luvc_export/trial/{name}.json" for name in ("claims", "steps")}
    assert tables <= set(names) & set(programs.sources()), "of the wheel and of a pack's wheel"
    templates = {path.relative_to(ROOT).as_posix() for path in (ROOT / "calibration").rglob("*.template")}
    assert {f"luvc_export/{name}" for name in templates} <= set(names) and len(templates) == 3


@pytest.mark.slow(beside="test_packaging.py::test_the_wheel_has_one_top_level_name_every_part_and_the_model")
def test_every_module_of_the_unpacked_wheel_imports(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import importlib, pkgutil, sys, luvc_export\n"
        "names = [m.name for m in pkgutil.walk_packages(luvc_export.__path__, 'luvc_export.')]\n"
        "names = [n for n in names if not n.endswith('__main__') and '.tasks.glyph_' not in n]\n"
        "names = [n for n in names if n not in ('luvc_export.ray.cluster', 'luvc_export.triton.model')]\n"
        "for name in names:\n"
        "    module = importlib.import_module(name)\n"
        "    assert module.__file__.startswith(sys.argv[1]), module.__file__\n"
        "print(len(names))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "site")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 50


def build(what: str, tree: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """What pip and build call, without pip: ``wheel``, ``sdist`` or ``editable`` of a tree, into a folder."""
    code = f"import sys\nfrom setuptools import build_meta\nprint(build_meta.build_{what}(sys.argv[1]))"
    out.mkdir(exist_ok=True)
    command = [sys.executable, "-W", "ignore", "-c", code, str(out)]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)


@pytest.mark.slow(beside="test_packaging.py::test_the_wheel_has_one_top_level_name_every_part_and_the_model")
def test_an_sdist_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    sdist = build("sdist", checkout(tmp_path / "checkout"), tmp_path / "sdist")
    assert sdist.returncode == 0, sdist.stderr
    with tarfile.open(next((tmp_path / "sdist").glob("luvc_export-*.tar.gz"))) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (tree,) = (tmp_path / "unpacked").iterdir()
    assert not any((tree / "luvc_export" / part).is_symlink() for part in PARTS)
    again = build("wheel", tree, tmp_path / "again")
    assert again.returncode == 0, again.stderr
    rebuilt = zipfile.ZipFile(next((tmp_path / "again").glob("*.whl")))
    first = zipfile.ZipFile(wheel)
    names = {name for name in first.namelist() if name.startswith("luvc_export/")}
    assert names == {name for name in rebuilt.namelist() if name.startswith("luvc_export/")}
    assert all(first.read(name) == rebuilt.read(name) for name in names)


@pytest.fixture
def windows(tmp_path: Path) -> Path:
    """A checkout as git writes it where it makes no links: each is a text file that holds its target."""
    tree = checkout(tmp_path / "windows")
    for part in PARTS:
        (tree / "luvc_export" / part).unlink()
        (tree / "luvc_export" / part).write_text(f"../{part}")
    return tree


@pytest.mark.parametrize("what", ["wheel", "sdist", "editable"])
def test_without_the_links_nothing_is_built(windows: Path, what: str) -> None:
    process = build(what, windows, windows / "out")
    assert process.returncode != 0 and not list((windows / "out").iterdir())
    assert "links in luvc_export are missing" in process.stderr and "a file that says '../engines'" in process.stderr
    assert "git config core.symlinks true" in process.stderr and "Traceback" not in process.stderr


def test_one_missing_link_is_enough_and_pip_shows_why(windows: Path) -> None:
    for part in PARTS[1:]:
        (windows / "luvc_export" / part).unlink()
        (windows / "luvc_export" / part).symlink_to(f"../{part}")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", "out", "."]
    process = subprocess.run(command, cwd=windows, capture_output=True, text=True, check=False)
    printed = process.stdout + process.stderr
    assert process.returncode != 0 and not list(windows.glob("out/*"))
    assert f"where: luvc_export/{PARTS[0]}" in printed and f"where: luvc_export/{PARTS[1]}" not in printed
    assert "git checkout HEAD -- luvc_export/calibration" in printed


@pytest.mark.slow(beside="test_packaging.py::test_the_wheel_has_one_top_level_name_every_part_and_the_model")
def test_an_sdist_has_all_that_its_tests_need_or_none_of_them(tmp_path: Path) -> None:
    """Setuptools takes every tests/test*.py unless told otherwise: ours were there without their conftest."""
    tree = checkout(tmp_path / "checkout")
    (tree / "tests" / "core").mkdir(parents=True)
    for name in ("conftest.py", "test_errors.py", "core/test_plan.py"):
        shutil.copy(ROOT / "tests" / name, tree / "tests" / name)
    done = build("sdist", tree, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    with tarfile.open(next((tmp_path / "out").glob("*.tar.gz"))) as archive:
        names = archive.getnames()
    assert any(name.endswith("luvc_export/errors.py") for name in names)
    assert not [name for name in names if "/tests/" in name or name.endswith("/tests")]
