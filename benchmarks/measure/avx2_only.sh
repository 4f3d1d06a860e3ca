#!/usr/bin/env bash
# Runs Python on a CPU with AVX2 and nothing newer (no VNNI, no AVX-512, no AMX), for example
#   benchmarks/measure/avx2_only.sh -m pytest -n 0 tests/runtime/product_check
# Where the kernel can trap CPUID (cpuid_fault in /proc/cpuinfo: Intel since 2012, most virtual machines on it), newer
# features are hidden from this process and its children at full speed (avx2_only.c, built here by cc). Elsewhere
# qemu-x86_64-static emulates the CPU, some twenty times slower (QEMU 7.2 or newer; Debian's package qemu-user-static;
# QEMU=... names another). PYTHON names the interpreter; a virtual environment's packages are found through its folder.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
if grep -qw cpuid_fault /proc/cpuinfo && command -v cc >/dev/null; then
  mask=$(mktemp -d)
  trap 'rm -rf "$mask"' EXIT
  cc -O2 -Wall -Wextra -Werror -shared -fPIC -o "$mask/avx2_only.so" benchmarks/measure/avx2_only.c -ldl
  # What is remembered of this CPU by what /proc/cpuinfo says, which is not hidden, must not be mixed with this.
  export XDG_CACHE_HOME="$mask/cache"
  LD_PRELOAD="$mask/avx2_only.so${LD_PRELOAD:+:$LD_PRELOAD}" "$python" "$@"
  exit
fi
qemu=${QEMU:-qemu-x86_64-static}
command -v "$qemu" >/dev/null || { echo "no cpuid_fault or no cc, and $qemu is not installed (Debian: apt-get install qemu-user-static)" >&2; exit 3; }
packages=$("$python" -c 'import sys; print(":".join(path for path in sys.path if path.endswith("site-packages")))')
export PYTHONPATH="$PWD:$packages${PYTHONPATH:+:$PYTHONPATH}"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# TSX, PCID and the like are of the named CPU and not of the emulator, which would warn of each.
exec "$qemu" -cpu Haswell-noTSX,-pcid,-x2apic,-tsc-deadline,-invpcid "$(readlink -f "$python")" "$@"
