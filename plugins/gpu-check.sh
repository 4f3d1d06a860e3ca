#!/usr/bin/env bash
# What of a trial (luvc-export trial) needs this machine's GPU and a checkout. Usage: plugins/gpu-check.sh [PRESET];
# PYTHON names the interpreter, OUT a folder for results.
#   kernels   (nvcc)      tests, compute-sanitizer, timing
#   tests     (pytest)    tests/gpu
#   runtime   (pytest)    the runtime of engines on this driver, ONNX Runtime in the engines' place
#   layers    (torch)     compressed against uncompressed LLM layers under a CUDA graph
#   models    (transformers) whole models as they come against compression inside
#   native    (library)   native kernels against torch and ONNX Runtime
#   engines   (TensorRT)  the bundled model's engines against ONNX Runtime
# Results go to the folder OUT (gpu-check-out). Without a GPU nothing is checked: it says so and exits 3. A part that misses its tool
# is named and skipped; a part that fails makes the exit code 1.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
out=${OUT:-gpu-check-out}
export OUT=$out
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}  # from a checkout that is not installed too
failed=""

gpu=$("$python" -c '
import sys
from luvc_export.errors import LuvcError
from luvc_export.runtime.cuda.device import Gpu
try:
    info = Gpu().info
except LuvcError as error:
    sys.exit(str(error))
print(f"{info.name},{info.capability[0]}.{info.capability[1]}")') || {
  echo "gpu-check: nothing was checked or measured, this machine has no usable GPU (see above)" >&2
  exit 3
}
name=${gpu%,*}
echo "gpu-check: $name, compute capability ${gpu##*,}"

kernels() {
  local preset=${1:-} tool build
  command -v nvcc >/dev/null || { echo "gpu-check: kernels skipped: no nvcc on PATH"; return 0; }
  if [ -z "$preset" ]; then
    case ${gpu##*,} in
      8.7) preset=jetson-orin ;;
      11.0) preset=jetson-thor ;;
      8.0 | 9.0 | 10.0) preset=datacenter ;;
      8.9 | 12.0) preset=rtx ;;
      *) echo "gpu-check: kernels skipped: no preset for compute capability ${gpu##*,}; name one"; return 0 ;;
    esac
  fi
  cmake --preset "$preset" && cmake --build --preset "$preset" -j"$(nproc)" && ctest --preset "$preset" || return 1
  build=build/$preset/plugins
  if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
      compute-sanitizer --tool "$tool" --error-exitcode 1 "$build/tests/luvc_cuda_tests" || return 1
    done
  else
    echo "gpu-check: compute-sanitizer is not on PATH, memcheck and racecheck not run"
  fi
  mkdir -p "$out"
  "$build/luvc_bench" | tee "$out/kernels-${name// /-}.jsonl"
}

# pytest's exit code 3 is an error of its own, not something this machine lacks.
tests() {
  "$python" -m pytest tests/gpu || return 1
}

runtime() {
  LUVC_TEST_CUDA=libcuda.so.1 "$python" -m pytest tests/runtime/cuda tests/runtime/trt || return 1
}

native() {
  local file=$out/kernels-against-torch-${name// /-}.jsonl code=0
  mkdir -p "$out"
  "$python" tests/gpu/time_kernels.py >"$file.part" || code=$?
  if [ "$code" -eq 0 ]; then mv "$file.part" "$file"; else rm -f "$file.part"; fi
  return "$code"
}

# A part: exit code 3 says that this machine lacks something for it, which the part has printed.
part() {
  local title=$1 code=0
  shift
  echo "gpu-check: $title"
  "$@" || code=$?
  if [ "$code" -eq 3 ]; then
    echo "gpu-check: $title skipped (see above)"
  elif [ "$code" -ne 0 ]; then
    failed="$failed $title"
  fi
}

part kernels kernels "${1:-}"
part tests tests
part layers "$python" tests/gpu/time_layers.py
part runtime runtime
part models "$python" tests/gpu/time_transformers.py
part native native
part engines "$python" tests/gpu/time_engines.py
if [ -n "$failed" ]; then
  echo "gpu-check: failed:$failed" >&2
  exit 1
fi
echo "gpu-check: done, results in $out"
