"""The library of native kernels, built once for all workers from the sources of this checkout."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from import_graph import ROOT
from made_once import made_once
from native_kernels.library import LIBRARY_NAME


def sources() -> set[Path]:
    """What CMake may read: its files and those of C, C++ and CUDA below ``plugins``."""
    suffixes = {".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp", ".txt", ".cmake"}
    return {ROOT / "CMakeLists.txt"} | {path for path in (ROOT / "plugins").rglob("*") if path.suffix in suffixes}


def native_library(cache: Path) -> Path:
    """The library, from ``cache`` or built there; needs cmake and a C++ compiler."""
    return made_once(cache, Path(__file__), _build, sources()) / LIBRARY_NAME


def _build(folder: Path) -> None:
    with TemporaryDirectory() as build:
        configure = ["cmake", "-S", ROOT, "-B", build, "-DLUVC_CUDA=OFF", "-DLUVC_TESTS=OFF", "-DLUVC_WERROR=ON"]
        subprocess.run(configure, check=True, stdout=subprocess.PIPE)
        subprocess.run(["cmake", "--build", build, "-j2"], check=True, stdout=subprocess.PIPE)
        folder.mkdir()
        shutil.copy2(Path(build, "plugins", LIBRARY_NAME), folder)
