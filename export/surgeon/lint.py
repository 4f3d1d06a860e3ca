"""The last word on a graph: what no target accepts, or this one does not, fails here and not on the device.

requires: nothing.
apply: changes nothing.
ensures: operators the target knows (primitive: ``allow_list``, for the passes after ``lower_dialect``), no input
that nothing reads, TopK within the target's limit, opset and IR as the target wants, the contract's inputs and outputs
with their types, types of every tensor as its operators make them, and no symbolic size that the contract fixes.
must not touch: anything.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_graphsurgeon as gs

from luvc_export.core import graph_io
from luvc_export.core.operators import CONTRIB_DOMAIN, MARKS
from luvc_export.core.operators import DOMAIN as PLUGIN_DOMAIN
from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon import allow_list
from luvc_export.export.surgeon.fused import node as fused
from luvc_export.export.surgeon.graph import DOMAIN, TENSORRT_DOMAIN, Surgery, kind_of, value

#: Operators of TensorRT's own that quantised plans hold; only targets with kernels for them are given such plans.
TENSORRT = frozenset([(TENSORRT_DOMAIN, "TRT_FP4DynamicQuantize")])

#: Operators of ONNX Runtime's own that quantised plans hold.
_CONTRIBUTED = ("DynamicQuantizeMatMul", "GatherBlockQuantized", "MatMulNBits")


def requires(surgery: Surgery) -> str | None:
    """Always."""
    return None


def apply(surgery: Surgery) -> int:
    """Nothing changes."""
    return 0


def ensures(surgery: Surgery, fired: int) -> None:
    """Check everything and list every problem.

    Raises:
        CheckFailed: The problems, one a line.
    """
    model = surgery.close()
    problems = [*_versions(surgery, model), *_operators(surgery), *_unused(surgery), *_contract(surgery)]
    if surgery.target.dialect == "primitive":
        problems += [f"TensorRT 10.3's parser: {problem}" for problem in allow_list.problems(model)]
    try:
        onnx.checker.check_model(_without_external(model), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        problems.append(f"onnx.checker: {' '.join(str(error).split())}")
    if problems:
        raise CheckFailed("the graph does not pass lint:\n" + "\n".join(f"  - {problem}" for problem in problems))


def _versions(surgery: Surgery, model: onnx.ModelProto) -> Iterator[str]:
    target = surgery.target
    opset = {item.domain: item.version for item in model.opset_import}.get("")
    if opset != target.opset:
        yield f"opset {opset}, {target.name} wants {target.opset}"
    if model.ir_version != target.ir_version:
        yield f"ir_version {model.ir_version}, {target.name} wants {target.ir_version}"


def _operators(surgery: Surgery) -> Iterator[str]:
    limit = surgery.target.topk_limit
    for node in surgery.graph.nodes:
        if node.op in allow_list.FORBIDDEN:
            yield f"{node.op} ({node.name}): no target accepts it"
        elif node.domain == PLUGIN_DOMAIN:
            if node.op not in surgery.target.plugins:
                yield f"{PLUGIN_DOMAIN}::{node.op} ({node.name}): the target has no plugin for it"
        elif node.domain == DOMAIN and node.op in MARKS:
            yield f"{DOMAIN}::{node.op} ({node.name}): a mark of the trace that no pass fused"
        elif node.domain == DOMAIN:
            yield from (f"{DOMAIN}::{node.op} ({node.name}): {problem}" for problem in fused.problems(node))
            if not surgery.target.functions:
                yield f"{DOMAIN}::{node.op} ({node.name}): the target reads no functions"
        elif (node.domain, node.op) in TENSORRT:
            if surgery.target.functions:
                yield f"{node.domain}::{node.op} ({node.name}): ONNX Runtime has no such operator"
        elif node.domain == CONTRIB_DOMAIN and node.op in _CONTRIBUTED:
            if not surgery.target.packed_products:
                yield f"{node.domain}::{node.op} ({node.name}): an operator of ONNX Runtime"
        elif node.domain not in (None, ""):
            yield f"{node.domain}::{node.op} ({node.name}): not an operator of ONNX"
        if node.op == "TopK":
            k = value(node.inputs[1])
            if k is None:
                yield f"TopK ({node.name}): K is computed, it must be fixed"
            elif limit is not None and int(k.ravel()[0]) > limit:
                yield f"TopK ({node.name}): K = {int(k.ravel()[0])} is over the target's {limit}"


def _unused(surgery: Surgery) -> Iterator[str]:
    keyless = any(tensor.name.startswith(graph_io.PAST_STATES) for tensor in surgery.graph.inputs)
    for tensor in surgery.graph.inputs:
        if keyless and tensor.name == graph_io.VISUAL_POSITION_IDS:
            continue  # a plan may drop pictures before the first layer that turns heads
        if not surgery.target.visual_rows and tensor.name.startswith("visual"):
            continue  # of no image
        if not tensor.outputs and not any(tensor is out for out in surgery.graph.outputs):
            yield f"input {tensor.name} is read by nothing"


def _contract(surgery: Surgery) -> Iterator[str]:
    inputs = {tensor.name: tensor for tensor in surgery.graph.inputs}
    outputs = {tensor.name: tensor for tensor in surgery.graph.outputs}
    if surgery.part == "vision":
        wanted_in = [*graph_io.vision_inputs(surgery.plan)]
        wanted_out = [graph_io.VISUAL_EMBEDS, graph_io.VISUAL_POSITIONS]
        wanted_out += [graph_io.MERGED_INTO] if surgery.plan.encoder.says_merged else []
    else:
        decodes = graph_io.VECTORS not in outputs
        past = graph_io.cache_inputs(surgery.plan.cached, inputs) if decodes else []
        wanted_in = [*graph_io.decoder_inputs(surgery.plan), *past]
        chosen = [graph_io.NEXT_TOKEN, graph_io.NEXT_LOGIT] if surgery.target.next_token and decodes else []
        wanted_out = [graph_io.LOGITS if decodes else graph_io.VECTORS, *chosen, *map(graph_io.present_name, past)]
        if surgery.target.kv != "attention":  # ``drop_unread``
            wanted_in.remove(graph_io.VISUAL_POSITION_IDS)
        if graph_io.HEAD_ROWS in inputs:  # a head alone
            wanted_in, wanted_out = [graph_io.HEAD_ROWS], [graph_io.LOGITS]
    for kind, names, tensors in (("input", wanted_in, inputs), ("output", wanted_out, outputs)):
        yield from (f"{kind} {name} of the contract is missing" for name in names if name not in tensors)
    for name, tensor in {**inputs, **outputs}.items():
        element = kind_of(tensor)
        if element is not None and str(element) != graph_io.TYPES.get(name, str(element)):
            yield f"{name} is {element}, the contract says {graph_io.TYPES[name]}"
        yield from (f"{name}: {problem}" for problem in _dynamic(surgery, name, tensor))


def _dynamic(surgery: Surgery, name: str, tensor: gs.Tensor) -> Iterator[str]:
    """Sizes that the plan fixes and the graph leaves open, or fixes otherwise."""
    shape = tensor.shape
    fixed: dict[int, int | None] = {}
    if name == graph_io.IMAGE:
        fixed = dict.fromkeys(range(1, 5))
    elif name == graph_io.UNITS:
        fixed = {1: surgery.plan.encoder.bucket}
    elif name == graph_io.VISUAL_EMBEDS:
        last = len(shape or ()) - 1
        inside = name in {item.name for item in surgery.graph.outputs}  # of the vision graph: an image, not a group
        fixed = {last - 1: surgery.plan.vision_tokens if inside else surgery.plan.span_tokens, last: None}
    elif name.startswith(("past_key_values.", "present.")):
        fixed = {1: None, 3: None}
    for axis, wanted in fixed.items() if shape is not None else ():
        size = shape[axis]
        if not isinstance(size, int):
            yield f"axis {axis} is {size!r}, it must be fixed"
        elif wanted is not None and size != wanted:
            yield f"axis {axis} is {size}, the plan says {wanted}"


def _without_external(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy for the checker: it wants to see files of external weights, and knows no TensorRT attribute."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    outside = [t for t in bare.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    for tensor in outside:
        bare.graph.initializer.remove(tensor)
        bare.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    for node in bare.graph.node:
        for attribute in [item for item in node.attribute if item.name.startswith("TRT_")]:
            node.attribute.remove(attribute)
    return bare
