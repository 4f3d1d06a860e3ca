"""One schema for both forms of an operator: what is on disk stays, and nothing else says what a node has."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from surgery_harness import Traced, cut, edited

from luvc_export.core import operators
from luvc_export.core.operators import FUSED, OPERATORS, ORTHOGONAL_MERGE, SPECTRUM_PRUNE, OperatorTensor, Schema
from luvc_export.core.target import ORT_CPU
from luvc_export.errors import CheckFailed
from luvc_export.export import surgeon
from luvc_export.export.surgeon import lint
from luvc_export.export.surgeon.fused import bodies, node
from luvc_export.export.surgeon.graph import Surgery
from luvc_export.export.surgeon.passes import fuse_orthogonal_merge, fuse_spectrum_prune

#: What graphs and bundles that were written hold: function names, inputs, outputs, attributes. Never to be changed.
_GRID = "height width rows columns mode", "x sizes positions copies"
_GRID_OUT = "merged_x merged_sizes merged_positions merged_copies places"
ON_DISK = {
    "SpectrumPrune": (
        "tokens keep cutoff frequencies score axis epsilon",
        "hidden norm_weight basis order cos sin index",
        "kept_hidden kept_order kept_cos kept_sin kept_index kept_normed chosen",
    ),
    "SpectrumChoose": (
        "tokens keep cutoff frequencies score axis epsilon",
        "hidden norm_weight basis index",
        "chosen",
    ),
    "KeepRows": (
        "tokens keep",
        "hidden order cos sin index chosen",
        "kept_hidden kept_order kept_cos kept_sin kept_index",
    ),
    "SpectrumDrop": ("tokens keep", "hidden order cos sin index", "kept_hidden kept_order kept_cos kept_sin"),
    "OrthogonalMerge": (*_GRID, _GRID_OUT),
    "OrthogonalMergeColumns": (*_GRID, _GRID_OUT),
    "OrthogonalMergeRows": (*_GRID, _GRID_OUT),
    "MergeColumns": (*_GRID, _GRID_OUT),
    "MergeRows": (*_GRID, _GRID_OUT),
    "MergeAxis": ("length removed", "x sizes positions copies", "new_x new_sizes new_positions new_copies into"),
}
PLUGIN_FIELDS = {
    "SpectrumPrune": "keep score epsilon token_axes padding_payload",
    "OrthogonalMerge": "removed_columns removed_rows padded",
}
#: Tensors and settings of a fused node that its plugin has no use for.
FUSED_ALONE = {
    "SpectrumPrune": {"kept_normed", "tokens", "cutoff", "frequencies", "axis"},
    "OrthogonalMerge": {"copies", "merged_copies", "height", "width", "mode"},
}


def functions_by_name() -> dict[str, list[onnx.FunctionProto]]:
    by_name: dict[str, list[onnx.FunctionProto]] = {}
    functions = [bodies.spectrum_prune(s, a) for s in ("low", "residual", "ratio") for a in ("token", "channel")]  # type: ignore[arg-type]
    functions += [bodies.spectrum_choose("low", "token", True), bodies.keep_rows(), bodies.spectrum_drop()]
    functions += [bodies.orthogonal_merge(rows=False, name="MergeColumns")]
    functions += [bodies.orthogonal_merge(columns=False, name="MergeRows")]
    functions += [bodies.orthogonal_merge(*axes) for axes in ((True, True), (True, False), (False, True))]
    functions += [bodies.merge_axis("mean", 1), bodies.merge_axis("max", 2)]
    for body in functions:
        by_name.setdefault(body.name, []).append(body)
    return by_name


def test_names_on_disk_are_what_they_were() -> None:
    signatures = {
        name: [(" ".join(b.attribute), " ".join(b.input), " ".join(b.output)) for b in each]
        for name, each in functions_by_name().items()
    }
    assert signatures == {name: [wanted] * len(signatures[name]) for name, wanted in ON_DISK.items()}
    assert set(FUSED) == set(ON_DISK)
    assert {name: " ".join(f.name for f in form.attributes) for name, form in OPERATORS.items()} == PLUGIN_FIELDS


@pytest.mark.parametrize("name", sorted(ON_DISK))
def test_bodies_read_the_attributes_and_make_the_outputs_of_the_schema(name: str) -> None:
    for body in functions_by_name()[name]:
        read = {a.ref_attr_name for step in body.node for a in step.attribute if a.ref_attr_name}
        outputs = {out for step in body.node for out in step.output}
        assert read <= set(body.attribute)
        assert set(body.output) <= outputs
        assert not outputs & set(body.input)


@pytest.mark.parametrize("schema", [SPECTRUM_PRUNE, ORTHOGONAL_MERGE], ids=lambda schema: schema.name)
def test_the_plugin_has_what_the_fused_node_has_but_what_is_listed(schema: Schema) -> None:
    form, plugin = schema.fused, OPERATORS[schema.name]
    ours = {tensor.name for tensor in (*form.inputs, *form.outputs) if not tensor.travels}
    ours |= {attribute.name for attribute in form.attributes}
    theirs = {tensor.name for tensor in (*plugin.inputs, *plugin.outputs) if not tensor.payload}
    theirs |= {attribute.name for attribute in plugin.attributes if not attribute.optional}
    assert ours - theirs == FUSED_ALONE[schema.name]
    assert not theirs - ours
    payloads = [sum(tensor.travels for tensor in side) for side in (form.inputs, form.outputs)]
    assert payloads[0] == payloads[1] <= operators.MAX_PAYLOADS
    assert bool(payloads[0]) == any(tensor.payload for tensor in plugin.inputs)


def test_passes_do_not_count_what_fused_nodes_have() -> None:
    """No pass reads an attribute of a fused node by ONNX's name, or names a fused operator itself."""
    renamed = {a.fused for schema in FUSED.values() for a in schema.fused.attributes if a.fused}
    assert renamed == {"rows", "columns"}
    for path in Path(surgeon.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        keys = {
            part.slice.value
            for part in ast.walk(tree)
            if isinstance(part, ast.Subscript)
            and isinstance(part.value, ast.Attribute)
            and part.value.attr == "attrs"
            and isinstance(part.slice, ast.Constant)
        }
        words = {part.value for part in ast.walk(tree) if isinstance(part, ast.Constant)}
        assert not keys & {*renamed, "tokens", "keep", "score"}, path
        assert not words & set(FUSED), path


def _without(name: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        prune = next(item for item in model.graph.node if item.op_type == "SpectrumPrune")
        kept = [item for item in prune.attribute if item.name != name]
        del prune.attribute[:]
        prune.attribute.extend(kept)

    return change


def _no_basis(model: onnx.ModelProto) -> None:
    prune = next(item for item in model.graph.node if item.op_type == "SpectrumPrune")
    del prune.input[6:]


def test_lint_holds_fused_nodes_to_their_schema(traced: Traced) -> None:
    fused = cut(traced.decoder, fuse_spectrum_prune)
    cut(fused, lint)
    with pytest.raises(CheckFailed, match=r"SpectrumPrune .*: attributes axis, cutoff.*, the schema has .*score"):
        cut(edited(fused, _without("score")), lint)
    with pytest.raises(CheckFailed, match=r"SpectrumPrune .*: 6 inputs, the schema has 7"):
        cut(edited(fused, _no_basis), lint)


def _renamed(model: onnx.ModelProto) -> None:
    merge = next(item for item in model.graph.node if item.op_type == "OrthogonalMerge")
    merge.op_type = model.functions[0].name = "OrthogonalMergr"


def test_an_unknown_fused_node_is_named(traced: Traced) -> None:
    fused = cut(traced.vision, fuse_orthogonal_merge)
    surgery = Surgery.open(edited(fused, _renamed), ORT_CPU)
    strange = next(item for item in surgery.graph.nodes if item.op == "OrthogonalMergr")
    with pytest.raises(CheckFailed, match=r"no fused operator(.|\n)*did you mean 'OrthogonalMerge'"):
        node.FusedNode(strange)
    assert list(node.problems(strange)) == ["no fused operator"]


def test_a_schema_that_drifts_from_a_graph_is_caught(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph written before does not fit a schema with another tensor."""
    fused = cut(traced.decoder, fuse_spectrum_prune)
    more = (*SPECTRUM_PRUNE.fused.inputs, OperatorTensor("extra", ("int64",)))
    drifted = Schema(operators.Operator("SpectrumPrune", more, SPECTRUM_PRUNE.fused.outputs, ()))
    monkeypatch.setitem(FUSED, "SpectrumPrune", drifted)
    with pytest.raises(CheckFailed, match="7 inputs, the schema has 8"):
        node.FusedNode(next(Surgery.open(fused, ORT_CPU).nodes("SpectrumPrune")))
