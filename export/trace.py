"""From modules to ONNX: one vision graph, one decoder graph for prefill and decode.

Opset 23 (torch 2.13 writes an invalid model at 26) and ir_version 10 (what onnxruntime and TensorRT parsers of the
field read), both asserted on the result.

What the exporter leaves is made small by the steps of ``onnxscript.optimizer.optimize_ir`` without the rewrites that
cannot fire on these graphs (no convolution, no clip, no scatter). The one that looks for slices that are a split took
half of their time. The debug decoder is a copy of the traced graph: both then compute the same, and an export with
``--debug-graph`` costs one trace.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import onnx_ir as ir
import onnx_ir.passes.common as passes
import torch
from onnxscript.optimizer import fold_constants_ir
from onnxscript.rewriter import RewritePass, RewriteRule
from onnxscript.rewriter.rules import common as rules
from torch import Tensor, nn

from luvc_export.core import graph_io, tasks
from luvc_export.core.operators import SPECTRUM_CHOOSE
from luvc_export.core.plan import Plan
from luvc_export.core.shapes import DecoderShape
from luvc_export.errors import CheckFailed, LuvcError
from luvc_export.export.compression.marks import marking
from luvc_export.export.decomposition import by_substitution, without_repeats
from luvc_export.export.llm.decoder import Decoder
from luvc_export.export.llm.lora_slots import SlottedLayers
from luvc_export.export.surgeon.fused import delta_body

OPSET = 23
IR_VERSION = 10

#: What a trace changes of torch, Python's warnings and its collector is the whole process': one at a time.
_TRACING = threading.Lock()

#: Data-dependent control flow, sequences and operators TensorRT lacks (its parser's operator list; DFT only from 11.2).
FORBIDDEN = (
    "If", "Loop", "Scan", "Sequence", "SplitToSequence", "ConcatFromSequence", "NonZero", "Scatter", "DFT", "Compress",
    "Unique",
)  # fmt: skip


class FlatDecoder(nn.Module):
    """The decoder with past caches and outputs in a row, as a graph has them; ``slots`` are those for adapters."""

    def __init__(self, decoder: Decoder, slots: SlottedLayers | None = None) -> None:
        super().__init__()
        self.decoder, self.slots = decoder, slots

    def forward(
        self, inputs: Sequence[Tensor], past: Sequence[Tensor], factors: Sequence[Tensor] = ()
    ) -> tuple[Tensor, ...]:
        """Outputs: logits or vectors, present caches, kept indices of every prune."""
        named = dict(zip(graph_io.decoder_inputs(self.decoder.plan), inputs, strict=True))
        with self.slots.beside(factors) if self.slots else contextlib.nullcontext():
            logits, presents, kept = self.decoder(**named, past=past)
        return logits, *presents, *kept


def trace_vision(vision: nn.Module, plan: Plan, size: tuple[int, int], frames: int, marked: bool = False) -> ir.Model:
    """Trace the vision graph of ``plan`` for images of ``size`` (height, width); their number stays symbolic.

    ``marked``: axis passes of merges are single nodes, for surgery, which the graph cannot run without.
    """
    example = [torch.zeros(2, frames, *size, 3, dtype=torch.uint8)]
    example += [torch.zeros(2, *plan.grid, dtype=torch.bool)] if plan.encoder.reads_padding else []
    example += (
        [torch.arange(plan.encoder.computed_units, dtype=torch.int32).repeat(2, 1)] if plan.encoder.takes_units else []
    )
    time = plan.encoder.time
    images: Any = torch.export.Dim("images") if time is None else time.frames * torch.export.Dim("clips")
    example = (
        example if time is None else [part[:1].repeat(2 * time.frames, *[1] * (part.dim() - 1)) for part in example]
    )
    outputs = [graph_io.VISUAL_EMBEDS, graph_io.VISUAL_POSITIONS, graph_io.MERGED_INTO]
    inputs = list(graph_io.vision_inputs(plan))
    model = _trace(vision, tuple(example), ({0: images},) * len(example), inputs, outputs, marked)
    for value in [*model.graph.inputs, *model.graph.outputs] if time is not None else []:
        assert value.shape is not None
        value.shape[0] = ir.SymbolicDim("images")  # of whole clips, which no shape says
    return model


def trace_decoder(
    decoder: Decoder,
    shape: DecoderShape,
    dtype: torch.dtype,
    marked: bool = False,
    slots: SlottedLayers | None = None,
) -> ir.Model:
    """Trace the decoder with batch, images, text and cache lengths symbolic, and the rank of adapters.

    One that pools takes and gives no caches.

    Args:
        decoder: Module with its plan.
        shape: Sizes of its caches.
        dtype: Of embeddings and caches.
        marked: Selections by spectrum are single nodes, for surgery, which the graph cannot run without.
        slots: Products of its layers that take adapters' factors.
    """
    plan = decoder.plan
    axes = int(decoder.rope.axes.max()) + 1
    batch, groups, text, past_text, asked, past_groups = 2, 2, 3, 5, 2, 3
    cached = shape.kept if decoder.pooled is None else ()
    past_text = past_text if decoder.pooled is None else 0
    span = groups * plan.span_tokens
    names = {name: torch.export.Dim(name) for name in ("batch", "groups", "text", "text_total", "logits")}
    b, g, t = names["batch"], names["groups"], names["text"]
    visual_span = plan.span_tokens * g
    inputs: list[tuple[Tensor, dict[int, Any]]] = [
        (torch.zeros(batch, groups, plan.span_tokens, shape.hidden, dtype=dtype), {0: b, 1: g}),
        (torch.zeros(batch, text, dtype=torch.int64), {0: b, 1: t}),
        (torch.zeros(axes, batch, span), {1: b, 2: visual_span}),
        (torch.zeros(axes, batch, text), {1: b, 2: t}),
        (torch.zeros(batch, span, dtype=torch.int64), {0: b, 1: visual_span}),
        (torch.zeros(batch, text, dtype=torch.int64), {0: b, 1: t}),
        (torch.ones(batch, past_text + text, dtype=torch.bool), {0: b, 1: names["text_total"] if past_text else t}),
        (torch.zeros(batch, asked, dtype=torch.int64), {0: b, 1: names["logits"]}),
    ]
    if plan.decoder_padding:
        inputs.append((torch.zeros(batch, groups, plan.span_tokens, dtype=torch.bool), {0: b, 1: g}))
    past, past_dims = [], []
    rows, bounded = plan.cache_rows(past_groups, past_text), shape.most_rows
    for state in cached:
        kind = getattr(torch, state.dtype) if state.dtype else dtype
        near = state.layer in bounded  # a number of rows of its own: some have left
        past.append(torch.zeros(state.sizes(batch, rows[state.layer] - near), dtype=kind))
        name = f"past_{plan.keep[state.layer]}" + "_near" * near
        axis = {} if state.axis is None else {state.axis: torch.export.Dim(name)}
        past_dims.append({0: b, **axis})
    task = tasks.find("generate" if decoder.pooled is None else "embed")
    kept = [graph_io.kept_name(layer) for layer, _, _ in decoder.plan.chooses]
    beside = slots.inputs(dtype, batch) if slots else []
    known = {"batch": b, "rank": torch.export.Dim("lora_rank")}
    axes_of = [{axis: known[part] for axis, part in enumerate(parts) if part} for _, _, parts in beside]
    model = _trace(
        FlatDecoder(decoder, slots),
        ([tensor for tensor, _ in inputs], past, *([[tensor for _, tensor, _ in beside]] if slots else [])),
        ([dims for _, dims in inputs], past_dims, *([axes_of] if slots else [])),
        [*graph_io.decoder_inputs(plan), *(state.past for state in cached), *(name for name, _, _ in beside)],
        [task.output, *(state.present for state in cached), *kept],
        marked,
    )
    unread = {name for name, _, _ in beside if name != graph_io.LORA_ROWS}  # of products that nothing asks for
    model.graph.inputs[:] = [value for value in model.graph.inputs if value.name not in unread or value.uses()]
    return model


def check(model: ir.Model) -> None:
    """Assert opset, IR version and the absence of forbidden operators.

    Raises:
        CheckFailed: Names what is wrong and the node.
    """
    opset = model.opset_imports.get("")
    if opset != OPSET or model.ir_version != IR_VERSION:
        raise CheckFailed(
            "the exported graph has the wrong versions",
            got=f"opset {opset}, ir_version {model.ir_version}",
            expected=f"opset {OPSET}, ir_version {IR_VERSION}",
        )
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.op_type.startswith(FORBIDDEN):
            raise CheckFailed("the exported graph has an operator no target accepts", where=node.name, got=node.op_type)


def _trace(module: nn.Module, args: Any, dynamic: Any, inputs: list[str], outputs: list[str], marked: bool) -> ir.Model:
    with _TRACING, torch.no_grad(), _quiet(), by_substitution(), without_repeats(), marking(marked):
        options: dict[str, Any] = {"dynamo": True, "opset_version": OPSET, "optimize": False, "verbose": False}
        options |= {"input_names": inputs, "output_names": outputs, "dynamic_shapes": dynamic}
        try:
            program = torch.onnx.export(module.eval(), args, **options)
        except torch.onnx.OnnxExporterError as error:
            if isinstance(error.__cause__, LuvcError):  # what a score or a family refuses
                raise error.__cause__ from None
            raise
    assert program is not None
    _forget_sources(program.model)
    delta_body.attach(program.model)
    _name_dimensions(program.model, list(_per_input(dynamic)))
    return program.model


def _per_input(dynamic: Any) -> Iterator[dict[int, Any]]:
    """The dynamic axes of every tensor, in the order of the graph's inputs."""
    if isinstance(dynamic, dict):
        yield dynamic
    else:
        for part in dynamic:
            yield from _per_input(part)


def _name_dimensions(model: ir.Model, dynamic: list[dict[int, Any]]) -> None:
    """Give symbolic dimensions the names they were declared with; the exporter leaves symbols such as s41."""
    names: dict[str, str] = {}
    for value, axes in zip(model.graph.inputs, dynamic, strict=True):
        for axis, dim in axes.items():
            symbol = str(value.shape[axis])  # type: ignore[index]
            if symbol.isidentifier():
                names.setdefault(symbol, dim.__name__)
    if not names:
        return
    pattern = re.compile(r"\b(" + "|".join(names) + r")\b")
    for value in [*model.graph.inputs, *(out for node in model.graph for out in node.outputs)]:
        shape = value.shape
        if shape is None:
            continue
        for axis, size in enumerate(shape):
            if isinstance(size, ir.SymbolicDim) and size.value is not None:
                shape[axis] = ir.SymbolicDim(pattern.sub(lambda match: names[match[1]], size.value))


def _forget_sources(model: ir.Model) -> None:
    """Leave each node its place among the modules; the exporter's other notes are longer than the graph."""
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for name in [name for name in node.metadata_props if name.startswith("pkg.torch.onnx.")]:
            del node.metadata_props[name]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's remarks on torchvision and dimension names; errors still raise."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


#: Operator -> the rules whose pattern ends in a node of it, which are tried on such nodes alone.
_RULES: dict[str, tuple[RewriteRule, ...]] = {
    "Mul": (*rules.mul_by_1_rule.commute(),),
    "Add": (*rules.add_0_rule.commute(),),
    "Sub": (rules.sub_0_rule,),
    "Div": (rules.div_by_1_rule,),
    "Slice": (rules.collapse_slice_rule, rules.collapse_slice2_rule),
    "Reshape": (
        rules.two_reshapes_matmul_reshape_rule,
        rules.one_reshape_matmul_reshape_rule,
        rules.materialize_reshape_shape_rule,
        rules.reshape_reshape_rule,
        rules.squeeze_reshape_1d_rule,
    ),
    "Cast": (rules.cast_cast_rule, rules.no_op_cast_rule),
    "Expand": (rules.no_op_expand_rule,),
    "Transpose": (rules.no_op_transpose_rule, rules.transpose_transpose_rule),
    "Unsqueeze": (rules.unsqueeze_unsqueeze_rule,),
}


def _on(operator: str, rule: RewriteRule) -> RewriteRule:
    """``rule``, not asked about nodes of other operators."""
    own, asked = copy.copy(rule), rule.try_rewrite

    def try_rewrite(model: ir.Model, graph: Any, node: ir.Node, **options: Any) -> Any:
        return asked(model, graph, node, **options) if node.op_type == operator else None

    own.try_rewrite = try_rewrite
    return own


_ON_ITS_OPERATOR = [_on(operator, rule) for operator, ends in _RULES.items() for rule in ends]
#: As ``optimize_ir`` has it.
_ROUNDS = 2


def simplify(model: ir.Model) -> None:
    """Simplify ``model`` in place; what it computes and its inputs and outputs stay."""
    passes.InlinePass()(model)
    for _ in range(_ROUNDS):
        folded = fold_constants_ir(model, onnx_shape_inference=True).modified
        rewritten = RewritePass(_ON_ITS_OPERATOR)(model).modified
        _sweep(model)
        if not (folded or rewritten):
            break
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    for step in (passes.DeduplicateInitializersPass(), passes.CommonSubexpressionEliminationPass()):
        step(model)
    passes.OutputFixPass()(model)
    passes.NameFixPass()(model)


def _sweep(model: ir.Model) -> None:
    for step in (passes.RemoveUnusedNodesPass(), passes.RemoveUnusedFunctionsPass(), passes.RemoveUnusedOpsetsPass()):
        step(model)


def forced_decoder(model: ir.Model, layers: Sequence[int]) -> ir.Model:
    """Copy ``model`` with inputs ``forced_indices.N`` instead of selections, and without the outputs that tell them.

    Args:
        model: Decoder before surgery, marks with their bodies; not changed. Each prune selects with the two TopK of
            ``spu.select`` and the slice behind them, or is marked.
        layers: Layers before which a prune selects, ascending.

    Raises:
        CheckFailed: The graph does not hold one selection for each of ``layers``.
    """
    forced = model.clone()
    selections = [node for node in forced.graph if _selects(node)]
    if len(selections) != len(layers):
        raise CheckFailed(
            "the decoder's selections were not found",
            where=forced.graph.name or "decoder",
            got=f"{len(selections)} selections",
            expected=f"one before each of the layers {list(layers)}",
        )
    kept_names = {graph_io.kept_name(layer) for layer in layers}
    forced.graph.outputs[:] = [value for value in forced.graph.outputs if value.name not in kept_names]
    for layer, node in zip(layers, selections, strict=True):
        chosen = node.outputs[0]
        graph_input = ir.val(graph_io.forced_name(layer), ir.DataType.INT64, chosen.shape)
        chosen.replace_all_uses_with(graph_input)
        forced.graph.inputs.append(graph_input)
    passes.InlinePass()(forced)
    passes.RemoveUnusedNodesPass()(forced)
    unread = {
        graph_input.name
        for graph_input in forced.graph.inputs
        if graph_input.name == graph_io.VISUAL_PADDING and not graph_input.uses()
    }
    forced.graph.inputs[:] = [graph_input for graph_input in forced.graph.inputs if graph_input.name not in unread]
    return forced


def _selects(node: ir.Node) -> bool:
    """Whether this is the mark of a selection, or a slice of the TopK that puts what another one found in order."""
    if node.op_type == SPECTRUM_CHOOSE.name:
        return True
    ascending = node.inputs[0].producer() if node.op_type == "Slice" and node.inputs[0] is not None else None
    if ascending is None or ascending.op_type != "TopK" or ascending.attributes.get_int("largest", True):
        return False
    ranked = ascending.inputs[0].producer() if ascending.inputs[0] is not None else None
    return (
        ranked is not None
        and ranked.op_type == "TopK"
        and ascending.inputs[0] is ranked.outputs[1]
        and bool(ranked.attributes.get_int("largest", True))
    )
