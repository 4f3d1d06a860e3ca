"""Bodies of fused nodes, in place of them or kept."""

from __future__ import annotations

import onnx
import pytest
from surgery_harness import INLINED, Traced, cut, fired

from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon.passes import fuse_spectrum_prune, inline_functions


def test_bodies_are_inlined_or_kept(traced: Traced) -> None:
    fused = cut(traced.decoder, fuse_spectrum_prune)
    assert not [n for n in cut(fused, inline_functions, target=INLINED).graph.node if n.domain]
    assert fired(fused, inline_functions) == (0, "the target reads ONNX functions")
    assert fired(traced.plain["decoder"], inline_functions, target=INLINED) == (0, "there is no fused node")


def test_inline_sabotage(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    fused = cut(traced.decoder, fuse_spectrum_prune)
    monkeypatch.setattr(onnx.inliner, "inline_local_functions", lambda model: model)
    with pytest.raises(CheckFailed, match="fused nodes are left"):
        cut(fused, inline_functions, target=INLINED)
