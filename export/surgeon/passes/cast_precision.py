"""A graph traced in fp32 computes in fp16 or bf16, strongly typed, with fp32 islands.

requires: fp16 or bf16 wanted, of a graph in fp32.
apply: products with weights or with factors of adapters, Attention, and what carries hidden states between them become
low precision, weights with them (a stored tensor of that type loses its Cast), and the scales and float sides of Q/DQ.
fp32 stay: norms (RMSNormalization's and LayerNormalization's statistics, ``stash_type`` 1), softmax
(``softmax_precision`` where the target reads it; TensorRT's fused attention keeps it in fp32 by itself), prune scores
and merge cosines (inside the fused nodes, which is why this runs before their bodies are inlined; of prunes that are
not fused, all that decides a TopK or a comparison and nothing else), the gated delta rule
and what fades its state, states beside keys and values, what makes codes of caches, pixels up to the patch product,
positions and angles up to the rotation, logits. In fp32 a target whose Attention needs it gets ``TRT_decomposable``.
Scales beside codes of caches are fp16 in both.
ensures: inputs and outputs have the contract's types.
must not touch: integer and boolean tensors, position inputs, the logits' type.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs

from luvc_export.core import graph_io
from luvc_export.core.element_types import BY_PRECISION
from luvc_export.core.shapes import VALUE_SCALE
from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon import node_order
from luvc_export.export.surgeon.fused.node import schema_of
from luvc_export.export.surgeon.graph import DOMAIN, Surgery, is_external, is_weight, kind_of, readers, value

ORDER = 80

_TYPES = {
    "fp16": (BY_PRECISION["fp16"].onnx, np.dtype(np.float16)),
    "bf16": (BY_PRECISION["bf16"].onnx, np.dtype(ml_dtypes.bfloat16)),
}
_FLOAT = onnx.TensorProto.FLOAT
#: What arithmetic is done in; other element types hold quantised weights, which stay as they are.
_FLOATS = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
_CARRY = (
    *("Add", "Mul", "Sub", "Sigmoid", "Gelu", "Tanh", "Relu", "Split", "Concat", "Reshape", "Transpose", "Slice"),
    *("Gather", "GatherND", "GatherElements", "Expand", "Squeeze", "Unsqueeze", "Identity", "Where", "Pad", "Tile"),
    "AveragePool",
)
#: Operators whose results are places or truths, or in an order.
_DECISIONS = ("TopK", "ArgMax", "ArgMin", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal")
#: Operators whose results have the type of their first input.
_SAME_TYPE = ("Abs", "Concat", "Div", "Max", "Mul", "ReduceMax", "Reshape", "Transpose")
#: The export inlines this body (``fused.delta_body``); its nodes keep the operator's name in theirs.
RULE = f"{DOMAIN}.GatedDeltaRule."
_NORMS = ("RMSNormalization", "LayerNormalization")


def requires(surgery: Surgery) -> str | None:
    """Work to do for this precision and target."""
    if surgery.precision == "fp32":
        marked = surgery.target.fp32_attention == "decomposable" and any(surgery.nodes("Attention"))
        return None if marked else "fp32 is wanted, and the graph is in fp32"
    if surgery.precision not in surgery.target.precisions:
        raise CheckFailed(
            "the target does not compute in this precision",
            where=surgery.target.name,
            got=surgery.precision,
            expected=", ".join(surgery.target.precisions),
        )
    return None


def apply(surgery: Surgery) -> int:
    """Retype node by node in topological order."""
    if surgery.precision == "fp32":
        attentions = list(surgery.nodes("Attention"))
        for node in attentions:
            node.attrs["TRT_decomposable"] = 1
        return len(attentions)
    for node in surgery.nodes("Attention"):
        if surgery.target.softmax_precision:
            node.attrs["softmax_precision"] = int(_FLOAT)
        else:  # of a bundle's graph, which was made for a target that reads it
            node.attrs.pop("softmax_precision", None)
    # what a picture became says it: it enters decoders and leaves encoders
    if any(tensor.name == graph_io.VISUAL_EMBEDS and not _is_fp32(tensor) for tensor in _ends(surgery)):
        surgery.skip(f"the graph was traced in {surgery.precision} already")
        return 0
    if surgery.part == "vision" and any(surgery.nodes("TopK")):
        raise CheckFailed(
            "units that come back are made by distances, which would be rounded",
            fix=f"export with --dtype {surgery.precision}, which keeps them in fp32",
        )
    return _Retyping(surgery).run()


def ensures(surgery: Surgery, fired: int) -> None:
    """Inputs and outputs have the contract's types.

    Raises:
        CheckFailed: The logits are not fp32, or a cache kept fp32.
    """
    for tensor in _ends(surgery) if fired and surgery.precision != "fp32" else ():
        low = _is_low_end(tensor.name) or _is_scale(tensor)
        kind = kind_of(tensor)
        if kind is not None and _is_fp32(tensor) == low and kind.kind in "fV":
            raise CheckFailed("a tensor of the contract has the wrong type", where=tensor.name, got=tensor.dtype)


def _ends(surgery: Surgery) -> list[gs.Tensor]:
    return [*surgery.graph.inputs, *surgery.graph.outputs]


def _say_types(node: gs.Node) -> None:
    """Type what a node makes where the graph does not say it: nodes that make codes of caches were added untyped."""
    if node.op in _SAME_TYPE or node.op == "DequantizeLinear":
        for out in node.outputs:
            if out.dtype is None:
                out.dtype = node.inputs[node.op == "DequantizeLinear"].dtype


def _is_scale(tensor: gs.Tensor) -> bool:
    """Whether an input or output holds scales beside codes of values."""
    return tensor.name.endswith(f".{VALUE_SCALE}")


def _is_low_end(name: str) -> bool:
    """Whether an input or output is in the graph's arithmetic, as hidden states and what meets them are."""
    return name.startswith((graph_io.VISUAL_EMBEDS, graph_io.PAST_KEY_VALUES, "present.")) or graph_io.is_factor(name)


def _is_fp32(tensor: gs.Tensor) -> bool:
    return kind_of(tensor) == np.float32


class _Retyping:
    """One walk over the graph; ``low`` holds tensors that are in the low precision now."""

    def __init__(self, surgery: Surgery) -> None:
        self.surgery = surgery
        self.code, self.dtype = _TYPES[surgery.precision]
        self.low: set[int] = set()
        self.casts: dict[tuple[int, int], gs.Tensor] = {}
        self.deciding: set[int] = set()
        self.changed = 0

    def run(self) -> int:
        """Retype weights, then nodes, then outputs; return nodes that changed."""
        graph = self.surgery.graph
        node_order.sort(graph)
        order = list(graph.nodes)
        for node in order:
            _say_types(node)
        self.deciding = _deciding(graph, order)
        self._weights()
        for tensor in graph.inputs:
            is_codes = tensor.name.startswith(graph_io.PAST_KEY_VALUES) and not _is_fp32(tensor)
            is_scale = _is_scale(tensor) and self.surgery.precision == "fp16"
            if (_is_low_end(tensor.name) and not is_codes) or is_scale:
                self._lower(tensor)
        for node in order:
            self._node(node)
        for index, tensor in enumerate(graph.outputs):
            state = tensor.name.startswith("present_states.") and not _is_scale(tensor)
            if id(tensor) in self.low and (tensor.name in (graph_io.LOGITS, graph_io.VECTORS) or state):
                name, tensor.name = tensor.name, self.surgery.name("logits")
                wide = self.surgery.emit("Cast", [tensor], to=int(_FLOAT))[0]
                wide.name, wide.dtype, wide.shape = name, np.dtype(np.float32), tensor.shape
                graph.outputs[index] = wide
        for tensor in graph.inputs if self.surgery.precision == "bf16" else ():
            if _is_scale(tensor):
                self._halve(tensor)
        return self.changed

    def _halve(self, past: gs.Tensor) -> None:
        """Let scales beside codes come and go as fp16, which bf16 would round as much as codes are."""
        half = np.dtype(np.float16)
        (join,) = [node for node in readers(past, "Concat") if node.inputs[0] is past]
        others = [node for node in readers(past) if node is not join]
        wide = self.surgery.emit("Cast", [past], like=[past], to=int(_FLOAT))[0]
        for node in others:
            for index, item in enumerate(node.inputs):
                if item is past:
                    node.inputs[index] = wide
        narrow = self.surgery.emit("Cast", [join.inputs[1]], like=[join.inputs[1]], to=int(BY_PRECISION["fp16"].onnx))
        join.inputs[1] = narrow[0]
        past.dtype = narrow[0].dtype = join.outputs[0].dtype = half

    def _lower(self, tensor: gs.Tensor) -> None:
        tensor.dtype = self.dtype
        self.low.add(id(tensor))

    def _weights(self) -> None:
        """External tensors, through a Cast where they are stored otherwise."""
        stored = [t for t in self.surgery.graph.tensors().values() if isinstance(t, gs.Constant) and is_external(t)]
        for tensor in stored:
            kind = kind_of(tensor)
            if kind not in _FLOATS or all(id(node) in self.deciding for node in readers(tensor)):
                continue
            for cast in readers(tensor, "Cast"):
                cast.attrs["to"] = int(self.code)
                self._lower(cast.outputs[0])
            if kind == self.dtype:
                self.low.add(id(tensor))
                continue
            plain = [node for node in readers(tensor) if node.op != "Cast"]
            if plain:
                narrow = self.surgery.emit("Cast", [tensor], to=int(self.code))[0]
                narrow.shape = tensor.shape
                self._lower(narrow)
                for node in plain:
                    for index, item in enumerate(node.inputs):
                        if item is tensor:
                            node.inputs[index] = narrow

    def _node(self, node: gs.Node) -> None:
        if node.domain == DOMAIN:
            self._fused(node)
            return
        if node.op in ("Cast", "TRT_FP4DynamicQuantize"):
            return
        if node.op in ("QuantizeLinear", "DequantizeLinear"):
            self._rounding(node)
            return
        if _is_state_arithmetic(node) or id(node) in self.deciding:
            self._to(node, range(len(node.inputs)), int(_FLOAT))
            return
        inputs = [tensor for tensor in node.inputs if tensor.name]
        product = node.op in ("MatMul", "Gemm") and any(
            is_weight(tensor) or id(tensor) in self.low for tensor in inputs
        )
        carried = node.op in _CARRY and any(id(tensor) in self.low for tensor in inputs)
        if product or carried or node.op in (*_NORMS, "Attention", "RotaryEmbedding"):
            self._to(node, range(len(node.inputs)), self.code)
            for out in node.outputs:
                self._lower(out)
            self.changed += 1
        else:
            self._to(node, range(len(node.inputs)), int(_FLOAT))

    def _rounding(self, node: gs.Node) -> None:
        """Q and DQ: the float side and the scale are low, so that products on both sides of them are.

        Two DQ, the first making the scale of the second (NVFP4), stay fp32, and what they make is cast: the scale of
        the whole is too small for fp16.
        """
        if _of_two(node):
            after = [item for item in readers(node.outputs[0]) if item.op != node.op]
            narrow = self.surgery.emit("Cast", [node.outputs[0]], to=int(self.code))[0] if after else None
            for item in after:
                item.inputs[item.inputs.index(node.outputs[0])] = narrow
            if narrow is not None:
                self._lower(narrow)
            return
        if node.op == "QuantizeLinear" and self._makes_cache(node):
            self._to(node, (0, 1), int(_FLOAT))
            return
        self._to(node, (1,) if node.op == "DequantizeLinear" else (0, 1), self.code)
        if node.op == "DequantizeLinear":
            self._lower(node.outputs[0])
        self.changed += 1

    def _makes_cache(self, node: gs.Node) -> bool:
        """Whether codes are of a cache: 8 bits of bf16 hold them, but not what is rounded to them."""
        after = [node.outputs[0], *(reader.outputs[0] for reader in readers(node.outputs[0], "Concat"))]
        return any(tensor is out for tensor in after for out in self.surgery.graph.outputs)

    def _fused(self, node: gs.Node) -> None:
        form = schema_of(node).fused
        low_in, low_out = ([n for n, tensor in enumerate(side) if tensor.low] for side in (form.inputs, form.outputs))
        self._to(node, low_in, self.code)
        self._to(node, [i for i in range(len(node.inputs)) if i not in low_in], int(_FLOAT))
        for index in low_out:
            self._lower(node.outputs[index])
        self.changed += 1

    def _to(self, node: gs.Node, places: Any, code: int) -> None:
        """Cast float inputs of ``node`` at ``places`` to ``code`` where they are in the other precision."""
        for index in places:
            tensor = node.inputs[index]
            small = value(tensor)
            if small is not None and id(tensor) not in self.low:
                if small.dtype == np.float32 and code == self.code:
                    node.inputs[index] = self.surgery.constant(small, "narrow", self.dtype)
                continue
            is_low = id(tensor) in self.low
            if not tensor.name or is_low == (code == self.code) or not (is_low or _is_fp32(tensor)):
                continue
            if (id(tensor), code) not in self.casts:
                cast = self.surgery.emit("Cast", [tensor], to=int(code))[0]
                cast.shape = tensor.shape
                cast.dtype = self.dtype if code == self.code else np.dtype(np.float32)
                if code == self.code:
                    self.low.add(id(cast))
                self.casts[id(tensor), code] = cast
            node.inputs[index] = self.casts[id(tensor), code]


def _deciding(graph: gs.Graph, order: list[gs.Node]) -> set[int]:
    """Nodes whose results only decide: they reach a TopK, a comparison or an integer, and nothing else.

    Attention and fused nodes are not among them: they are layers, whatever reads them.
    """
    ends, deciding = {id(tensor) for tensor in graph.outputs}, set[int]()
    for node in reversed(order):
        layer = node.op in ("Attention", "RotaryEmbedding") or node.domain == DOMAIN
        whole = node.op == "Cast" and node.attrs["to"] in (onnx.TensorProto.INT64, onnx.TensorProto.BOOL)
        only = all(id(out) not in ends and all(id(one) in deciding for one in out.outputs) for out in node.outputs)
        if node.op in _DECISIONS or whole or (only and not layer):
            deciding.add(id(node))
    return deciding


def _is_state_arithmetic(node: gs.Node) -> bool:
    """Whether a node is of the delta rule, of how much a row fades its state, or of the length of a key.

    The last two are a sum that softplus reads, and squares that are summed: fp16 has no squares of 1e-4.
    """
    if node.name.startswith(RULE):
        return True
    after = {reader.op for out in node.outputs for reader in readers(out)}
    square = node.op == "Mul" and node.inputs[0] is node.inputs[1]
    return (node.op == "Add" and after == {"Softplus"}) or (square and after == {"ReduceSum"})


def _of_two(node: gs.Node) -> bool:
    """Whether a DequantizeLinear makes the scale of another, or takes its scale from another."""
    if node.op != "DequantizeLinear":
        return False
    producers = node.inputs[1].inputs
    return bool(producers and producers[0].op == node.op) or any(
        reader.inputs[1] is node.outputs[0] for reader in readers(node.outputs[0], node.op)
    )
