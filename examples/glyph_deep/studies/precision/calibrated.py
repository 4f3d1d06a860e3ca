"""Checkpoints of glyph_deep in 4 bits as makers of AWQ, GPTQ and compressed-tensors write them, from calibrated codes.

GPTQ and compressed-tensors hold codes that make up for each other (``compensated``), symmetric; the products that move
predictions most have 8 bits, by GPTQ's ``dynamic`` and by a second group of compressed-tensors' config. AWQ holds codes
with zeros that make up for each other too. Its layout does not say how codes are chosen: its own factors in the norms
and products before, and rounding to nearest, lost 0.67 points of 3,000 pages; of 1,500 questions of search-pages
factors and codes that make up for each other lost 1.00, codes alone 0.27 with zeros and 0.13 without. It has 4 bits
alone, so those products stay in 16 (``modules_to_not_convert``). Which they are is searched as for ``q4``
(``bisect``). All statistics are of search splits. The layouts are written by ``tests/quantised_checkpoint.py``.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glyph_deep.data.cases import LONGEST, SIZES, cases
from luvc_export import make_plan
from luvc_export.calibration.quantise import agreement, bisect, blocks
from luvc_export.calibration.quantise.blocks import Grid, compensated, compensated_on
from luvc_export.calibration.quantise.ranges import load_ranges, save_ranges
from luvc_export.calibration.quantise.statistics import Statistics
from luvc_export.calibration.runners import open_torch
from luvc_export.calibration.runners.base import Runner
from luvc_export.calibration.runners.canvas import canvas
from luvc_export.calibration.runners.compressed import load_model
from luvc_export.demo.questions import GlyphCase
from luvc_export.export.checkpoint import Checkpoint, open_checkpoint

Floats = NDArray[np.float32]

HERE = Path(__file__).parents[2]
CHECKPOINT = HERE / "checkpoint"
TESTS = HERE.parents[1] / "tests"
GROUP = 32
#: Largest code of AWQ's, which begin at 0.
TOP = 15
#: Cases of each search split that statistics are of, and the share of them that is looked at to choose widths.
CASES = 64
SPLITS = ("search-plain", "search-textured", "search-pages")
#: Nats; see ``bisect``. Larger than ``recipe.DIVERGENCE``, which is for four bits in the encoder as well: of 400
#: questions of search-pages none was lost with the text layers of GPTQ in 4 bits alone, in groups of 32.
DIVERGENCE = 0.1


class Codes(NamedTuple):
    """A weight [N, K] as a checkpoint holds it: codes from 0, scales fp16 and zeros [N, K / GROUP]."""

    codes: Tensor
    scale: Tensor
    zero: Tensor

    def widened(self) -> Floats:
        """What they stand for [N, K]."""
        steps = self.codes.unflatten(1, (-1, GROUP)) - self.zero[..., None]
        return (steps.float() * self.scale.float()[..., None]).flatten(1).numpy()


@dataclass(frozen=True)
class Product:
    """One product of the text layers: in 4 bits, and in what else it may have."""

    four: Codes
    wide: Codes | None


class Model:
    """glyph_deep in torch, whose products can be given other weights, and a runner for each size of pictures."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.checkpoint: Checkpoint = open_checkpoint(str(CHECKPOINT))
        self.model: Any = load_model(self.checkpoint)
        layers = self.checkpoint.family.language_model(self.model).layers
        self.products: dict[str, Any] = {
            f"model.layers.{number}.{path}": module
            for number, layer in enumerate(layers)
            for path, module in layer.named_modules()
            if path.endswith("_proj")
        }
        self.weights = {name: module.weight.data.numpy().copy() for name, module in self.products.items()}
        self.runners = {size: self._runner(size) for size in dict.fromkeys(SIZES[one.split("-")[1]] for one in SPLITS)}

    def _runner(self, size: tuple[int, int]) -> Runner:
        plan = make_plan(str(CHECKPOINT), "none", image_size=size)
        return open_torch(self.checkpoint, plan, canvas(self.checkpoint, size), model=self.model)

    def put(self, weights: Mapping[str, Floats]) -> None:
        """Compute with these weights, and with its own where there are none."""
        for name, module in self.products.items():
            module.weight.data.copy_(torch.from_numpy(np.ascontiguousarray(weights.get(name, self.weights[name]))))

    @contextmanager
    def watched(self) -> Iterator[dict[str, Statistics]]:
        """Statistics of what enters each product while this is entered; q, k and v share theirs, so do gate and up."""
        shared = {name: Statistics() for name in self.products if not name.endswith(("k_proj", "v_proj", "up_proj"))}
        seen = {name: shared.get(name) or shared[_first(name)] for name in self.products}
        hooks = [
            self.products[name].register_forward_pre_hook(lambda _, inputs, one=one: one.add(inputs[0].numpy()))
            for name, one in shared.items()
        ]
        try:
            yield seen
        finally:
            for hook in hooks:
                hook.remove()


def _first(name: str) -> str:
    """The product that shares its input with this one and comes first."""
    parent, _, last = name.rpartition(".")
    return f"{parent}.{'gate_proj' if last == 'up_proj' else 'q_proj'}"


def statistics(model: Model, folder: Path) -> dict[str, Statistics]:
    """Return what enters each product while it answers cases of the search splits; kept in FOLDER."""
    file, about = folder / "text.ranges.npz", {"model": model.checkpoint.sha256, "data": [*SPLITS, CASES]}
    if not file.is_file():
        with model.watched() as seen:
            for split in SPLITS:
                runner = model.runners[SIZES[split.split("-")[1]]]
                for case in cases(split, CASES, 0):
                    runner.answer([case], LONGEST)
        save_ranges(file, about, seen)
    return load_ranges(file, about)


def gptq(weight: Floats, seen: Statistics) -> Product:
    """Codes of a weight [N, K] that make up for each other."""
    form = blocks.Format(blocks.INT4_MAX, np.int8, GROUP)
    four = compensated(np.ascontiguousarray(weight.T), form, seen.sample)
    wide = blocks.nearest(np.ascontiguousarray(weight.T), blocks.int8(GROUP))
    return Product(_symmetric(four, 4), _symmetric(wide, 8))


def _symmetric(rounded: blocks.Rounded, bits: int) -> Codes:
    half = 1 << (bits - 1)
    scale = torch.from_numpy(np.ascontiguousarray(rounded.scale.T)).half()
    codes = torch.from_numpy(np.ascontiguousarray(rounded.values.T.astype(np.int64) + half))
    return Codes(codes, scale, torch.full(scale.shape, half))


def awq(weight: Floats, seen: Statistics) -> Product:
    """Codes with zeros of a weight [N, K] that make up for each other."""
    scales: list[Floats] = []
    zeros: list[Floats] = []

    def fit(block: Floats, importance: Floats) -> Grid:
        scale, zero = with_zeros(block, importance)
        scales.append(scale)
        zeros.append(zero)
        return Grid(
            lambda row: np.clip(np.rint(row / scale) + zero, 0, TOP), lambda codes: np.float32(codes - zero) * scale
        )

    codes = compensated_on(np.ascontiguousarray(weight.T), GROUP, seen.sample, fit)
    parts = [torch.from_numpy(np.ascontiguousarray(one.T)) for one in (codes, np.stack(scales), np.stack(zeros))]
    return Product(Codes(parts[0].long(), parts[1].half(), parts[2].long()), None)


def with_zeros(block: Floats, importance: Floats) -> tuple[Floats, Floats]:
    """Scales and zeros [N] of a group of rows [GROUP, N] of this importance [GROUP].

    Both ends of a column's range are cut by the share of ``CUTS`` that loses least; 0 always has a code. Scales are
    fp16 numbers.
    """
    lowest, highest = block.min(0).clip(max=0), block.max(0).clip(min=0)
    best = np.full(lowest.shape, np.inf, np.float32)
    scale, zero = np.ones_like(lowest), np.zeros_like(lowest)
    for cut in blocks.CUTS:
        one = np.maximum((highest - lowest) * np.float32(cut / TOP), 1e-4).astype(np.float16).astype(np.float32)
        at = np.clip(np.rint(-lowest * np.float32(cut) / one), 0, TOP)
        rounded = (np.clip(np.rint(block / one) + at, 0, TOP) - at) * one
        error = ((rounded - block) ** 2 * importance[:, None]).sum(0)
        scale, zero = np.where(error < best, one, scale), np.where(error < best, at, zero)
        best = np.minimum(error, best)
    return scale, zero


def products(form: str, model: Model, seen: Mapping[str, Statistics]) -> dict[str, Product]:
    """Return the products of the text layers, each in codes."""
    quantise = awq if form == "awq" else gptq
    return {name: quantise(weight, seen[name]) for name, weight in model.weights.items()}


def search(model: Model, coded: Mapping[str, Product], divergence: float) -> tuple[str, ...]:
    """Return the products that get more than four bits (see ``bisect.fewest_wide``)."""
    looked = {
        size: [case for split in SPLITS if SIZES[split.split("-")[1]] == size for case in cases(split, 16, 0)]
        for size in model.runners
    }
    references = {size: agreement.Remembered(runner) for size, runner in model.runners.items()}
    few = {size: some[:: len(some) // 4] for size, some in looked.items()}
    model.put({})
    for some in (looked, few):
        for size, reference in references.items():
            reference.observe(some[size])

    def moved(four: Collection[str], some: Mapping[tuple[int, int], Sequence[GlyphCase]], wide: bool) -> float:
        chosen = {name: coded[name].four for name in four}
        if wide:
            chosen |= {name: one.wide for name, one in coded.items() if one.wide is not None and name not in four}
        model.put({name: codes.widened() for name, codes in chosen.items()})
        return float(np.mean([agreement.moved(references[size], model.runners[size], some[size]) for size in some]))

    sizes = {name: weight.size for name, weight in model.weights.items()}
    return bisect.fewest_wide(
        sizes,
        lambda names: moved(names, few, False),
        lambda wide: moved([name for name in coded if name not in wide], looked, True),
        divergence,
    )


def written(form: str, folder: Path) -> Path:
    """Return a checkpoint of this form in FOLDER, made if it is not there; GPTQ's and compressed-tensors' together."""
    target = folder / f"calibrated-{form}"
    if not (target / "config.json").is_file():
        forms = ("awq",) if form == "awq" else ("gptq", "compressed-tensors")
        model = Model()
        coded = products(forms[0], model, statistics(model, folder))
        wide = search(model, coded, DIVERGENCE)
        for one in forms:
            save(one, folder / f"calibrated-{one}", coded, wide)
        whole, some = (sum(model.weights[name].size for name in names) for names in (coded, wide))
        print(
            f"{form}: {len(wide)} of {len(coded)} products, {some / whole:.0%} of the weights, not in 4 bits",
            flush=True,
        )
    return target


def save(form: str, folder: Path, coded: Mapping[str, Product], wide: Collection[str]) -> None:
    """Write a checkpoint whose products are in codes; those of ``wide`` in 8 bits, or AWQ's in 16."""
    from safetensors.torch import load_file, save_file

    sys.path.insert(0, str(TESTS))
    import quantised_checkpoint as layouts

    shutil.copytree(CHECKPOINT, folder, dirs_exist_ok=True)
    tensors: dict[str, Tensor] = dict(load_file(CHECKPOINT / "model.safetensors"))
    for name, product in coded.items():
        if name in wide and product.wide is None:
            continue
        bits, codes = (8, product.wide) if name in wide and product.wide is not None else (4, product.four)
        index = torch.arange(codes.codes.shape[1]) // GROUP
        if form == "awq":
            parts = layouts.awq_parts(*codes)
        elif form == "gptq":
            parts = layouts.gptq_parts(*codes, index, bits)
        else:
            parts = layouts.packed_parts(codes.codes, codes.scale, bits)
        del tensors[f"{name}.weight"]
        tensors |= {f"{name}.{tail}": part.contiguous() for tail, part in parts.items()}
    config = json.loads((CHECKPOINT / "config.json").read_text()) | {"quantization_config": settings(form, wide)}
    for file in ("model.safetensors", "config.json"):
        (folder / file).unlink()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))


def in_four(form: str, folder: Path) -> dict[str, Any]:
    """Return how many products of a checkpoint in FOLDER have 4 bits, of how many, and their share of the weights."""
    stored = open_checkpoint(str(folder / f"calibrated-{form}")).stored
    assert stored is not None
    four = [math.prod(linear.shape) for linear in stored.linears if linear.bits == 4]
    own = open_checkpoint(str(CHECKPOINT)).tensors
    whole = [math.prod(own[name].shape) for name in own if name.endswith("_proj.weight") and "visual" not in name]
    return {"form": form, "products": len(four), "of": len(whole), "share": round(sum(four) / sum(whole), 3)}


def settings(form: str, wide: Collection[str]) -> dict[str, Any]:
    """Return the ``quantization_config`` of a checkpoint in which these have other than 4 bits."""
    if form == "awq":
        left = {"modules_to_not_convert": ["visual", *wide]}
        return {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"} | left
    escaped = [name.replace(".", r"\.") for name in wide]
    if form == "gptq":
        stated = {"bits": 4, "group_size": GROUP, "sym": True, "desc_act": False, "checkpoint_format": "gptq"}
        return {"quant_method": "gptq", **stated, "dynamic": {f"+:{name}$": {"bits": 8} for name in escaped}}
    groups = {
        f"group_{number}": {"targets": targets, "weights": _weights(bits), "input_activations": None}
        for number, (bits, targets) in enumerate(((4, ["Linear"]), (8, [f"re:{name}$" for name in escaped])))
    }
    return {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
        "config_groups": groups, "ignore": ["lm_head", "re:.*visual.*"],
    }  # fmt: skip


def _weights(bits: int) -> dict[str, Any]:
    return {"num_bits": bits, "type": "int", "symmetric": True, "group_size": GROUP, "strategy": "group"}
