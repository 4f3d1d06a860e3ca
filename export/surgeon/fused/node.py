"""Fused nodes by the names of their schema (core/operators.py), whatever ONNX calls their parts and in what order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import onnx_graphsurgeon as gs

from luvc_export.core.operators import FUSED, Schema
from luvc_export.errors import CheckFailed, did_you_mean
from luvc_export.export.surgeon.graph import DOMAIN, Surgery


def schema_of(node: gs.Node) -> Schema:
    """The schema of a node of the domain ``luvc``.

    Raises:
        CheckFailed: There is none.
    """
    if node.op not in FUSED:
        raise CheckFailed(
            "a node is no fused operator",
            where=node.name,
            got=f"{DOMAIN}::{node.op}",
            expected=did_you_mean(node.op, FUSED),
            fix="export the bundle again",
        )
    return FUSED[node.op]


class FusedNode:
    """A node of the domain ``luvc`` that is in the graph.

    Raises:
        CheckFailed: Its operator is none of ours, or it lacks what its schema has.
    """

    def __init__(self, node: gs.Node) -> None:
        self.node, self.schema = node, schema_of(node)
        if misfits := list(problems(node)):
            raise CheckFailed("a fused node does not fit its schema", where=node.name, got="; ".join(misfits))

    def input(self, name: str) -> gs.Tensor:
        """The input that the schema calls ``name``."""
        return self.node.inputs[[tensor.name for tensor in self.schema.fused.inputs].index(name)]

    def output(self, name: str) -> gs.Variable:
        """The output that the schema calls ``name``."""
        return self.node.outputs[[tensor.name for tensor in self.schema.fused.outputs].index(name)]

    def attribute(self, name: str) -> Any:
        """The attribute that the schema calls ``name``."""
        return self.node.attrs[next(item.onnx for item in self.schema.fused.attributes if item.name == name)]

    def travellers(self) -> list[tuple[gs.Tensor, gs.Variable]]:
        """What travels with the hidden states, before and after."""
        pairs = [(tensor.like, tensor.name) for tensor in self.schema.fused.outputs if tensor.travels]
        return [(self.input(before), self.output(after)) for before, after in pairs]


def emit(
    surgery: Surgery,
    schema: Schema,
    inputs: Mapping[str, gs.Tensor],
    attributes: Mapping[str, Any],
    like: Mapping[str, gs.Tensor] | None = None,
    op: str = "",
) -> dict[str, gs.Variable]:
    """Append a fused node; its outputs by name.

    Args:
        surgery: Where it goes.
        schema: What it is.
        inputs: All of the schema's, by name.
        attributes: All of the schema's, by name.
        like: Tensors that outputs take their type and shape of, all or none.
        op: One of the schema's variants in its place.
    """
    form = schema.fused
    outputs = surgery.emit(
        op or schema.name,
        [inputs[tensor.name] for tensor in form.inputs],
        like=[like[tensor.name] for tensor in form.outputs] if like else None,
        count=len(form.outputs),
        domain=DOMAIN,
        **{item.onnx: attributes[item.name] for item in form.attributes},
    )
    return {tensor.name: out for tensor, out in zip(form.outputs, outputs, strict=True)}


def head(schema: Schema, op: str = "") -> str:
    """The first lines of a body in ONNX's text form: ``Name <attributes> (inputs) => (outputs)``."""
    form = schema.fused
    attributes, inputs, outputs = (
        ", ".join(part.onnx for part in parts) for parts in (form.attributes, form.inputs, form.outputs)
    )
    return f"{op or schema.name} <{attributes}> ({inputs})\n  => ({outputs})"


def problems(node: gs.Node) -> Iterator[str]:
    """Where a fused node differs from its schema; none when it fits."""
    if node.op not in FUSED:
        yield "no fused operator"
        return
    form = FUSED[node.op].fused
    for side, wanted, got in (("inputs", form.inputs, node.inputs), ("outputs", form.outputs, node.outputs)):
        if len(wanted) != len(got):
            yield f"{len(got)} {side}, the schema has {len(wanted)}"
    names = {item.onnx for item in form.attributes}
    if names != set(node.attrs):
        yield f"attributes {', '.join(sorted(node.attrs))}, the schema has {', '.join(sorted(names))}"
