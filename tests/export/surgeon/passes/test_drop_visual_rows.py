"""Graphs of steps: no node for rows of images that a step never brings, and the same answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from surgery_harness import Traced, cut, edited, feeds, fired, run

from luvc_export.core.target import ORT_CPU
from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon.passes import drop_visual_rows

STEPS = replace(ORT_CPU, visual_rows=False)


def both(traced: Traced) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A decoder as bundles hold it, and that of steps."""
    exported = cut(traced.decoder, target=ORT_CPU)
    return exported, cut(exported, drop_visual_rows, target=STEPS)


@pytest.mark.parametrize("which", ["traced", "frozen", "padded"])
def test_a_step_says_the_same_in_fewer_nodes(which: str, request: pytest.FixtureRequest) -> None:
    traced: Traced = request.getfixturevalue(which)
    exported, steps = both(traced)
    onnx.checker.check_model(steps)
    assert len(steps.graph.node) < len(exported.graph.node)
    assert [one.name for one in steps.graph.input] == [one.name for one in exported.graph.input]
    for sizes in ((2, 0, 3, 1, 9), (1, 0, 1, 2, 4)):
        arrays = feeds(traced.decoder, traced.plan, sizes)
        before, after = run(exported, arrays), run(steps, arrays)
        assert before.keys() == after.keys()
        for name, value in before.items():
            assert after[name].shape == value.shape and after[name].dtype == value.dtype, name
            assert np.array_equal(after[name], value), name


def test_what_moves_visual_rows_is_gone(frozen: Traced) -> None:
    """A softmax outside of Attention is part of nothing but the likeness of rows whose turn it is not."""
    exported, steps = ({node.op_type for node in model.graph.node} for model in both(frozen))
    assert "Softmax" in exported and "Softmax" not in steps


def test_with_an_image_it_is_another_graph(traced: Traced) -> None:
    exported, steps = both(traced)
    arrays = feeds(traced.decoder, traced.plan, (1, 1, 7, 0, 0))
    wanted = run(exported, arrays)["logits"]
    try:
        difference = float(np.abs(run(steps, arrays)["logits"] - wanted).max())
    except Exception:
        difference = float("inf")
    assert difference > 0.01


def test_a_join_that_is_left_is_found(frozen: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    exported = cut(frozen.decoder, target=ORT_CPU)
    whole = drop_visual_rows._empty
    seen = iter(range(10_000))
    monkeypatch.setattr(drop_visual_rows, "_empty", lambda *some: next(seen) > 3 and whole(*some))
    with pytest.raises(CheckFailed, match="joins rows of images, of which there are none"):
        cut(exported, drop_visual_rows, target=STEPS)


def test_graphs_that_see_images_stay(traced: Traced) -> None:
    exported = cut(traced.decoder, target=ORT_CPU)
    assert fired(exported, drop_visual_rows) == (0, "the target's graphs see images")
    fixed = edited(exported, _fix)
    assert fired(fixed, drop_visual_rows, target=STEPS) == (0, "the number of images is fixed")


def _fix(model: onnx.ModelProto) -> None:
    """Let the number of images be 1."""
    for tensor in model.graph.input:
        if tensor.name == "visual_embeds":
            tensor.type.tensor_type.shape.dim[1].dim_value = 1
