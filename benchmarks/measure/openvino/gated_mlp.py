"""Gated MLPs in bf16 on OpenVINO's CPU plug-in: which kernel is sooner for prompts, which for steps.

Run: python benchmarks/measure/openvino/gated_mlp.py [--layers 5] [--pairs 10] [--rows 1 8 256 1088] [--forms NAME ...]
[--encoder]

Layers of Qwen2.5-VL-3B's shape, random weights, in each form, in turns: ``fused`` is what the plug-in makes of them on
a CPU with AMX; ``apart`` three products; ``gate and up`` with both in one product; ``4 blocks`` runs the three products
on a quarter of the rows each; ``in place`` reads weights from where a bf16 file lies, inputs of the model that nothing
packs; ``torch`` is the same in torch, on as many threads. ``--encoder`` takes the shape of an encoder block. Prints
Markdown: median milliseconds, and the median ratio to ``fused`` with its 95 % interval over pairs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
import openvino
from openvino import opset13

WIDTH, INNER, ENCODER = 2048, 11008, (1280, 3420)
Values = np.ndarray[Any, np.dtype[Any]]


def tensor(array: Values, held: list[Values]) -> Any:
    """A float array as bf16, rounded to zero; the tensor is the memory of what is put into ``held``."""
    bits = (array.view(np.uint32) >> 16).astype(np.uint16)
    held.append(bits)
    return openvino.Tensor(bits, openvino.Shape(array.shape), openvino.Type.bf16)


def number(value: int) -> Any:
    """An int64 constant."""
    return opset13.constant(np.int64(value))


def blocks(source: Any, parts: int, each: Callable[[Any], Any]) -> Any:
    """``each`` of as many slices of the rows, behind one another."""
    rows, outputs = opset13.gather(opset13.shape_of(source), number(1), number(0)), []
    for part in range(parts):
        ends = [opset13.divide(opset13.multiply(rows, number(part + end)), number(parts)) for end in (0, 1)]
        begin, end = (opset13.unsqueeze(value, number(0)) for value in ends)
        one = opset13.constant(np.array([1], np.int64))
        outputs.append(each(opset13.slice(source, begin, end, one, one)))
    return opset13.concat(outputs, 1)


def layer(source: Any, gate: Any, up: Any, down: Any, fused: bool) -> Any:
    """Gate, up and down; a clamp without limits hides the pattern that the plug-in fuses."""
    first = opset13.matmul(source, gate, False, True)
    value = opset13.multiply(opset13.multiply(first, opset13.sigmoid(first)), opset13.matmul(source, up, False, True))
    return opset13.matmul(value if fused else opset13.clamp(value, float("-inf"), float("inf")), down, False, True)


def combined(source: Any, both: Any, down: Any) -> Any:
    """Gate and up as one product."""
    halves = opset13.split(opset13.matmul(source, both, False, True), number(2), 2)
    gate = halves.output(0)
    value = opset13.multiply(opset13.multiply(gate, opset13.sigmoid(gate)), halves.output(1))
    return opset13.matmul(opset13.clamp(value, float("-inf"), float("inf")), down, False, True)


class Form:
    """Layers in one form, compiled."""

    def __init__(self, name: str, weights: list[tuple[Values, Values, Values]]) -> None:
        source = opset13.parameter([-1, -1, weights[0][0].shape[1]], np.float32)
        value, parameters, tensors = source, [], []
        self.held: list[Values] = []
        for gate, up, down in weights:
            arrays = (np.concatenate([gate, up]), down) if name == "gate and up" else (gate, up, down)
            stored = [tensor(array, self.held) for array in arrays]
            if name == "in place":
                nodes = [opset13.parameter(list(array.shape), openvino.Type.bf16) for array in arrays]
                parameters += nodes
                tensors += stored
            else:
                nodes = [openvino.op.Constant(one, True) for one in stored]
            wide = [opset13.convert(node, "f32") for node in nodes]
            if name == "gate and up":
                out = combined(value, *wide)
            elif name == "4 blocks":
                out = blocks(value, 4, lambda rows, own=wide: layer(rows, *own, False))
            else:
                out = layer(value, *wide, name == "fused")
            value = opset13.add(value, out)
        hints = {"INFERENCE_PRECISION_HINT": "bf16", "PERFORMANCE_HINT": "LATENCY"}
        self.model = openvino.Core().compile_model(openvino.Model([value], [source, *parameters]), "CPU", hints)
        self.request = self.model.create_infer_request()
        for index, one in enumerate(tensors):
            self.request.set_input_tensor(1 + index, one)

    def seconds(self, rows: Values) -> float:
        """One call."""
        begin = perf_counter()
        self.request.infer({0: rows})
        return perf_counter() - begin


class Torch:
    """Layers in torch, whose products are oneDNN's too."""

    def __init__(self, weights: list[tuple[Values, Values, Values]]) -> None:
        import torch

        self.torch = torch
        self.layers = [[torch.from_numpy(array).bfloat16() for array in arrays] for arrays in weights]

    def seconds(self, rows: Values) -> float:
        """One call."""
        begin, linear = perf_counter(), self.torch.nn.functional.linear
        with self.torch.inference_mode():
            value = self.torch.from_numpy(rows).bfloat16()
            for gate, up, down in self.layers:
                gated = self.torch.nn.functional.silu(linear(value, gate)) * linear(value, up)
                value = value + linear(gated, down)
        return perf_counter() - begin


FORMS = ("fused", "apart", "gate and up", "4 blocks", "in place", "torch")


def main() -> None:
    """Compile, time in turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 256, 1088])
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--encoder", action="store_true")
    args = parser.parse_args()
    random = np.random.default_rng(0)
    width, inner = ENCODER if args.encoder else (WIDTH, INNER)
    shapes = ((inner, width), (inner, width), (width, inner))
    weights: Any = [[0.02 * random.standard_normal(shape, np.float32) for shape in shapes] for _ in range(args.layers)]
    names = dict.fromkeys(("fused", *args.forms))
    forms: dict[str, Form | Torch] = {
        name: Torch(weights) if name == "torch" else Form(name, weights) for name in names
    }
    print(
        "| rows | "
        + " | ".join(f"{name} ms | by fused" for name in forms)
        + " |\n"
        + "|---:" * (1 + 2 * len(forms))
        + "|"
    )
    for count in args.rows:
        source, times = random.standard_normal((1, count, width), np.float32), {name: [] for name in forms}
        for form in forms.values():
            form.seconds(source)
        for pair in range(args.pairs * (3 if count == 1 else 1)):
            for name in (*forms,) if pair % 2 else (*reversed(forms),):
                times[name].append(forms[name].seconds(source))
        cells = [str(count)]
        for name in forms:
            ratios = np.array(times[name]) / np.array(times["fused"])
            medians = [np.median(random.choice(ratios, len(ratios))) for _ in range(1000)]
            low, high = np.quantile(medians, (0.025, 0.975))
            cells += [f"{1000 * np.median(times[name]):.1f}", f"{np.median(ratios):.2f} ({low:.2f} to {high:.2f})"]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
