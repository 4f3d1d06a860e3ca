#!/usr/bin/env bash
# Runs Python on an emulated x86-64 CPU with AVX2 and nothing newer (no VNNI, no AVX-512, no AMX), for example
#   benchmarks/measure/avx2_only.sh -m pytest -n 0 tests/runtime/product_check
# Needs qemu-x86_64-static (QEMU 7.2 or newer emulates AVX2; Debian's package qemu-user-static). QEMU=... names another.
# PYTHON names the interpreter; a virtual environment's packages are found through its site-packages folder.
set -euo pipefail
cd "$(dirname "$0")/../.."
qemu=${QEMU:-qemu-x86_64-static}
command -v "$qemu" >/dev/null || { echo "$qemu is not installed (Debian: apt-get install qemu-user-static)" >&2; exit 3; }
python=${PYTHON:-.venv/bin/python}
packages=$("$python" -c 'import sys; print(":".join(path for path in sys.path if path.endswith("site-packages")))')
export PYTHONPATH="$PWD:$packages${PYTHONPATH:+:$PYTHONPATH}"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# TSX, PCID and the like are of the named CPU and not of the emulator, which would warn of each.
exec "$qemu" -cpu Haswell-noTSX,-pcid,-x2apic,-tsc-deadline,-invpcid "$(readlink -f "$python")" "$@"
