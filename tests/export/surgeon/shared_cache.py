"""The decoder of ``traced_cache`` for clips of four images that share budgets by quotas, and aggregates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import traced_cache
from flat_plans import replan
from surgery_harness import CASES, feeds

from luvc_export.core import graph_io

#: 24 tokens of four images, some of them padding; 12 and then 6 are chosen, and one row is the mean of the others.
PLAN = replan(
    traced_cache.PLAN,
    grid=(2, 3),
    merges=(),
    keep=(13, 7),
    last_layer="full",
    joint_images=4,
    aggregate=True,
    quota="v-cast",
    padding=True,
)


def write(folder: Path) -> None:
    """Trace the decoder into ``folder``, weights inside, and what torch makes of every case's inputs beside it."""
    decoders = list[Any]()
    traced_cache.write(folder, PLAN, decoders.append)
    decoder, layers = onnx.load(folder / "decoder.onnx"), [layer for layer, _, _ in PLAN.chooses]
    for case, sizes in CASES.items():
        inputs = {name: torch.from_numpy(value) for name, value in feeds(decoder, PLAN, sizes).items()}
        past = [inputs.pop(name) for name in graph_io.past_names(PLAN.layers)]
        with torch.no_grad():
            logits, presents, kept = decoders[0](**inputs, past=past)
        outputs = dict(zip(map(graph_io.kept_name, layers), kept, strict=True)) | {"logits": logits}
        outputs |= dict(zip(map(graph_io.present_name, graph_io.past_names(PLAN.layers)), presents, strict=True))
        np.savez(folder / f"{case}.npz", **{name: value.numpy() for name, value in outputs.items()})
