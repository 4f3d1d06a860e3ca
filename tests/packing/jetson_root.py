"""A root folder with the release files of a Jetson: formats and sources as in packing/device_facts.py.

Lines are as boards print them: JetPack 6.2 on Jetson AGX Orin, 7.2 on the same board.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from luvc_export.packing import record

#: A wheel for the first one's board, not for this machine.
WHEEL = "numpy-2.2.6-cp310-cp310-manylinux_2_17_aarch64.manylinux2014_aarch64.whl"
#: Targets of the two systems.
TARGETS = {"6.2": "jetson-agx-orin-jp62", "7.2": "jetson-agx-orin-jp72"}
RELEASES = {
    "6.2": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, "
    "DATE: Wed Jan  8 01:49:37 UTC 2025",
    "7.2": "# R39 (release), REVISION: 2.0, GCID: 45755727, BOARD: generic, EABI: aarch64, "
    "DATE: Mon Jun  1 09:28:48 PM UTC 2026",
}
PACKAGES = {
    "6.2": {"nvidia-l4t-core": "36.4.3-20250107174145", "libnvinfer10": "10.3.0.30-1+cuda12.5"},
    "7.2": {"nvidia-l4t-core": "39.2.0-20260601143210", "libnvinfer10": "10.16.1.11-1+cuda13.2"},
}
MODES = ("MAXN", "MODE_15W", "MODE_30W", "MODE_50W")
_TAIL = "# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n"


def write(root: Path, jetpack: str = "6.2", free_kib: int = 60_000_000, mode: int = 0, held: bool = True) -> Path:
    """Write the files of a board with ``jetpack`` below ``root`` and return ``root``."""
    stanzas = [
        f"Package: {name}\nStatus: install ok installed\nPriority: standard\nArchitecture: arm64\nVersion: {version}\n"
        f"Description: one line\n and a second: with a colon\n"
        for name, version in {"libc6": "2.35-0ubuntu3.8", **PACKAGES[jetpack]}.items()
    ]
    lowest = {"cpu": 2201600 if held else 115200, "gpu": 1300500000 if held else 306000000}
    files = {
        "etc/nv_tegra_release": f"{RELEASES[jetpack]}\n{_TAIL}",
        "var/lib/dpkg/status": "\n".join(stanzas),
        "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
        "proc/meminfo": f"MemTotal: 64336300 kB\nMemFree: {free_kib // 2} kB\nMemAvailable: {free_kib} kB\n",
        "etc/nvpmodel.conf": "".join(f"< POWER_MODEL ID={i} NAME={name} >\n" for i, name in enumerate(MODES)),
        "var/lib/nvpmodel/status": f"pmode:{mode:04d} fmode:quiet\n",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq": f"{lowest['cpu']}\n",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "2201600\n",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "2201600\n",
        "sys/class/devfreq/17000000.gpu/min_freq": f"{lowest['gpu']}\n",
        "sys/class/devfreq/17000000.gpu/cur_freq": "1300500000\n",
        "sys/class/devfreq/17000000.gpu/max_freq": "1300500000\n",
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def script(pack: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(pack / record.SCRIPT), *map(str, arguments)]
    env = {"PATH": os.environ["PATH"], "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, env=env, cwd=pack.parent, capture_output=True, text=True, check=False)


def guarded(folder: Path) -> Path:
    """A Python without network that stops when it imports what the runtime must not."""
    (folder / "guard.py").write_text(
        "import runpy, socket, sys\ndel socket.socket\n"
        "class Guard:\n    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('torch', 'transformers', 'onnx'): raise SystemExit(name + ' was imported')\n"
        "sys.meta_path.insert(0, Guard())\nassert sys.argv[1] == '-I'\nsys.argv = sys.argv[2:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I "{folder}/guard.py" "$@"\n')
    python.chmod(0o755)
    return python
