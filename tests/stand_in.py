"""Builds the stand-in of the CUDA driver (cuda_stand_in.c), once."""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("cuda_stand_in.c")


@functools.cache
def library() -> str:
    """Path of the built stand-in; skips the test where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler to build the stand-in of the CUDA driver with")
    target = Path(tempfile.mkdtemp(prefix="luvc-stand-in-")) / "libcuda_stand_in.so"
    headers = [path.parent for path in sorted(Path("/usr/local").glob("cuda*/include/cuda.h"))]
    flags = ["-std=c11", "-D_GNU_SOURCE", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]
    command = [compiler, *flags, *(f"-I{path}" for path in headers[:1]), str(SOURCE), "-o", str(target)]
    subprocess.run(command, check=True)
    return str(target)
