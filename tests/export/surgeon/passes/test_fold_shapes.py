"""What sizes make constant."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx_graphsurgeon.ir.tensor import LazyValues
from surgery_harness import INLINED, Traced, broken, cut, fired, opened, operators, run, small

from luvc_export.export.surgeon import evaluate, graph
from luvc_export.export.surgeon.passes import fold_shapes, fuse_orthogonal_merge, inline_functions


def test_folding_fires(traced: Traced) -> None:
    plain = cut(cut(traced.vision, fuse_orthogonal_merge, target=INLINED), inline_functions, target=INLINED)
    folded = cut(plain, fold_shapes, target=INLINED)
    assert len(folded.graph.node) < 0.75 * len(plain.graph.node)
    assert not operators(folded, "Cos", "Range", "CastLike") or operators(plain, "Cos") > operators(folded, "Cos")


def test_folding_leaves_what_depends_on_inputs() -> None:
    text = "g (float[n,4] x) => (float[n,4] y) { s = Shape(x)\n z = Reshape<allowzero=1>(x, s)\n y = Add(z, x) }"
    folded = cut(small(text), fold_shapes)
    assert operators(folded, "Add") == 1
    assert fired(folded, fold_shapes)[0] == 0


def test_constants_in_bf16_stay_so_and_nothing_is_said(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever exports in bf16 is not warned of what does not happen."""
    model = small("g (bfloat16[n,4] x, bfloat16[1] one) => (bfloat16[n,4] y) { y = Add(x, one) }")
    del model.graph.input[1]
    one = onnx.helper.make_tensor("one", onnx.TensorProto.BFLOAT16, [1], [1.5])
    model.graph.initializer.append(one)
    (constant,) = cut(model, fold_shapes).graph.initializer
    assert constant.data_type == onnx.TensorProto.BFLOAT16
    assert onnx.numpy_helper.to_array(constant).tolist() == [1.5]
    assert graph.value(gs.Constant("one", LazyValues(one))) == [1.5]
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr(graph, "_quiet", nullcontext)
    graph.value(gs.Constant("one", LazyValues(one)))
    assert "BFLOAT16" in "".join(capfd.readouterr())


@pytest.mark.parametrize("what", ["node", "block"])
def test_folding_sabotage(traced: Traced, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    if what == "node":
        plain = evaluate.node
        monkeypatch.setattr(
            evaluate, "node", lambda n, a, o: [x + 1 if x.dtype.kind in "if" else x for x in plain(n, a, o)]
        )
    else:
        monkeypatch.setattr(fold_shapes, "_compute", lambda *a: None if a[3] > 1 else np.zeros((1, 2, 2), np.float32))
        monkeypatch.setattr(fold_shapes, "_repeats", lambda blocks: True)
    assert broken(traced.vision, lambda: cut(traced.vision, fold_shapes), traced, "constants")


def test_the_number_of_pictures_is_read_behind_a_cast_without_a_shape() -> None:
    """Nobody inferred a shape of the Cast; the picture's own is enough."""
    surgery = opened(
        "g (uint8[n, 1, 2, 2, 3] image) => (float[n, 2] y)"
        " <float[n, 2] block, int64[1] two = {2}, float[1, 2] row = {3, 4}, int64[3] axes = {1, 2, 3},"
        " int64[1] first = {0}, int64[1] last = {2}, int64[1] on = {1}> {"
        " pixels = Cast<to = 1>(image) count = Shape<start = 0, end = 1>(pixels)"
        " sizes = Concat<axis = 0>(count, two) block = Expand(row, sizes)"
        " means = ReduceMean<keepdims = 0>(pixels, axes) both = Slice(means, first, last, on) y = Mul(block, both) }"
    )
    surgery.running = "fold_shapes"
    assert fold_shapes.fold_batch(surgery, 100)
    outputs = run(surgery.close(), {"image": np.full((3, 1, 2, 2, 3), 5, np.uint8)})
    assert outputs["y"].tolist() == [[15.0, 20.0]] * 3
