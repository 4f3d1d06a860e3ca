"""Look inside a bundle's decoder: a copy of its graphs whose layers' entering hidden states are outputs too."""

from __future__ import annotations

import dataclasses
import weakref
from contextlib import ExitStack

import onnx

from luvc_export.bundle import graph_trust
from luvc_export.bundle.folder import Bundle, record, write_manifest
from luvc_export.bundle.graphs import read_graph
from luvc_export.bundle.hashing import link
from luvc_export.bundle.manifest import PlanEntry
from luvc_export.core import graph_io
from luvc_export.core.files.safe_files import temporary_folder, write_new
from luvc_export.core.plan import Plan

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
    (``LlmPlan.frozen``) adds a Slice of what entered.
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
    sources = []
    for layer in range(plan.cached):
        entering = _added_to(f"layers.{layer}.self_attn.o_proj.weight", weights, readers, beside)
        if entering is None:
            return False
        if layer in plan.llm.frozen and entering in makers:
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


def probed(bundle: Bundle, entry: PlanEntry) -> Bundle:
    """A copy of ``bundle`` in a temporary folder (removed with the object) whose decoders of ``entry`` are probed.

    Weights are hard links where the file system has them. Graphs whose layers are not found stay as they are.
    """
    kept = ExitStack()
    folder = kept.enter_context(temporary_folder("luvc-parity"))
    files = dict(bundle.manifest.files)
    for name in files:
        target = folder / name
        if name in (entry.decoder, entry.decoder_debug):
            model = onnx.load_model_from_string(read_graph(bundle, name).data)
            add_hidden_outputs(model, entry.plan)
            write_new(target, model.SerializeToString())
            files[name] = record(target)
        else:
            link(bundle.path(name), target)
    manifest = dataclasses.replace(bundle.manifest, weights=bundle.anchored_weights, files=files, sets=())
    copy = Bundle(folder, manifest)
    write_manifest(folder, copy.manifest)  # for a helper that runs it first
    graph_trust.inherit(bundle, copy)
    weakref.finalize(copy, kept.close)
    return copy
