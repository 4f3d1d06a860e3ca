"""Graphs of plans that know padding: fused, equal for every kind of target, and no sabotage of them goes unseen."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from native_kernels import Native
from plugin_runner import run_with_kernels
from slow_cases import slow_but
from surgery_harness import (
    CASES,
    PLUGINS,
    RTX,
    TRT103,
    Traced,
    cut,
    differences,
    edited,
    equal,
    feeds,
    fired,
    inputs,
    run,
)

from luvc_export.core.operators import DOMAIN
from luvc_export.core.target import ORT_CPU, TargetSpec
from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon.fused import bodies
from luvc_export.export.surgeon.passes import fuse_orthogonal_merge, fuse_spectrum_prune

pytestmark = pytest.mark.slow(beside="export/surgeon/test_encoder_graphs.py::test_whole_list")

HALVES = ("vision", "decoder")
VOID = {"vision": "padding", "decoder": "visual_padding"}


@pytest.mark.parametrize(
    ("target", "precision"),
    slow_but([ORT_CPU, RTX], [(ORT_CPU, "fp32"), (RTX, "fp16"), (TRT103, "fp32"), (TRT103, "fp16")]),
)
@pytest.mark.parametrize("half", HALVES)
def test_whole_list(padded: Traced, half: str, target: TargetSpec, precision: Any) -> None:
    """Lint, which wants the input and a reader of it, is part of the list."""
    model = getattr(padded, half)
    after = cut(model, target=target, precision=precision)
    assert VOID[half] in [item.name for item in after.graph.input]
    assert equal(model, after, padded.plan, "constants" if target is ORT_CPU else precision)


def test_merges_and_prunes_are_fused(padded: Traced) -> None:
    assert fired(padded.vision, fuse_orthogonal_merge) == (1, "")
    assert fired(padded.decoder, fuse_spectrum_prune) == (3, "")


@pytest.mark.parametrize("half", HALVES)
def test_plugins_know_padding(padded: Traced, native_library: Native, half: str) -> None:
    """Told by a field of each call; native kernels behind the calls give what the traced graph gives."""
    model = getattr(padded, half)
    with_calls = cut(cut(model), target=PLUGINS)
    called = [node for node in with_calls.graph.node if node.domain == DOMAIN]
    field = "padded" if half == "vision" else "padding_payload"
    assert called and all(field in [item.name for item in node.attribute] for node in called)
    apart = [
        with_kernels_apart(model, with_calls, padded, case, native_library) for case in padding_cases(model, padded)
    ]
    assert len(apart) > 3 and max(apart) < 1e-4

    def forget(copy: onnx.ModelProto) -> None:
        for node in copy.graph.node:
            for item in [item for item in node.attribute if item.name == field]:
                node.attribute.remove(item)

    forgetful = edited(with_calls, forget)
    apart = [
        with_kernels_apart(model, forgetful, padded, case, native_library) for case in padding_cases(model, padded)
    ]
    assert max(apart) > 1e-2, "padding takes budget where the plugin is not told of it"


def padding_cases(model: onnx.ModelProto, padded: Traced) -> list[dict[str, Any]]:
    """Feeds with some padding, with none, and with nothing else."""
    [name] = [item.name for item in model.graph.input if item.name in VOID.values()]
    cases = list(inputs(model, padded.plan).values())
    return cases + [{**case, name: np.full_like(case[name], void)} for case in cases for void in (False, True)]


def with_kernels_apart(
    model: onnx.ModelProto, called: onnx.ModelProto, padded: Traced, inputs: dict[str, Any], library: Native
) -> float:
    """The largest difference of an output, in shares of the largest value."""
    old, new = run(model, inputs), run_with_kernels(called, inputs, library)
    apart = [0.0]
    for name, wanted in old.items():
        assert wanted.shape == new[name].shape
        if wanted.size:
            scale = max(1.0, float(np.abs(wanted).max()))
            apart.append(float(np.abs(wanted.astype(np.float64) - new[name]).max()) / scale)
    return max(apart)


def test_what_is_kept_is_picture_while_there_is_any(padded: Traced) -> None:
    """Of the graph that bundles hold, in every case, with as much padding as there may be."""
    decoder, plan = cut(padded.decoder), padded.plan
    for name, case in CASES.items():
        inputs = feeds(padded.decoder, plan, case)
        for void in (0, 3, 5, plan.span_tokens):
            padding = inputs["visual_padding"]
            padding[...] = np.arange(plan.span_tokens) < void
            outputs = run(decoder, inputs)
            for layer, keep in enumerate(plan.keep[:-1]):
                kept = outputs[f"kept_indices.{layer}"]
                assert ((kept >= 0) & (kept < plan.span_tokens)).all(), name
                shown = (kept >= void).sum(-1)
                assert (shown == min(keep, plan.span_tokens - void)).all(), (name, void, layer)
                for row in kept.reshape(-1, keep):
                    assert row[row < void].tolist() == [*range((row < void).sum())], "the first padding stays"


def without_padding(half: str, model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with bodies that take no notice of padding: the inputs are there and change nothing."""

    def change(copy: onnx.ModelProto) -> None:
        body = bodies.spectrum_prune("residual", "token") if half == "decoder" else bodies.merge_axis("mean", 1)
        [place] = [i for i, item in enumerate(copy.functions) if item.name == body.name]
        copy.functions[place].CopyFrom(body)

    return edited(model, change)


@pytest.mark.parametrize("half", HALVES)
def test_a_body_that_ignores_padding_is_told(padded: Traced, half: str) -> None:
    model = getattr(padded, half)
    fuse = fuse_orthogonal_merge if half == "vision" else fuse_spectrum_prune
    honest = cut(model, fuse)
    assert max(differences(model, honest, padded.plan).values()) < 1e-4
    assert max(differences(model, without_padding(half, honest), padded.plan).values()) > 1e-2


@pytest.mark.parametrize("half", HALVES)
def test_a_graph_without_the_input_is_refused(padded: Traced, half: str) -> None:
    def change(copy: onnx.ModelProto) -> None:
        [place] = [i for i, item in enumerate(copy.graph.input) if item.name == VOID[half]]
        lost = copy.graph.input[place]
        shape = [size.dim_value or 1 for size in lost.type.tensor_type.shape.dim]
        copy.graph.initializer.append(
            onnx.helper.make_tensor(lost.name, 9, shape, bytes(int(np.prod(shape))), raw=True)
        )
        del copy.graph.input[place]

    with pytest.raises(CheckFailed, match=f"input {VOID[half]} of the contract is missing"):
        cut(edited(getattr(padded, half), change))
