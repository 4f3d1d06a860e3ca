"""Copies of a bundle in scratch folders, some of its graphs changed: to look inside, or to try a plan.

A decoder shows its hidden states in a copy of its graphs where what enters each layer is an output too.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from luvc_export.bundle import graph_trust
from luvc_export.bundle.folder import Bundle, record, write_manifest
from luvc_export.bundle.graphs import read_graph
from luvc_export.bundle.hashing import link
from luvc_export.bundle.manifest import PlanEntry
from luvc_export.core import graph_io
from luvc_export.core.files.safe_files import temporary_folder, write_new
from luvc_export.core.plan import Plan
from luvc_export.export import ir_edits


def write_copy(
    bundle: Bundle, folder: Path, written: Collection[str], left_out: Collection[str] = (), **fields: Any
) -> Bundle:
    """Write a copy of ``bundle`` to ``folder``, without its finished graphs.

    Args:
        bundle: A checked bundle; its files become hard links where the file system has them.
        folder: An existing folder.
        written: Files of the copy that lie in ``folder`` already, in place of the bundle's own of the same names.
        left_out: Files of the bundle that the copy has not.
        **fields: Of the copy's manifest, where they differ.
    """
    files = {name: known for name, known in bundle.manifest.files.items() if name not in left_out}
    for name in files.keys() - set(written):
        if not (folder / name).exists():
            link(bundle.path(name), folder / name)
    files |= {name: record(folder / name) for name in written}
    fields = {"weights": bundle.anchored_weights, "files": files, "sets": (), **fields}
    copy = Bundle(folder, dataclasses.replace(bundle.manifest, **fields))
    write_manifest(folder, copy.manifest)
    graph_trust.inherit(bundle, copy)
    return copy


def read_model(bundle: Bundle, file: str) -> ir.Model:
    """A graph of a bundle to change and write again: its weights stay where the bundle has them."""
    return ir.from_proto(onnx.load_model_from_string(read_graph(bundle, file).data))


def widen(model: ir.Model) -> None:
    """Let a graph in bf16 compute in fp32. What it stores or casts is rounded as before, and read through a Cast."""
    narrow, wide = ir.DataType.BFLOAT16, ir.DataType.FLOAT
    to_wide, graph = {"to": int(wide)}, model.graph
    nodes = [*graph.all_nodes(), *(node for one in model.functions.values() for node in one.all_nodes())]
    for node in nodes:
        if node.op_type == "Cast" and node.attributes.get_int("to") == narrow and node.graph is not None:
            name, to_narrow = f"{node.outputs[0].name}.rounded", {"to": int(narrow)}
            node.replace_input_with(0, ir_edits.add_node(node.graph, node, "Cast", node.inputs, name, "", to_narrow)[0])
            node.attributes["to"] = ir.AttrInt64("to", int(wide))
    for value in [value for value in graph.initializers.values() if value.dtype == narrow]:
        uses = tuple(value.uses())
        (cast,) = ir_edits.add_node(graph, graph[0], "Cast", [value], f"{value.name}.wide", "", to_wide)
        for node, index in uses:
            node.replace_input_with(index, cast)
    for value in (*graph.inputs, *(out for node in nodes for out in node.outputs)):
        if value.dtype == narrow:
            value.type = ir.TensorType(wide)


#: What keeps a weight a weight.
_UNCHANGED = ("Cast", "Identity", "Transpose", "Reshape", "DequantizeLinear")


def hidden_name(layer: int) -> str:
    """Output that holds the hidden state entering ``layer``."""
    return f"hidden.{layer}"


def add_hidden_outputs(model: onnx.ModelProto, plan: Plan) -> bool:
    """Make what enters each layer with a cache an output ``hidden.N``; False, and nothing changed, if one is not found.

    What enters a layer is what its attention's output is added to: from the output projection's weight, whose name is
    the checkpoint's, down to the first Add of two computed tensors. That holds before and after surgery, which moves
    norms, fuses projections and prunes, but leaves the residual sum alone. A layer that computes text alone
    (``LlmPlan.frozen``, the last where there are vectors) adds a Slice of what entered, behind visual ones that work.
    """
    graph = model.graph
    weights = {item.name for item in graph.initializer}
    for node in graph.node:  # weights stored in 16 bits are widened
        if node.op_type in _UNCHANGED and node.input[0] in weights:
            weights.update(node.output)
    readers: dict[str, list[onnx.NodeProto]] = {}
    makers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    factors = {graph_io.lora_names(layer, "o_proj")[1] for layer in range(plan.cached)}
    beside = {node.output[0] for node in graph.node if factors & {*node.input}}
    sources, vector_graph = [], graph_io.VECTORS in {one.name for one in graph.output}
    for layer in range(plan.cached):
        entering = _added_to(f"layers.{layer}.self_attn.o_proj.weight", weights, readers, beside)
        if entering is None:
            return False
        vectors = vector_graph and layer == plan.layers - 1 and plan.keep[layer] > 0
        cut = entering in makers and makers[entering].op_type == "Slice"
        if (plan.llm.sampled or plan.llm.turns) and layer in plan.llm.kv_only:
            entering = makers[entering].input[-1]
        if (layer in plan.llm.frozen and entering in makers) or (vectors and cut):
            entering = makers[entering].input[0]
        sources.append(entering)
    kind = next(item for item in graph.input if item.name == graph_io.VISUAL_EMBEDS).type.tensor_type.elem_type
    for layer, source in enumerate(sources):
        graph.node.append(onnx.helper.make_node("Identity", [source], [hidden_name(layer)]))
        graph.output.append(onnx.helper.make_tensor_value_info(hidden_name(layer), kind, None))
    return True


def _added_to(weight: str, weights: set[str], readers: dict[str, list[onnx.NodeProto]], beside: set[str]) -> str | None:
    """The tensor to which the product with ``weight`` is added; biases, casts and a norm may stand between.

    ``beside`` are the products of adapters' factors, which are added first.
    """
    here = next((name for name in weights if weight in name and "visual" not in name), None)
    for _ in range(8):
        following = readers.get(here or "", [])
        if len(following) != 1:
            return None
        node = following[0]
        others = [name for name in node.input if name != here and name not in weights | beside]
        if node.op_type == "Add" and others:
            return str(others[0])
        here = node.output[0]
    return None


def probed(bundle: Bundle, entry: PlanEntry, widened: bool = False) -> Bundle:
    """A copy of ``bundle`` in a temporary folder (removed with the object) whose decoders of ``entry`` are probed.

    Weights are hard links where the file system has them. Graphs whose layers are not found stay as they are. Those in
    bf16 are in fp32 in a copy that is ``widened``.
    """
    kept = ExitStack()
    folder = kept.enter_context(temporary_folder("luvc-parity"))
    names = [name for name in (widened and entry.vision, entry.decoder, entry.decoder_debug) if name]
    for name in names:
        model = read_model(bundle, name)
        if widened:
            widen(model)
        proto = ir.to_proto(model)
        if name != entry.vision:
            add_hidden_outputs(proto, entry.plan)
        write_new(folder / name, proto.SerializeToString())
    copy = write_copy(bundle, folder, names, dtype="fp32" if widened else bundle.manifest.dtype)
    weakref.finalize(copy, kept.close)
    return copy
