#!/usr/bin/env bash
# The kernels on this machine's GPU: tests, compute-sanitizer, timing. Usage: plugins/gpu-check.sh [PRESET]
# Writes the timing to docs/measurements/kernels-<GPU>.jsonl. Without a GPU or nvcc it says so and exits 0.
set -euo pipefail
cd "$(dirname "$0")/.."

skip() {
  echo "gpu-check: skipped: $1"
  exit 0
}

command -v nvcc >/dev/null || skip "no nvcc on PATH"
if [ $# -gt 0 ]; then
  preset=$1
  name=$preset
else
  command -v nvidia-smi >/dev/null || skip "no nvidia-smi, so no GPU driver (on a Jetson without it, name the preset)"
  gpu=$(nvidia-smi --query-gpu=name,compute_cap --format=csv,noheader) || skip "nvidia-smi finds no GPU"
  gpu=${gpu%%$'\n'*}
  name=${gpu%,*}
  case ${gpu##*, } in
    8.7) preset=jetson-orin ;;
    11.0) preset=jetson-thor ;;
    8.0 | 9.0 | 10.0) preset=datacenter ;;
    8.9 | 12.0) preset=rtx ;;
    *) skip "no preset for $gpu; name one" ;;
  esac
fi

cmake --preset "$preset"
cmake --build --preset "$preset" -j"$(nproc)"
build=build/$preset/plugins
ctest --preset "$preset"

if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    compute-sanitizer --tool "$tool" --error-exitcode 1 "$build/tests/luvc_cuda_tests"
  done
else
  echo "gpu-check: compute-sanitizer is not on PATH, memcheck and racecheck not run"
fi

mkdir -p docs/measurements
results=docs/measurements/kernels-${name// /-}.jsonl
"$build/luvc_bench" | tee "$results"
echo "gpu-check: timing in $results"
