"""nvcc of the version the table was made with: the system's, or from packages into a folder of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

#: Registers are the compiler's choice, so the table is of one version.
VERSION = "13.0.88"
#: All that nvcc needs to compile kernels without a toolkit (PyPI).
PACKAGES = (
    f"nvidia-cuda-nvcc=={VERSION}",
    f"nvidia-cuda-crt=={VERSION}",
    f"nvidia-nvvm=={VERSION}",
    "nvidia-cuda-cccl==13.0.85",
    "nvidia-cuda-runtime==13.0.96",
)


class CompilerError(Exception):
    """There is no nvcc, or it refuses the kernels."""


def version_of(nvcc: str) -> str | None:
    """Version an nvcc says it has; None where it says none."""
    try:
        text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return None
    release = re.search(r", V([\d.]+)", text)
    return release[1] if release else None


def find(folder: Path) -> str:
    """Path of an nvcc of ``VERSION``: ``$CUDACXX``, the one on PATH, or one installed into ``folder`` now.

    Raises:
        CompilerError: It cannot be installed.
    """
    for candidate in (os.environ.get("CUDACXX"), shutil.which("nvcc")):
        if candidate and version_of(candidate) == VERSION:
            return candidate
    return _from_packages(folder)


def _from_packages(folder: Path) -> str:
    python = folder / "bin" / "python"
    places = sorted(folder.glob("lib/python*/site-packages/nvidia/cu13/bin/nvcc"))
    if not places or version_of(str(places[0])) != VERSION:
        print(f"nvcc {VERSION} from packages into {folder}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        command = [
            str(python),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            *PACKAGES,
        ]
        installed = subprocess.run(command, capture_output=True, text=True, check=False)
        if installed.returncode:
            raise CompilerError(f"nvcc {VERSION} cannot be installed from packages:\n{installed.stderr.strip()}")
        places = sorted(folder.glob("lib/python*/site-packages/nvidia/cu13/bin/nvcc"))
    if not places or version_of(str(places[0])) != VERSION:
        raise CompilerError(f"the packages in {folder} hold no nvcc {VERSION}: {', '.join(PACKAGES)}")
    return str(places[0])
