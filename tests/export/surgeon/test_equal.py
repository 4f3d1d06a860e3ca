"""Outputs before and after every pass, in prefill and in decode, and after the whole list for every kind of target."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from surgery_harness import INLINED, INPLACE, RTX, TRT103, Traced, cut, equal, operators, run
from surgery_harness import feeds as random_feeds

from luvc_export.core.target import ORT_CPU, TargetSpec
from luvc_export.export.surgeon import pass_list
from luvc_export.export.surgeon.passes import fold_shapes as folding

KINDS = {"fuse_qkv": "products", "fuse_gate_up": "products", "fold_shapes": "constants"}
PASSES = pass_list()
NAMES = [item.__name__.rsplit(".", 1)[-1] for item in PASSES]


@pytest.fixture(scope="session")
def steps(traced: Traced) -> dict[str, list[onnx.ModelProto]]:
    """Each half after no pass, the first pass, the first two, ..."""
    halves = {}
    for half in ("vision", "decoder"):
        models = [getattr(traced, half)]
        for item in PASSES[:-1]:
            models.append(cut(models[-1], item, target=INLINED))
        halves[half] = models
    return halves


@pytest.mark.parametrize("half", ["vision", "decoder"])
@pytest.mark.parametrize("number", range(len(PASSES) - 1), ids=NAMES[:-1])
def test_one_pass(steps: dict[str, list[onnx.ModelProto]], traced: Traced, half: str, number: int) -> None:
    before, after = steps[half][number : number + 2]
    if [n.op_type for n in before.graph.node] == [n.op_type for n in after.graph.node]:
        return
    assert equal(before, after, traced.plan, KINDS.get(NAMES[number], "exact"))


@pytest.mark.parametrize(
    ("target", "precision"), [(INLINED, "fp32"), (ORT_CPU, "fp32"), (RTX, "fp16"), (TRT103, "fp32"), (TRT103, "fp16")]
)
@pytest.mark.parametrize("half", ["vision", "decoder"])
def test_whole_list(traced: Traced, half: str, target: TargetSpec, precision: Any) -> None:
    model = getattr(traced, half)
    after = cut(model, target=target, precision=precision)
    onnx.checker.check_model(after)
    assert equal(model, after, traced.plan, "constants" if target in (ORT_CPU, INLINED) else precision)


def test_again_changes_nothing(traced: Traced) -> None:
    once = cut(traced.decoder)
    twice = cut(once)
    assert [n.op_type for n in once.graph.node] == [n.op_type for n in twice.graph.node]


@pytest.mark.parametrize("target", [RTX, TRT103], ids=["onnx", "primitive"])
@pytest.mark.parametrize("half", ["vision", "decoder"])
def test_bundle_graph_for_another_target(traced: Traced, half: str, target: TargetSpec) -> None:
    """What ONNX Runtime runs is the start for every other target; names of both surgeries differ."""
    model = getattr(traced, half)
    after = cut(cut(model), target=target, precision="fp16")
    written = [name for node in after.graph.node for name in node.output]
    assert len(written) == len(set(written))
    assert not operators(after, "TensorScatter")
    assert equal(model, after, traced.plan, "fp16")


def test_inplace_over_three_steps(traced: Traced) -> None:
    """Prefill, then three tokens, each form on its own caches."""
    plan, capacity = traced.plan, 32
    inplace = cut(traced.decoder, target=INPLACE, text_capacity=capacity)
    caches = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inplace.graph.input}
    assert all(caches[f"past_key_values.{n}.key"][2] == keep + capacity for n, keep in enumerate(plan.keep))
    for images in (1, 0):
        inputs = random_feeds(traced.decoder, plan, (1, images, 7, 0, 0))
        held = {n: np.zeros((1, *s[1:]), np.float32) for n, s in caches.items() if n.startswith("past_key")}
        text, past_images = 0, 0
        for step in range(4):
            new = inputs["input_ids"].shape[1]
            mask = np.zeros((1, capacity), np.bool_)
            mask[:, : text + new] = True
            counts = {"past_text": np.array([text]), "past_groups": np.array([past_images])}
            plain = run(traced.decoder, inputs)
            fixed = run(inplace, {**inputs, **held, **counts, "text_mask": mask})
            scale = np.abs(plain["logits"]).max()
            assert np.abs(plain["logits"] - fixed["logits"]).max() <= 2e-5 * scale
            text, past_images = text + new, images
            held = {n: fixed[n.replace("past_key_values", "present")] for n in held}
            inputs = random_feeds(traced.decoder, plan, (1, 0, 1, images, text), seed=step)
            inputs |= {n: plain[n.replace("past_key_values", "present")] for n in inputs if n.startswith("past_key")}


def test_folding_leaves_no_identity(traced: Traced) -> None:
    assert not operators(cut(traced.vision, folding), "Identity")
