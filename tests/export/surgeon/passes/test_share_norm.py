"""The norm of a prune and of the layer after it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from surgery_harness import Traced, broken, cut, edited, fired, operators

from luvc_export.export.surgeon.passes import fuse_spectrum_prune, share_norm


def test_norm_is_shared(traced: Traced) -> None:
    fused = cut(traced.decoder, fuse_spectrum_prune)
    shared = cut(fused, share_norm)
    assert operators(fused, "RMSNormalization") - operators(shared, "RMSNormalization") == 2


def test_norm_of_another_weight_stays(traced: Traced) -> None:
    def other_epsilon(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            if node.op_type == "SpectrumPrune":
                next(a for a in node.attribute if a.name == "epsilon").f = 1e-3

    fused = edited(cut(traced.decoder, fuse_spectrum_prune), other_epsilon)
    assert fired(fused, share_norm) == (0, "a layer's norm has another epsilon than the prune's")


def test_norm_sabotage(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    def double_weight(model: onnx.ModelProto) -> None:
        prune = next(n for n in model.graph.node if n.op_type == "SpectrumPrune")
        shape = next(t.dims for t in model.graph.initializer if t.name == prune.input[1])
        model.graph.initializer.append(helper.make_tensor("other", TensorProto.FLOAT, shape, np.full(shape, 2.0)))
        prune.input[1] = "other"

    fused = edited(cut(traced.decoder, fuse_spectrum_prune), double_weight)
    assert fired(fused, share_norm)[0] == 1
    monkeypatch.setattr(share_norm, "_same", lambda a, b: True)
    assert broken(fused, lambda: cut(fused, share_norm), traced)
