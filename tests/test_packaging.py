"""The wheel holds everything under one name and imports on its own."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import luvc_export

ROOT = Path(luvc_export.__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, ROOT]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return next(folder.glob("luvc_export-*.whl"))


def test_the_wheel_has_one_top_level_name_every_part_and_the_model(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"luvc_export"}
    for part in ("export/llm/decoder.py", "engines/__init__.py", "runtime/session.py", "calibration/__init__.py"):
        assert f"luvc_export/{part}" in names
    assert "luvc_export/demo/checkpoint/model.safetensors" in names
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "luvc_export").rglob("*.py")}
    assert sources <= set(names), sorted(sources - set(names))


def test_every_module_of_the_unpacked_wheel_imports(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import importlib, pkgutil, sys, luvc_export\n"
        "names = [m.name for m in pkgutil.walk_packages(luvc_export.__path__, 'luvc_export.')]\n"
        "names = [n for n in names if not n.endswith('__main__')]\n"
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
