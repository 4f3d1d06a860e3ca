"""For every pass: it fires where it should, leaves alone what it must, and breaking it on purpose is caught."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from surgery_harness import (
    CASES,
    INLINED,
    INPLACE,
    PLUGINS,
    RTX,
    TRT103,
    Traced,
    cut,
    edited,
    equal,
    feeds,
    fired,
    operators,
    run,
    small,
)

from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon import (
    batch_constant,
    cast_precision,
    evaluate,
    fold_shapes,
    fuse_gate_up,
    fuse_orthogonal_merge,
    fuse_qkv,
    fuse_spectrum_prune,
    inline_functions,
    inplace_kv,
    lower_dialect,
    merge_body,
    pack_heads,
    patch_layout,
    prune_body,
    share_norm,
    share_rope,
    unpack_heads,
    weights,
)

Patch = pytest.MonkeyPatch


def broken(before: onnx.ModelProto, make: Callable[[], onnx.ModelProto], traced: Traced, kind: str = "exact") -> bool:
    """Whether a sabotaged pass was caught: by its own check, by ONNX Runtime, or by the comparison."""
    try:
        return not equal(before, make(), traced.plan, kind)
    except Exception:
        return True


# Merges and prunes: one node each.


def test_merge_is_one_node(traced: Traced) -> None:
    made = cut(traced.vision, fuse_orthogonal_merge)
    nodes = [n for n in made.graph.node if n.domain == "luvc"]
    assert [n.op_type for n in nodes] == ["OrthogonalMerge"]
    attributes = {a.name: a.i for a in nodes[0].attribute}
    assert (attributes["rows"], attributes["columns"], attributes["height"], attributes["width"]) == (1, 1, 4, 6)
    assert {f.name for f in made.functions} == {"OrthogonalMerge", "MergeAxis"}
    assert not operators(made, "TopK")


def test_merge_leaves_other_topk(traced: Traced) -> None:
    text = """g (uint8[n,1,28,28,3] image) => (int64[n,1,28,28,2] y) <int64[1] k = {2}> {
        x = Cast<to=1>(image)
        v, y = TopK<axis=-1>(x, k)
    }"""
    count, reason = fired(small(text, traced.plan), fuse_orthogonal_merge)
    assert count == 0
    assert "axis passes remove []" in reason
    assert fired(traced.decoder, fuse_orthogonal_merge)[0] == 0


def test_merge_sabotage(traced: Traced, monkeypatch: Patch) -> None:
    wrong = merge_body._DECIDE.replace("Greater (right, left)", "Less (right, left)")
    monkeypatch.setattr(merge_body, "_DECIDE", wrong)
    assert broken(traced.vision, lambda: cut(traced.vision, fuse_orthogonal_merge), traced)


def test_three_prunes_are_three_nodes(traced: Traced) -> None:
    made = cut(traced.decoder, fuse_spectrum_prune)
    nodes = [n for n in made.graph.node if n.domain == "luvc"]
    assert [n.op_type for n in nodes] == ["SpectrumPrune", "SpectrumPrune", "SpectrumDrop"]
    keeps = [next(a.i for a in n.attribute if a.name == "keep") for n in nodes]
    assert keeps == [keep for _, _, keep in traced.plan.prunes] == [12, 6, 0]
    assert not operators(made, "TopK")


def test_prune_leaves_other_topk(traced: Traced) -> None:
    def plain_score(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            if node.op_type == "ReduceL2":
                node.op_type = "ReduceSum"

    count, reason = fired(edited(traced.decoder, plain_score), fuse_spectrum_prune)
    assert (count, "no low-pass score" in reason) == (0, True)
    assert fired(traced.vision, fuse_spectrum_prune) == (0, "the vision graph prunes nothing")


def test_prune_with_a_large_basis(traced: Traced) -> None:
    """The exporter folds the transposed basis of small plans only; of a large one the Transpose is in the graph."""

    def unfold(model: onnx.ModelProto) -> None:
        names = {t.name: t for t in model.graph.initializer}
        turns = []
        for node in model.graph.node:
            basis = next((n for n in node.input if n in names and "basis_" in n), None)
            if node.op_type != "MatMul" or basis is None:
                continue
            back = next(n for n in model.graph.node if n.op_type == "MatMul" and node.output[0] in n.input)
            assert list(names[back.input[1]].dims) == list(names[basis].dims)[::-1]
            turned = helper.make_node("Transpose", [basis], [f"{basis}.turned"], perm=[1, 0])
            back.input[1] = turned.output[0]
            turns.append(turned)
        for turned in turns:
            model.graph.node.insert(0, turned)

    assert fired(edited(traced.decoder, unfold), fuse_spectrum_prune)[0] == 3


def test_prune_sabotage(traced: Traced, monkeypatch: Patch) -> None:
    monkeypatch.setitem(prune_body._SCORE, "low", prune_body._SCORE["residual"])
    assert broken(traced.decoder, lambda: cut(traced.decoder, fuse_spectrum_prune), traced)


def test_prune_with_another_budget_is_caught(traced: Traced) -> None:
    def other_plan(model: onnx.ModelProto) -> None:
        plan = dataclasses.replace(traced.plan, keep=(12, 5, 0))
        next(p for p in model.metadata_props if p.key == "luvc.plan").value = json.dumps(plan.to_json())

    with pytest.raises(CheckFailed):
        cut(edited(traced.decoder, other_plan), fuse_spectrum_prune)


# What is computed twice.


def test_norm_is_shared(traced: Traced) -> None:
    fused = cut(traced.decoder, fuse_spectrum_prune)
    made = cut(fused, share_norm)
    assert operators(fused, "RMSNormalization") - operators(made, "RMSNormalization") == 2


def test_norm_of_another_weight_stays(traced: Traced) -> None:
    def other_epsilon(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            if node.op_type == "SpectrumPrune":
                next(a for a in node.attribute if a.name == "epsilon").f = 1e-3

    fused = edited(cut(traced.decoder, fuse_spectrum_prune), other_epsilon)
    assert fired(fused, share_norm) == (0, "a layer's norm has another epsilon than the prune's")
    assert fired(fused, share_norm, target=PLUGINS) == (0, "the target's plug-in norms inside its kernel")


def test_norm_sabotage(traced: Traced, monkeypatch: Patch) -> None:
    def double_weight(model: onnx.ModelProto) -> None:
        prune = next(n for n in model.graph.node if n.op_type == "SpectrumPrune")
        shape = next(t.dims for t in model.graph.initializer if t.name == prune.input[1])
        model.graph.initializer.append(helper.make_tensor("other", TensorProto.FLOAT, shape, np.full(shape, 2.0)))
        prune.input[1] = "other"

    fused = edited(cut(traced.decoder, fuse_spectrum_prune), double_weight)
    assert fired(fused, share_norm)[0] == 1
    monkeypatch.setattr(share_norm, "_same", lambda a, b: True)
    assert broken(fused, lambda: cut(fused, share_norm), traced)


def test_angles_are_computed_once(traced: Traced) -> None:
    assert operators(traced.decoder, "Cos", "Sin") == 4
    made = cut(cut(traced.decoder, fuse_spectrum_prune, share_rope), fold_shapes)
    assert operators(made, "Cos", "Sin") == 2


ANGLES = """g (float[1,S,2] a, float[1,T,2] b, float[1,1,L,4] x) => (float[1,1,L,4] y)
    <float f = {2}, float h = {HALF}> {
    p = Mul(a, f)
    q = Mul(b, h)
    c = Cos(p)
    d = Cos(q)
    all = Concat<axis=1>(c, d)
    y = RotaryEmbedding(x, all, all)
}"""


def test_unlike_angles_stay() -> None:
    model = small(ANGLES.replace("HALF", "0.5"))
    assert fired(model, share_rope) == (
        0,
        "two parts of a cache are not made alike; every cos and sin is computed once already",
    )
    assert fired(small(ANGLES.replace("HALF", "2")), share_rope)[0] == 1


def test_angles_sabotage(monkeypatch: Patch) -> None:
    model = small(ANGLES.replace("HALF", "0.5"))
    monkeypatch.setattr(share_rope, "_constants_equal", lambda x, y: True)
    random = np.random.default_rng(0)
    given = {
        n: random.normal(size=s).astype(np.float32)
        for n, s in (("a", (1, 2, 2)), ("b", (1, 3, 2)), ("x", (1, 1, 5, 4)))
    }
    made = cut(model, share_rope)
    assert np.abs(run(model, given)["y"] - run(made, given)["y"]).max() > 0.1


# Products that share an input.

PRODUCTS = """g (float[1,S,4] x, float[1,S,4] z) => (float[1,S,4] y) <float[4,4] a, float[4,4] b> {
    p = MatMul(x, a)
    s = Sigmoid(p)
    q = MatMul(OTHER, b)
    y = Mul(s, q)
}"""


def products(other: str) -> onnx.ModelProto:
    model = small(PRODUCTS.replace("OTHER", other).replace("<float[4,4] a, float[4,4] b>", ""))
    for number, name in enumerate("ab"):
        values = np.random.default_rng(number).normal(size=16)
        model.graph.initializer.append(helper.make_tensor(name, TensorProto.FLOAT, [4, 4], values))
    return onnx.shape_inference.infer_shapes(model)


def test_projections_are_one_product(traced: Traced) -> None:
    assert fired(traced.decoder, fuse_qkv)[0] == 3
    assert fired(traced.decoder, fuse_gate_up)[0] == 3
    assert fired(traced.vision, fuse_gate_up)[0] == 2
    assert operators(traced.decoder, "MatMul") - operators(cut(traced.decoder, fuse_qkv, fuse_gate_up), "MatMul") == 9


def test_other_projections_stay(traced: Traced) -> None:
    assert fired(traced.vision, fuse_qkv) == (0, "query, key and value come from one product already")
    count, reason = fired(products("z"), fuse_gate_up)
    assert (count, "different tensors" in reason) == (0, True)
    assert fired(products("x"), fuse_gate_up)[0] == 1


@pytest.mark.parametrize("item", [fuse_qkv, fuse_gate_up])
def test_projections_sabotage(traced: Traced, monkeypatch: Patch, item: Any) -> None:
    joined = weights.joined
    monkeypatch.setattr(weights, "joined", lambda s, tensors, axis: joined(s, tensors[::-1], axis))
    assert broken(traced.decoder, lambda: cut(traced.decoder, item), traced, "products")


# Layout.


def test_picture_moves_as_bytes(traced: Traced) -> None:
    made = cut(traced.vision, patch_layout)
    first = next(n for n in made.graph.node if "image" in n.input and n.op_type != "Shape")
    assert first.op_type == "Reshape"
    assert max(len(n.attribute[0].ints) for n in made.graph.node if n.op_type == "Transpose") == 7
    assert fired(traced.vision, patch_layout, target=RTX)[0] == 1


def test_picture_already_laid_out_stays(traced: Traced) -> None:
    assert fired(cut(traced.vision, patch_layout), patch_layout)[0] == 0
    assert fired(traced.decoder, patch_layout) == (0, "the decoder sees no picture")


def test_picture_sabotage(traced: Traced, monkeypatch: Patch) -> None:
    monkeypatch.setattr(patch_layout, "_moved", lambda surgery, tensor, after: surgery.constant(0.5, "x", np.float32))
    assert broken(traced.vision, lambda: cut(traced.vision, patch_layout), traced)


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


def test_pack_sabotage(traced: Traced, monkeypatch: Patch) -> None:
    monkeypatch.setattr(pack_heads, "_packed", lambda surgery, tensor: pack_heads._unpacked(tensor))
    assert broken(traced.decoder, lambda: cut(traced.decoder, pack_heads), traced)


def test_unpack_sabotage(traced: Traced, monkeypatch: Patch) -> None:
    packed = cut(traced.decoder, fuse_qkv, pack_heads)
    monkeypatch.setattr(unpack_heads, "_HEADS_FIRST", [0, 2, 3, 1])
    assert broken(packed, lambda: cut(packed, unpack_heads, target=RTX), traced)


# Bodies and constants.


def test_bodies_are_inlined_or_kept(traced: Traced) -> None:
    fused = cut(traced.decoder, fuse_spectrum_prune)
    assert not [n for n in cut(fused, inline_functions, target=INLINED).graph.node if n.domain]
    assert fired(fused, inline_functions) == (0, "the target reads ONNX functions")
    assert fired(fused, inline_functions, target=PLUGINS) == (0, "the target has plug-ins for every fused node")
    assert fired(traced.decoder, inline_functions, target=INLINED) == (0, "there is no fused node")


def test_inline_sabotage(traced: Traced, monkeypatch: Patch) -> None:
    fused = cut(traced.decoder, fuse_spectrum_prune)
    monkeypatch.setattr(onnx.inliner, "inline_selected_functions", lambda model, names, exclude: model)
    with pytest.raises(CheckFailed, match="fused nodes are left"):
        cut(fused, inline_functions, target=INLINED)


def test_folding_fires(traced: Traced) -> None:
    plain = cut(cut(traced.vision, fuse_orthogonal_merge, target=INLINED), inline_functions, target=INLINED)
    made = cut(plain, fold_shapes, target=INLINED)
    assert len(made.graph.node) < 0.75 * len(plain.graph.node)
    assert not operators(made, "Cos", "Range", "CastLike") or operators(plain, "Cos") > operators(made, "Cos")


def test_folding_leaves_what_depends_on_inputs() -> None:
    text = "g (float[n,4] x) => (float[n,4] y) { s = Shape(x)\n z = Reshape<allowzero=1>(x, s)\n y = Add(z, x) }"
    made = cut(small(text), fold_shapes)
    assert operators(made, "Add") == 1
    assert fired(made, fold_shapes)[0] == 0


@pytest.mark.parametrize("what", ["node", "block"])
def test_folding_sabotage(traced: Traced, monkeypatch: Patch, what: str) -> None:
    if what == "node":
        plain = evaluate.node
        monkeypatch.setattr(
            evaluate, "node", lambda n, a, o: [x + 1 if x.dtype.kind in "if" else x for x in plain(n, a, o)]
        )
    else:
        monkeypatch.setattr(
            batch_constant, "_compute", lambda *a: None if a[3] > 1 else np.zeros((1, 2, 2), np.float32)
        )
        monkeypatch.setattr(batch_constant, "_repeats", lambda blocks: True)
    assert broken(traced.vision, lambda: cut(traced.vision, fold_shapes), traced, "constants")


# Precision, dialect, caches.


def test_cast_keeps_islands(traced: Traced) -> None:
    fused = cut(traced.decoder, fuse_spectrum_prune, share_rope)
    made = cut(fused, cast_precision, target=RTX, precision="fp16")
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*made.graph.input, *made.graph.output)}
    assert kinds["logits"] == kinds["position_ids"] == TensorProto.FLOAT
    assert kinds["past_key_values.0.key"] == kinds["present.0.key"] == kinds["visual_embeds"] == TensorProto.FLOAT16
    full = cut(traced.decoder, target=RTX, precision="fp16")
    types = {v.name: v.type.tensor_type.elem_type for v in onnx.shape_inference.infer_shapes(full).graph.value_info}
    for node in full.graph.node:
        if node.op_type in ("ReduceL2", "Cos", "Sin"):
            assert types[node.input[0]] == TensorProto.FLOAT
        if node.op_type == "Attention":
            assert types[node.input[0]] == TensorProto.FLOAT16


def test_cast_bf16_is_well_typed(traced: Traced) -> None:
    made = cut(traced.decoder, target=RTX, precision="bf16")
    onnx.shape_inference.infer_shapes(made, strict_mode=True)


def test_cast_has_nothing_to_do(traced: Traced) -> None:
    assert fired(traced.decoder, cast_precision) == (0, "fp32 is wanted, and the graph is in fp32")
    assert fired(traced.decoder, cast_precision, target=RTX)[0] == 3
    with pytest.raises(CheckFailed, match="scores would be rounded"):
        cut(traced.decoder, cast_precision, target=RTX, precision="fp16")
    with pytest.raises(CheckFailed, match="does not compute in this precision"):
        cut(traced.decoder, cast_precision, target=INPLACE, precision="fp16")


def test_cast_sabotage(traced: Traced, monkeypatch: Patch) -> None:
    fused = cut(traced.decoder, fuse_spectrum_prune)
    monkeypatch.setattr(cast_precision, "_LOW_OUTPUTS", {"SpectrumPrune": (0, 2, 3, 5)})
    assert broken(fused, lambda: cut(fused, cast_precision, target=RTX, precision="fp16"), traced, "fp16")


def test_primitive_has_no_new_operator(traced: Traced) -> None:
    for model in (traced.vision, traced.decoder):
        made = cut(model, target=TRT103)
        assert not operators(made, "Attention", "RotaryEmbedding", "RMSNormalization")
        assert made.opset_import[0].version == 20
        assert made.ir_version <= 10
    assert fired(traced.decoder, lower_dialect, target=RTX) == (0, "the graph is opset 23 already")


@pytest.mark.parametrize("change", ["operator", "attribute", "type"])
def test_allow_list_refuses(change: str) -> None:
    body = {
        "operator": "y = Swish(x)",
        "attribute": "y, i = TopK<sorted=0>(x, k)",
        "type": "c = Cast<to=11>(x)\n d = Abs(c)\n y = Cast<to=1>(d)",
    }
    model = small(f"g (float[2,4] x) => (float[2,n] y) <int64[1] k = {{2}}> {{ {body[change]} }}", opset=24)
    with pytest.raises(CheckFailed, match="parser lacks"):
        cut(model, lower_dialect, target=TRT103)


def test_dialect_sabotage(traced: Traced, monkeypatch: Patch) -> None:
    monkeypatch.setattr(lower_dialect, "_NEVER", 0.0)
    assert broken(traced.decoder, lambda: cut(traced.decoder, target=TRT103), traced, "fp32")


def test_inplace_needs_a_target_that_wants_it(traced: Traced) -> None:
    assert fired(traced.decoder, inplace_kv) == (0, "the target's KV form is attention")
    assert fired(traced.vision, inplace_kv, target=INPLACE) == (0, "the vision graph has no cache")
    with pytest.raises(CheckFailed, match="need the text capacity"):
        cut(traced.decoder, inplace_kv, target=INPLACE)
    made = cut(traced.decoder, inplace_kv, target=INPLACE, text_capacity=16)
    assert operators(made, "TensorScatter") == 6


def test_inplace_sabotage(traced: Traced, monkeypatch: Patch) -> None:
    made_mask = inplace_kv._mask

    def shifted(surgery: Any, old: Any, visual: int, keep: int, start: Any, *rest: Any) -> Any:
        late = surgery.emit("Add", [start, [1]])[0]
        return made_mask(surgery, old, visual, keep, late, *rest)

    def logits() -> Any:
        made = cut(traced.decoder, target=INPLACE, text_capacity=16)
        given = feeds(traced.decoder, traced.plan, CASES["prefill"])
        mask = np.arange(16)[None] < given["input_ids"].shape[1]
        shapes = {v.name: [d.dim_value or 1 for d in v.type.tensor_type.shape.dim] for v in made.graph.input}
        held = {n: np.zeros(s, np.float32) for n, s in shapes.items() if n.startswith("past_key")}
        counts = {"past_text": np.array([0]), "past_groups": np.array([0])}
        return run(made, {**given, **held, **counts, "text_mask": mask})["logits"]

    right = logits()
    monkeypatch.setattr(inplace_kv, "_mask", shifted)
    assert np.abs(right - logits()).max() > 1e-2
