"""A pack of a bundle with slots for adapters, checked with ONNX Runtime: empty slots answer the cases, adapters too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jetson_root
import lora_bundle
import numpy as np

from luvc_export.bundle import graph_trust
from luvc_export.bundle.folder import load
from luvc_export.packing import questions, record
from luvc_export.packing.inplace import InplaceOrt
from luvc_export.packing.questions import PackCases
from luvc_export.packing.write import write_pack
from luvc_export.runtime.session import Session

TOKENS = [10, 40, 41, 42]


def test_a_pack_carries_its_slots(lora: Path, tmp_path: Path, verify: Callable[..., tuple[int, str, str]]) -> None:
    bundle = load(lora / "slots")
    graph_trust.remember_own(bundle)
    packed = write_pack(
        bundle,
        jetson_root.TARGETS["7.2"],
        tmp_path / "pack",
        lambda session, capacity: PackCases("generated", questions.generated(session.size, 1), 3),
        text_capacity=96,
        batch=3,
        adapters=2,
    )
    capacity = record.read(packed.folder).capacity
    assert (capacity.adapters, capacity.ranks) == (2, 2 * lora_bundle.RANK)
    code, out, err = verify(packed.folder, jetson_root.write(tmp_path / "board", "7.2"))
    assert code == 0, out + err
    own, alone = load(packed.folder), Session(bundle, threads=1, lora={"loud": lora / "loud"})
    ours = Session(own, InplaceOrt(own, packed.pack.plan, capacity), lora={"loud": lora / "loud"})
    sides = [[each.default.run(TOKENS, adapter=each.adapters.find(name)).logits for name in (None, "loud")]
             for each in (ours, alone)]  # fmt: skip
    scale = np.abs(sides[1][0]).max()
    for half, whole in zip(*sides, strict=True):
        assert np.abs(half - whole).max() < 0.01 * scale, "fp16 beside fp32"
    assert np.abs(sides[0][1] - sides[0][0]).max() > 0.05 * scale
