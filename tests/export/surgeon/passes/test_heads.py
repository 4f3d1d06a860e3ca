"""Heads packed for ONNX Runtime, apart for TensorRT."""

from __future__ import annotations

import pytest
from surgery_harness import RTX, Traced, broken, cut, equal, fired

from luvc_export.export.surgeon.passes import fuse_qkv, pack_heads, unpack_heads


def test_heads_are_packed_and_unpacked(traced: Traced) -> None:
    packed = cut(traced.decoder, fuse_qkv, pack_heads)
    nodes = [n for n in packed.graph.node if n.op_type == "Attention"]
    assert all(len(n.output) == 3 and len(n.input) == 6 for n in nodes)
    apart = cut(packed, unpack_heads, pack_heads, target=RTX)
    assert all(len(n.output) == 1 for n in apart.graph.node if n.op_type == "Attention")
    assert equal(traced.decoder, apart, traced.plan, "products")


def test_heads_that_are_right_stay(traced: Traced) -> None:
    packed = cut(traced.decoder, fuse_qkv, pack_heads)
    assert fired(packed, pack_heads) == (0, "there is no Attention whose heads stand apart")
    assert fired(packed, unpack_heads) == (0, "the target takes packed heads")
    assert fired(traced.decoder, unpack_heads, target=RTX) == (0, "no Attention has packed heads")


def test_pack_sabotage(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack_heads, "_packed", lambda surgery, tensor: pack_heads._unpacked(tensor))
    assert broken(traced.decoder, lambda: cut(traced.decoder, pack_heads), traced)


def test_unpack_sabotage(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = cut(traced.decoder, fuse_qkv, pack_heads)
    monkeypatch.setattr(unpack_heads, "_HEADS_FIRST", [0, 2, 3, 1])
    assert broken(packed, lambda: cut(packed, unpack_heads, target=RTX), traced)
