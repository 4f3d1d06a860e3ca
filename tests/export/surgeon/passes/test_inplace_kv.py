"""Caches of fixed capacity."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from surgery_harness import CASES, INPLACE, Traced, cut, feeds, fired, operators, run

from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon.passes import inplace_kv


def test_inplace_needs_a_target_that_wants_it(traced: Traced) -> None:
    assert fired(traced.decoder, inplace_kv) == (0, "the target's KV form is attention")
    assert fired(traced.vision, inplace_kv, target=INPLACE) == (0, "the vision graph has no cache")
    with pytest.raises(CheckFailed, match="need the text capacity"):
        cut(traced.decoder, inplace_kv, target=INPLACE)
    inplace = cut(traced.decoder, inplace_kv, target=INPLACE, text_capacity=16)
    assert operators(inplace, "TensorScatter") == 6


def test_inplace_sabotage(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    made_mask = inplace_kv._mask

    def shifted(surgery: Any, old: Any, stage: Any, call: Any) -> Any:
        return made_mask(surgery, old, stage._replace(start=surgery.emit("Add", [stage.start, [1]])[0]), call)

    def logits() -> Any:
        inplace = cut(traced.decoder, target=INPLACE, text_capacity=16)
        inputs = feeds(traced.decoder, traced.plan, CASES["prefill"])
        mask = np.arange(16)[None] < inputs["input_ids"].shape[1]
        shapes = {v.name: [d.dim_value or 1 for d in v.type.tensor_type.shape.dim] for v in inplace.graph.input}
        held = {n: np.zeros(s, np.float32) for n, s in shapes.items() if n.startswith("past_key")}
        counts = {"past_text": np.array([0]), "past_groups": np.array([0])}
        return run(inplace, {**inputs, **held, **counts, "text_mask": mask})["logits"]

    right = logits()
    monkeypatch.setattr(inplace_kv, "_mask", shifted)
    assert np.abs(right - logits()).max() > 1e-2
