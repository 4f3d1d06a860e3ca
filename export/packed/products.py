"""Put quantised weights into a traced graph: a product with a weight becomes one with its codes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from luvc_export.bundle.codes import FP8_BLOCK
from luvc_export.core.operators import CONTRIB_DOMAIN
from luvc_export.errors import CheckpointError
from luvc_export.export import ir_edits
from luvc_export.export.packed.placing import Placed

#: Accuracy levels of MatMulNBits: fp32 of activations as they are, or rounded to 8 bits by block.
EXACT, ROUNDED = 1, 4


def insert(
    model: ir.Model, weights: Collection[ir.Value], placed: Mapping[str, Placed], level: int = EXACT
) -> list[ir.Value]:
    """Replace every product with a weight that is placed; returns the other weights.

    Args:
        model: A simplified trace.
        weights: Its graph inputs that stand for weights (``weights.detach``), named as in ``placed``.
        placed: Quantised weights.
        level: ``EXACT`` or ``ROUNDED``.

    Raises:
        CheckpointError: A quantised weight is used by something else than a product.
    """
    inserter = _Inserter(model.graph, level)
    for value in weights:
        if str(value.name) in placed:
            model.graph.inputs.remove(value)
            inserter.replace(value, placed[str(value.name)])
    return [value for value in weights if str(value.name) not in placed]


class _Inserter:
    def __init__(self, graph: ir.Graph, level: int) -> None:
        self._graph, self._level = graph, level
        self._gathered: dict[tuple[int, bytes], ir.Value] = {}

    def replace(self, weight: ir.Value, how: Placed) -> None:
        for user, index in list(weight.uses()):
            if user.op_type == "Transpose" and tuple(user.attributes.get_ints("perm", (1, 0))) == (1, 0):
                for product, place in list(user.outputs[0].uses()):
                    self._replace(weight, product, how, product.op_type == "MatMul" and place == 1)
                self._graph.remove(user, safe=True)
            else:
                turned = user.op_type == "Gemm" and index == 1 and user.attributes.get_int("transB", 0) == 1
                self._replace(weight, user, how, turned and user.attributes.get_int("transA", 0) == 0)

    def _replace(self, weight: ir.Value, product: ir.Node, how: Placed, known: bool) -> None:
        if not known:
            raise CheckpointError(
                "a quantised weight is used by something else than a product",
                where=f"{weight.name}: {product.op_type}",
                fix="take a checkpoint that keeps this module in 16 bits",
            )
        activation = product.inputs[0]
        assert activation is not None
        if how.order is not None:
            activation = self._in_order(weight, activation, how, product)
        rows, channels = how.shape
        if how.block is None:
            result = self._real(weight, activation, how, product)
        else:
            self._graph.opset_imports.setdefault(CONTRIB_DOMAIN, 1)
            inputs = [
                activation,
                *(self._constant(one) for one in (how.codes, how.scales, how.zeros) if one is not None),
            ]
            attributes = {
                "K": channels,
                "N": rows,
                "bits": how.bits,
                "block_size": how.block,
                "accuracy_level": self._level,
            }
            result = self._node("MatMulNBits", inputs, product, f"{weight.name}.product", CONTRIB_DOMAIN, attributes)
        if (bias := ir_edits.bias(product)) is not None:
            result = self._node("Add", [result, bias], product, f"{weight.name}.biased")
        ir_edits.replace_output(self._graph, product, result)

    def _real(self, weight: ir.Value, activation: ir.Value, how: Placed, product: ir.Node) -> ir.Value:
        """A product with FP8 numbers times their scales in fp32, which back-ends fold when they load."""
        name, kind = str(weight.name), weight.dtype
        assert kind is not None
        wide = {"to": int(ir.DataType.FLOAT)}
        numbers = self._node("Cast", [self._constant(how.codes)], product, f"{name}.wide", attributes=wide)
        scale = self._constant(how.scales)
        for axis, (size, count) in enumerate(zip(how.shape, how.scales.shape.numpy(), strict=True)):
            if count not in (1, size):
                place = self._blocks(size)
                scale = self._node(
                    "Gather", [scale, place], product, f"{name}.scales.{axis}", attributes={"axis": axis}
                )
        scaled = self._node("Mul", [numbers, scale], product, f"{name}.scaled")
        if kind != ir.DataType.FLOAT:
            scaled = self._node("Cast", [scaled], product, f"{name}.narrow", attributes={"to": int(kind)})
        turned = self._node("Transpose", [scaled], product, f"{name}.turned", attributes={"perm": [1, 0]})
        turned.shape, turned.type = ir.Shape(how.shape[::-1]), ir.TensorType(kind)
        return self._node("MatMul", [activation, turned], product, f"{name}.product")

    def _blocks(self, size: int) -> ir.Value:
        """Which block of 128 each of ``size`` places is in, once a graph."""
        places = np.arange(size, dtype=np.int64) // FP8_BLOCK
        return ir_edits.constant(self._graph, ir.tensor(places, name=f"blocks_of_{FP8_BLOCK}.{size}"))

    def _in_order(self, weight: ir.Value, activation: ir.Value, how: Placed, product: ir.Node) -> ir.Value:
        """The activation's channels in the order of the codes, gathered once for all products in that order."""
        assert how.order is not None
        key = id(activation), how.order.tobytes()
        if key not in self._gathered:
            order = ir.tensor(how.order.astype(np.int64), name=f"{weight.name}.order")
            value = ir_edits.constant(self._graph, order)
            gathered = self._node(
                "Gather", [activation, value], product, f"{weight.name}.gathered", attributes={"axis": -1}
            )
            gathered.shape, gathered.type = activation.shape, activation.type
            self._gathered[key] = gathered
        return self._gathered[key]

    def _constant(self, tensor: ir.ExternalTensor) -> ir.Value:
        return ir_edits.constant(self._graph, tensor)

    def _node(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        before: ir.Node,
        name: str,
        domain: str = "",
        attributes: Mapping[str, int | list[int]] | None = None,
    ) -> ir.Value:
        return ir_edits.add_node(self._graph, before, op, inputs, name, domain, attributes)[0]
