"""Fused nodes that a plugin can run become calls of it, and what the plugin leaves to others plain ONNX around it.

A fused node (domain ``luvc``) has an ONNX body and works on the whole sequence [visual | text] or on all that merges.
A plugin node (domain ``luvc.plugin``) has no body: it is what ``luvc_export.core.operators`` says and TensorRT's
creators read.

requires: a fused node whose operator is among the target's plugins.
apply: a prune hands over the visual rows of every image and, as payloads, those of what travels with them (order, cos,
sin, index) as far as anything reads them; the kept rows are joined with the text, and normed rows are the norm of
those. A merge hands over the grid, the counts and the positions. Scores are then the plugin's own, so kept sets differ
from the body's where scores are equal to within rounding.
ensures: every plugin node fits the contract.
must not touch: what the plugin should do slower by its counted cost, and what it cannot do (a score along channels, the
``max`` merge, copies of positions that somebody reads). It stays a fused node, which ``inline_functions``
replaces by its body; the report says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.shape_inference
import onnx_graphsurgeon as gs

from luvc_export.core.operators import DOMAIN as PLUGIN_DOMAIN
from luvc_export.core.operators import (
    NAMESPACE,
    OPERATORS,
    ORTHOGONAL_MERGE,
    SCORES,
    SPECTRUM_PRUNE,
    VERSION,
    Operator,
    OperatorTensor,
)
from luvc_export.core.plan.llm import TENSORRT_TOPK_LIMIT
from luvc_export.errors import CheckFailed, did_you_mean
from luvc_export.export.surgeon import node_order
from luvc_export.export.surgeon.fused.node import FusedNode, schema_of
from luvc_export.export.surgeon.graph import DOMAIN, Surgery, kind_of

ORDER = 90
#: Above, the plugin's three products outweigh the bytes it saves (docs/plugin-costs.md, which a test holds to it).
MOST_FREQUENCIES = 128


def requires(surgery: Surgery) -> str | None:
    """A fused node, and a target with plugins."""
    if unknown := sorted(surgery.target.plugins - set(OPERATORS)):
        raise CheckFailed(
            "the target names a plugin that does not exist",
            where=surgery.target.name,
            got=unknown[0],
            expected=did_you_mean(unknown[0], OPERATORS),
        )
    if not any(node.domain == DOMAIN for node in surgery.graph.nodes):
        return "there is no fused node"
    return None if surgery.target.plugins else "the target has no plugins"


def apply(surgery: Surgery) -> int:
    """Replace nodes from the last to the first: what only a replaced node read is then read no more.

    Then infer shapes (of the graph only: external weights are not read).
    """
    fired = 0
    node_order.tidy(surgery.graph)
    for node in reversed([node for node in surgery.graph.nodes if node.domain == DOMAIN]):
        if (reason := why_not(surgery, node)) is not None:
            surgery.skip(f"{node.op} stays an ONNX function: {reason}")
            continue
        calls = {SPECTRUM_PRUNE.name: prune, ORTHOGONAL_MERGE.name: merge}
        calls[plugin_of(node)](surgery, node)
        surgery.graph.cleanup()
        fired += 1
    if fired:
        surgery.reload(onnx.shape_inference.infer_shapes(surgery.close(), data_prop=True))
    return fired


def ensures(surgery: Surgery, fired: int) -> None:
    """Plugin nodes that a creator can read.

    Raises:
        CheckFailed: Lists where they differ from the contract.
    """
    nodes = [node for node in surgery.graph.nodes if node.domain == PLUGIN_DOMAIN]
    lines = [f"  - {node.name}: {problem}" for node in nodes for problem in problems(node)]
    if lines:
        raise CheckFailed("a plugin node does not fit its contract:\n" + "\n".join(lines))


def plugin_of(node: gs.Node) -> str:
    """The plugin of a fused node; merges over one axis are variants by name among functions only."""
    return schema_of(node).name


def why_not(surgery: Surgery, node: gs.Node) -> str | None:
    """Why no plugin of the target runs this fused node, or None."""
    plugin = plugin_of(node)
    if plugin not in surgery.target.plugins:
        return "the target has no plugin for it"
    fused = FusedNode(node)
    if plugin == SPECTRUM_PRUNE.name:
        axis, score = fused.attribute("axis"), fused.attribute("score")
        frequencies, keep = fused.attribute("frequencies"), fused.attribute("keep")
        if frequencies > MOST_FREQUENCIES and keep <= TENSORRT_TOPK_LIMIT:
            return f"at {frequencies} frequencies the inlined form should be faster (docs/plugin-costs.md)"
        if axis != "token":
            return f"the plugin filters along tokens, the plan along {axis}s"
        return None if score in SCORES else f"the plugin has no score {score}"
    if (mode := fused.attribute("mode")) != "mean":
        return f"the plugin merges by mean, the plan by {mode}"
    carries = surgery.is_read(fused.output("merged_copies"))
    return "it carries original positions, the plugin mean ones" if carries else None


_INT32, _INT64 = np.dtype(np.int32), np.dtype(np.int64)


def prune(surgery: Surgery, node: gs.Node) -> None:
    """``luvc::SpectrumPrune`` by its plugin."""
    fused = FusedNode(node)
    values, weight, basis = (fused.input(name) for name in ("values", "norm_weight", "basis"))
    kept_values, kept_normed, indices = (fused.output(name) for name in ("kept_values", "kept_normed", "indices"))
    *travel, (index, kept_index) = fused.travellers()
    keep = fused.attribute("keep")
    rows = VisualRows(surgery, index, fused.attribute("tokens"), keep)
    carried = [(source, old) for source, old in travel if surgery.is_read(old)]
    tails = [list(old.shape[2:]) for _, old in carried]
    payloads = [rows.visual(source, tail) for (source, _), tail in zip(carried, tails, strict=True)]
    padded = surgery.plan.decoder_padding
    if padded or surgery.is_read(kept_index):
        payloads.append(rows.images(index, []))
    tail = list(kept_values.shape[2:])
    attributes = _fields(fused) | ({"token_axes": [1] * len(payloads)} if payloads else {})
    attributes |= {"padding_payload": len(payloads) - 1} if padded else {}
    visual = rows.visual(values, tail)
    kept, places, *kept_payloads = surgery.emit(
        SPECTRUM_PRUNE.name, [visual, weight, basis, *payloads], count=2 + len(payloads), domain=PLUGIN_DOMAIN,
        **attributes, **IDENTITY,
    )  # fmt: skip
    places.dtype, places.shape = _INT64, [None, keep]
    for new, source in zip([kept, *kept_payloads], [visual, *payloads], strict=True):
        new.dtype, new.shape = source.dtype, [None, keep, *source.shape[2:]]
    joined = rows.with_text(kept, values, tail)
    surgery.replace(kept_values, joined)
    for new, (source, old), rest in zip(kept_payloads, carried, tails, strict=False):
        surgery.replace(old, rows.with_text(new, source, rest))
    for new, old in ((places, indices), (kept_payloads[-1] if payloads else None, kept_index)):
        if surgery.is_read(old):
            surgery.replace(old, rows.by_row(new))
    if surgery.is_read(kept_normed):
        epsilon = fused.attribute("epsilon")
        normed = surgery.emit("RMSNormalization", [joined, weight], like=[kept_normed], axis=-1, epsilon=epsilon)
        surgery.replace(kept_normed, normed[0])


def merge(surgery: Surgery, node: gs.Node) -> None:
    """``luvc::OrthogonalMerge``, over both axes or one, by its plugin."""
    fused = FusedNode(node)
    plugin = OPERATORS[ORTHOGONAL_MERGE.name]
    height, width = fused.attribute("height"), fused.attribute("width")
    attributes = _fields(fused) | ({"padded": 1} if surgery.plan.encoder.reads_padding else {})
    inputs = {tensor.name: fused.input(tensor.name) for tensor in plugin.inputs}
    *state, into = surgery.emit(
        plugin.name, [*inputs.values()], count=len(plugin.outputs), domain=PLUGIN_DOMAIN, **attributes, **IDENTITY
    )
    grid = [height - fused.attribute("removed_rows"), width - fused.attribute("removed_columns")]
    for (name, source), new in zip(inputs.items(), state, strict=True):
        new.dtype, new.shape = source.dtype, [source.shape[0], *grid, *source.shape[3:]]
        surgery.replace(fused.output(f"merged_{name}"), new)
    into.dtype, into.shape = _INT32, [inputs["values"].shape[0], height, width]
    merged_into = fused.output("merged_into")
    if surgery.is_read(merged_into):
        wide = surgery.typed("Cast", [into], _INT64, into.shape, to=int(onnx.TensorProto.INT64))
        surgery.replace(merged_into, surgery.emit("Reshape", [wide, [-1, height * width]], like=[merged_into])[0])


def _fields(fused: FusedNode) -> dict[str, Any]:
    """The plugin's fields that the fused node has too, under the plugin's names."""
    known = {item.name for item in fused.schema.fused.attributes}
    return {
        field.name: fused.attribute(field.name)
        for field in OPERATORS[fused.schema.name].attributes
        if field.name in known
    }


#: What TensorRT's parser looks a creator up by, beside the operator's name.
IDENTITY = {"plugin_namespace": NAMESPACE, "plugin_version": VERSION}
_PYTHON = {"INT": int, "INTS": list, "FLOAT": float, "STRING": str}

_Pair = tuple[str, OperatorTensor, gs.Tensor]


def problems(node: gs.Node) -> list[str]:
    """Where ``node`` differs from the contract of its operator, a line each; none when it fits."""
    operator = OPERATORS.get(node.op)
    if operator is None:
        return [f"{node.op} is no plugin"]
    lines = list(_attributes(operator, node.attrs))
    pairs: list[_Pair] = []
    for side, tensors, actual in (
        ("inputs", operator.inputs, node.inputs),
        ("outputs", operator.outputs, node.outputs),
    ):
        wanted = _spread(tensors, len(node.attrs.get("token_axes", ())))
        if len(wanted) != len(actual):
            lines.append(f"{len(actual)} {side}, the contract has {len(wanted)}")
        pairs += [(name, tensor, here) for (name, tensor), here in zip(wanted, actual, strict=False)]
    return lines or [*_types(pairs), *_sizes(pairs, node.attrs), *_payloads(pairs, node.attrs)]


def _spread(tensors: tuple[OperatorTensor, ...], payloads: int) -> list[tuple[str, OperatorTensor]]:
    """Names and tensors, with one of each payload."""
    pairs = []
    for tensor in tensors:
        names = [f"{tensor.name}.{place}" for place in range(payloads)] if tensor.payload else [tensor.name]
        pairs += [(name, tensor) for name in names]
    return pairs


def _attributes(operator: Operator, attributes: dict[str, Any]) -> Iterator[str]:
    known = {attribute.name: attribute for attribute in operator.attributes}
    yield from (f"attribute {name} is not in the contract" for name in attributes if name not in {**known, **IDENTITY})
    for name, text in (("plugin_namespace", NAMESPACE), ("plugin_version", VERSION)):
        if attributes.get(name) != text:
            yield f"attribute {name} is {attributes.get(name)!r}, the contract has {text!r}"
    for name, attribute in known.items():
        if name not in attributes:
            if not attribute.optional:
                yield f"attribute {name} is missing"
        elif not isinstance(attributes[name], _PYTHON[attribute.kind]):
            yield f"attribute {name} is {attributes[name]!r}, the contract has {attribute.kind}"
        elif attribute.choices and attributes[name] not in attribute.choices:
            yield f"attribute {name} is {attributes[name]!r}, the contract has {', '.join(attribute.choices)}"


def _types(pairs: list[_Pair]) -> Iterator[str]:
    seen: dict[str, str] = {}
    for name, wanted, actual in pairs:
        kind = kind_of(actual)
        if kind is None:
            continue
        seen[name] = str(kind)
        like = wanted.like and name.replace(wanted.name, wanted.like)
        allowed = (seen[like],) if like in seen else wanted.types
        if seen[name] not in allowed:
            yield f"{name} is {kind}, the contract has {', '.join(allowed)}"


def _sizes(pairs: list[_Pair], attributes: dict[str, Any]) -> Iterator[str]:
    known = {name: size for name, size in attributes.items() if isinstance(size, int)}
    for name, wanted, actual in pairs:
        if wanted.payload or actual.shape is None:
            continue
        if len(actual.shape) != len(wanted.shape):
            yield f"{name} has {len(actual.shape)} axes, the contract has [{', '.join(wanted.shape)}]"
            continue
        for letter, size in zip(wanted.shape, actual.shape, strict=True):
            whole, _, removed = letter.partition("-")
            if not isinstance(size, int) or (removed and whole not in known):
                continue
            expected = known[whole] - known[removed] if removed else known.setdefault(letter, size)
            if size != expected:
                yield f"{name} has {letter} = {size}, expected {expected}"


def _payloads(pairs: list[_Pair], attributes: dict[str, Any]) -> Iterator[str]:
    """Tokens at the axis that is named, and the same sizes but for them after."""
    tensors = {name: actual for name, _, actual in pairs}
    for place, axis in enumerate(attributes.get("token_axes", ())):
        source, kept = tensors[f"payload.{place}"].shape, tensors[f"kept_payload.{place}"].shape
        values = tensors["values"].shape
        if source is None or kept is None or values is None:
            continue
        if not 1 <= axis < len(source) or source[axis] != values[1]:
            yield f"payload.{place} is {list(source)}, expected {values[1]} tokens at axis {axis}"
            continue
        wanted = [attributes["keep"] if n == axis else size for n, size in enumerate(source)]
        known = [(a, b) for a, b in zip(wanted, kept, strict=False) if isinstance(a, int) and isinstance(b, int)]
        if len(wanted) != len(kept) or any(a != b for a, b in known):
            yield f"kept_payload.{place} is {list(kept)}, expected {wanted}"


_TO_THE_END = [np.iinfo(np.int64).max]


class VisualRows:
    """B rows of a batch, G images a row, N tokens an image of which K are kept; B and G are computed in the graph.

    Args:
        surgery: Where nodes go.
        index: int64 [B, G, N], any tensor of that shape.
        tokens: N.
        keep: K.
    """

    def __init__(self, surgery: Surgery, index: gs.Tensor, tokens: int, keep: int) -> None:
        self.surgery, self.tokens, self.keep = surgery, tokens, keep
        self.batch, self.groups = (self._emit("Shape", [index], start=axis, end=axis + 1) for axis in (0, 1))
        self.end = self._emit("Mul", [self.groups, [tokens]])
        self.kept_end = self._emit("Mul", [self.groups, [keep]])

    def visual(self, sequence: gs.Tensor, tail: list[int]) -> gs.Variable:
        """[B, S, tail] -> [B G, N, tail]."""
        part = self._emit("Slice", [sequence, [0], self.end, [1]], sequence, [None, None, *tail])
        return self.images(part, tail)

    def images(self, rows: gs.Tensor, tail: list[int]) -> gs.Variable:
        """[B, G N, tail] or [B, G, N, tail] -> [B G, N, tail]."""
        return self._emit("Reshape", [rows, [-1, self.tokens, *tail]], rows, [None, self.tokens, *tail])

    def with_text(self, kept: gs.Tensor, sequence: gs.Tensor, tail: list[int]) -> gs.Variable:
        """[B G, K, tail] and the text rows of [B, S, tail] -> [B, G K + T, tail]."""
        sizes = self._emit("Concat", [self.batch, self.kept_end, *([tail] if tail else [])], axis=0)
        shape = [None, None, *tail]
        visual = self._emit("Reshape", [kept, sizes], sequence, shape, allowzero=1)
        text = self._emit("Slice", [sequence, self.end, _TO_THE_END, [1]], sequence, shape)
        return self._emit("Concat", [visual, text], sequence, shape, axis=1)

    def by_row(self, kept: gs.Tensor) -> gs.Variable:
        """[B G, K] -> [B, G, K]."""
        sizes = self._emit("Concat", [self.batch, self.groups, [self.keep]], axis=0)
        return self._emit("Reshape", [kept, sizes], kept, [None, None, self.keep], allowzero=1)

    def _emit(
        self,
        op: str,
        inputs: Sequence[Any],
        like: gs.Tensor | None = None,
        shape: list[int | None] | None = None,
        **attributes: Any,
    ) -> gs.Variable:
        """A node whose output has the type of ``like`` and this shape; without one, int64 sizes."""
        kind, sizes = (_INT64, None) if like is None else (like.dtype, shape)
        return self.surgery.typed(op, inputs, kind, sizes, **attributes)
