"""The picture on its way to patches."""

from __future__ import annotations

import numpy as np
import pytest
from surgery_harness import RTX, Traced, broken, cut, fired

from luvc_export.export.surgeon.passes import patch_layout


def test_picture_moves_as_bytes(traced: Traced) -> None:
    after = cut(traced.vision, patch_layout)
    first = next(n for n in after.graph.node if "image" in n.input and n.op_type != "Shape")
    assert first.op_type == "Reshape"
    assert max(len(n.attribute[0].ints) for n in after.graph.node if n.op_type == "Transpose") == 7
    assert fired(traced.vision, patch_layout, target=RTX)[0] == 1


def test_picture_already_laid_out_stays(traced: Traced) -> None:
    assert fired(cut(traced.vision, patch_layout), patch_layout)[0] == 0
    assert fired(traced.decoder, patch_layout) == (0, "the decoder sees no picture")


def test_picture_sabotage(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patch_layout, "_moved", lambda surgery, tensor, after: surgery.constant(0.5, "x", np.float32))
    assert broken(traced.vision, lambda: cut(traced.vision, patch_layout), traced)
