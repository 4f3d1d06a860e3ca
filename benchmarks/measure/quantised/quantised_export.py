"""Memory of exporting a quantised checkpoint: random codes in a real model's shapes, exported in a process of its own.

Run: python benchmarks/measure/quantised/quantised_export.py --form awq --form pack4 --preset qwen2.5-vl-3b --folder DIR

Prints for each form the checkpoint's bytes, the largest resident set of the process that exports, their ratio, and
how often a quantised weight was widened to floating point.
"""

from __future__ import annotations

import argparse
import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

GROUP = 128
#: What the exporting process runs.
EXPORT = "import sys; sys.path.insert(0, sys.argv[3]); import quantised_export; quantised_export.export(*sys.argv[1:3])"


def parts(form: str, name: str, shape: tuple[int, ...]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of every tensor that is stored for weight ``name`` [N, K]."""
    module, _, tail = name.rpartition(".")
    if tail != "weight" or not module.endswith("_proj") or "layers." not in name or "visual" in name:
        return {name: ("BF16", shape)}
    rows, channels = shape
    if form == "awq":
        stored = {
            "qweight": ("I32", (channels, rows // 8)), "qzeros": ("I32", (channels // GROUP, rows // 8)),
            "scales": ("F16", (channels // GROUP, rows)),
        }  # fmt: skip
    else:
        stored = {
            "weight_packed": ("I32", (rows, channels // 8)), "weight_scale": ("F16", (rows, channels // GROUP)),
            "weight_shape": ("I64", (2,)),
        }  # fmt: skip
    return {f"{module}.{part}": one for part, one in stored.items()}


def write(form: str, preset_name: str, folder: Path) -> int:
    """Write the checkpoint; its bytes."""
    from luvc_export.export.synthetic import presets
    from luvc_export.export.synthetic.checkpoint import shapes_of, write_tokenizer

    preset = presets.find(preset_name)
    settings: dict[str, Any] = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm"}
    if form != "awq":
        weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": GROUP}
        groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
        settings = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups}
    config = preset.config | {"torch_dtype": "bfloat16", "quantization_config": settings}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(preset.processor))
    write_tokenizer(preset, folder)
    sizes = {"BF16": 2, "F16": 2, "I32": 4, "I64": 8}
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    shapes = shapes_of(preset)
    for name, shape in shapes.items():
        tensors |= parts(form, name, shape)
    header, at = {}, 0
    for name, (kind, shape) in tensors.items():
        end = at + sizes[kind] * int(np.prod(shape))
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    random = np.random.default_rng(0)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, (kind, shape) in tensors.items():
            count = int(np.prod(shape))
            if kind == "I64":
                file.write(np.array(shapes[name.replace("weight_shape", "weight")]).tobytes())
            elif kind == "I32":
                file.write(random.bytes(4 * count))
            elif kind == "F16":
                file.write(np.full(count, 0.005, np.float16).tobytes())
            else:
                file.write(np.full(count, 0x3C23, np.uint16).tobytes())  # 0.01
    return at


def export(model: str, output: str) -> None:
    """Export and print what it took."""
    from luvc_export import export_bundle
    from luvc_export.export.stored.base import StoredWeight
    from luvc_export.runtime import memory

    widened = 0

    def count(self: StoredWeight) -> Any:
        nonlocal widened
        widened += 1
        raise AssertionError("a quantised weight was widened")

    StoredWeight.widened = count  # type: ignore[method-assign]
    export_bundle(model, output, "none", image_size=(448, 448))
    # Not ru_maxrss: what the process that wrote the checkpoint held would count as its own, across fork and exec.
    print(json.dumps({"peak": memory.peak_bytes(), "widened": widened}))


def main() -> None:
    """Measure every form that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--form", action="append", choices=("awq", "pack4"), required=True)
    parser.add_argument("--preset", default="qwen2.5-vl-3b")
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    for form in options.form:
        folder = options.folder / form
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "model").mkdir(parents=True)
        size = write(form, options.preset, folder / "model")
        command = [
            sys.executable,
            "-c",
            EXPORT,
            str(folder / "model"),
            str(folder / "bundle"),
            str(Path(__file__).parent),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        record = json.loads(done.stdout.splitlines()[-1])
        ratio = round(record["peak"] / size, 3)
        print(
            json.dumps({"form": form, "preset": options.preset, "checkpoint": size, "ratio": ratio, **record}),
            flush=True,
        )
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
