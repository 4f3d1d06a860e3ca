"""Builds the stand-in of the CUDA driver (cuda_stand_in.c), once; ``LUVC_TEST_CUDA=libcuda.so.1`` takes the real one.

With it, what is tested on the stand-in runs on the machine's GPU, but for what is marked ``alone``.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("cuda_stand_in.c")


def on_gpu() -> bool:
    """Whether tests run on the machine's own driver."""
    return bool(os.environ.get("LUVC_TEST_CUDA"))


#: Marks a test that asks the stand-in for a fault, its name or its size.
alone = pytest.mark.skipif(on_gpu(), reason="asks what only the stand-in does")


@functools.cache
def library() -> str:
    """Path of the built stand-in, or the driver's name; skips the test where there is no C compiler."""
    if on_gpu():
        return os.environ["LUVC_TEST_CUDA"]
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler to build the stand-in of the CUDA driver with")
    target = Path(tempfile.mkdtemp(prefix="luvc-stand-in-")) / "libcuda_stand_in.so"
    headers = [path.parent for path in sorted(Path("/usr/local").glob("cuda*/include/cuda.h"))]
    flags = ["-std=c11", "-D_GNU_SOURCE", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]
    command = [compiler, *flags, *(f"-I{path}" for path in headers[:1]), str(SOURCE), "-o", str(target)]
    subprocess.run(command, check=True)
    return str(target)
