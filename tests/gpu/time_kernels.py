"""Time SpectrumPrune against torch eager and against its ONNX form in ONNX Runtime: medians as JSON lines.

    python tests/gpu/time_kernels.py      # plugins/gpu-check.sh keeps it

``--device cpu`` only shows that the script runs: its figures compare a reference implementation.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))  # run as a script: tests/ holds native_kernels
import native_kernels as native

from luvc_export.errors import LuvcError, MachineError
from luvc_export.export.compression import scores, spu

EPSILON = 1e-6


class Prune(torch.nn.Module):
    """The Python functions of one prune; exported, they are the inlined ONNX form."""

    def __init__(self, basis: torch.Tensor, keep: int) -> None:
        super().__init__()
        self.register_buffer("basis", basis)
        self.keep = keep

    def forward(self, values: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        wide = values.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPSILON) * weight.float()
        score = scores.find("low").score(scores.ScoreInput(normed[None], self.basis, "token"))
        kept = spu.select(score, self.keep)
        groups, tokens, _ = values.shape
        flat = spu.flat_index(kept, tokens)
        return spu.gather(values.reshape(1, groups * tokens, -1), flat, groups, tokens, self.keep), kept


def median_us(call: Callable[[], object], device: str, runs: int) -> float:
    """Median microseconds of ``call``: CUDA events on a GPU, wall clock on the CPU."""
    times = []
    for run in range(runs + 3):
        if device == "cuda":
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            call()
            stop.record()
            stop.synchronize()
            elapsed = start.elapsed_time(stop) * 1e3
        else:
            began = time.perf_counter()
            call()
            elapsed = (time.perf_counter() - began) * 1e6
        if run >= 3:
            times.append(elapsed)
    return statistics.median(times)


def onnx_call(model: Prune, values: torch.Tensor, weight: torch.Tensor, device: str) -> Callable[[], object]:
    """A run of the exported module with inputs and outputs bound on ``device``."""
    file = io.BytesIO()
    # The optimiser makes one RMSNormalization of float16 values and float32 weights, which ONNX Runtime 1.31 refuses.
    program = torch.onnx.export(model, (values, weight), dynamo=True, opset_version=23, verbose=False, optimize=False)
    assert program is not None
    program.save(file)
    provider = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
    if provider not in ort.get_available_providers():
        raise MachineError(f"ONNX Runtime has no {provider}", fix="pip install onnxruntime-gpu")
    session = ort.InferenceSession(file.getvalue(), providers=[provider])
    binding = session.io_binding()
    for item, tensor in zip(session.get_inputs(), (values, weight), strict=True):
        shape, address = tuple(tensor.shape), tensor.data_ptr()
        binding.bind_input(item.name, device, 0, np.float16, shape, address)
    for item in session.get_outputs():
        binding.bind_output(item.name, device)
    return lambda: session.run_with_iobinding(binding)


def time_shape(library: native.Native, tokens: int, channels: int, device: str, runs: int) -> dict[str, object]:
    """Medians of the three forms at one shape, float16, K = N / 2."""
    keep = tokens // 2
    torch.manual_seed(0)
    values = torch.randn(1, tokens, channels, device=device).to(torch.float16)
    weight = torch.ones(channels, device=device, dtype=torch.float16)
    basis = spu.lowpass_basis(tokens, 0.25).to(device)
    kept = torch.empty(1, keep, channels, device=device, dtype=torch.float16)
    indices = torch.empty(1, keep, device=device, dtype=torch.int64)
    # Basis columns and a tile's partial sums, in double on the host: an upper bound of both devices' needs.
    size = 8 * (basis.shape[1] * channels + tokens * (channels // 64 + 8) + 8 * channels) + 4096
    workspace = torch.empty(size, device=device, dtype=torch.uint8)
    stream = torch.cuda.current_stream().cuda_stream if device == "cuda" else 0
    model = Prune(basis, keep).to(device).eval()
    row: dict[str, object] = {"N": tokens, "D": channels, "K": keep, "device": device}
    row["native_us"] = median_us(
        lambda: library.spectrum_prune(
            values, weight, basis, kept, indices, epsilon=EPSILON, workspace=workspace, stream=stream
        ),
        device,
        runs,
    )
    with torch.no_grad():
        row["torch_us"] = median_us(lambda: model(values, weight), device, runs)
        same = set(model(values, weight)[1].flatten().tolist()) == set(indices.flatten().tolist())
    row["same_choice"] = same
    try:
        row["onnx_us"] = median_us(onnx_call(model, values, weight, device), device, runs)
    except MachineError as error:
        row["onnx_us"] = None
        print(error, file=sys.stderr)
    return row


def main(arguments: list[str] | None = None) -> int:
    """Print one JSON object a shape; exit code 3 without a GPU or a library with kernels for it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--channels", type=int, nargs="+", default=[2048, 3584, 5120])
    parser.add_argument("--runs", type=int, default=51)
    options = parser.parse_args(arguments)
    try:
        if options.device == "cuda" and not torch.cuda.is_available():
            raise MachineError("no CUDA device")
        library = native.Native()
        if options.device == "cuda" and not library.has_cuda:
            fix = "build a CUDA preset (plugins/README.md) and name it in $LUVC_NATIVE_LIBRARY"
            raise MachineError("the native library has no CUDA kernels", where=str(library.path), fix=fix)
        for tokens in options.tokens:
            for channels in options.channels:
                print(json.dumps(time_shape(library, tokens, channels, options.device, options.runs)), flush=True)
    except LuvcError as error:
        print(f"time_kernels: nothing more was measured: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
