"""Where a graph can be quantised: its products with weights, each named by the checkpoint's tensors behind it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

#: Kept in the bundle's own precision unless asked for: the first and the last product decide most for their size.
HIGH = ("lm_head", "embed_tokens", "patch_embed")

_FOLDS = ("Cast", "Transpose", "Concat", "Reshape")


@dataclass(frozen=True)
class Site:
    """One weight and the products that read it.

    Attributes:
        name: The checkpoint's tensors behind it: ``...layers.0.self_attn.q_proj+k_proj+v_proj``.
        products: MatMul or Gemm nodes, activations [..., K] first.
        weight: Constant expression [K, N], or [N, K] where ``turned``.
        turned: A Gemm with ``transB``.
    """

    name: str
    products: tuple[ir.Node, ...]
    weight: ir.Value
    turned: bool

    @property
    def high(self) -> bool:
        """Whether it stays high by default."""
        return any(part in self.name for part in HIGH)

    def values(self) -> NDArray[np.float32]:
        """The weight [K, N] in fp32; external data is read now."""
        weight = evaluate(self.weight).astype(np.float32)
        return np.ascontiguousarray(weight.T) if self.turned else weight


def sites(graph: ir.Graph) -> dict[str, Site]:
    """Every site of a graph by name, in the graph's order. A checkpoint's tensor is named by its module: with a dot."""
    by_name: dict[str, Site] = {}
    for node in graph:
        if node.domain or node.op_type not in ("MatMul", "Gemm") or not _plain(node):
            continue
        weight = node.inputs[1]
        roots = constants(weight) if weight is not None else None
        if weight is None or not roots or _rank(weight) != 2 or constants(node.inputs[0]) is not None:
            continue
        if not all("." in str(root.name) for root in roots):  # the model's own arithmetic, such as a sum over rows
            continue
        name = _name(roots)
        before = by_name.get(name)
        products = (*before.products, node) if before else (node,)
        turned = node.op_type == "Gemm" and bool(node.attributes.get_int("transB", 0))
        by_name[name] = Site(name, products, weight, turned)
    return by_name


def constants(value: ir.Value | None) -> list[ir.Value] | None:
    """The initializers that ``value`` is a copy, cast, join or turn of; None where it is computed from inputs."""
    if value is None:
        return None
    if value.is_initializer():
        return [value]
    node = value.producer()
    if node is None or node.op_type not in _FOLDS or node.domain:
        return None
    parts = [constants(item) for item in (node.inputs[:1] if node.op_type == "Reshape" else node.inputs)]
    return None if any(part is None for part in parts) else [root for part in parts for root in part or []]


def evaluate(value: ir.Value) -> NDArray[np.generic]:
    """The array of a constant expression (see ``constants``)."""
    if value.const_value is not None:
        return value.const_value.numpy()
    node = value.producer()
    assert node is not None
    parts = [evaluate(item) for item in node.inputs if item is not None]
    if node.op_type == "Cast":
        return parts[0].astype(ir.DataType(node.attributes.get_int("to")).numpy())
    if node.op_type == "Transpose":
        return parts[0].transpose(node.attributes.get_ints("perm"))
    if node.op_type == "Concat":
        return np.concatenate(parts, node.attributes.get_int("axis"))
    shape = [parts[0].shape[i] if size == 0 else int(size) for i, size in enumerate(parts[1])]
    return parts[0].reshape(shape)


def _plain(node: ir.Node) -> bool:
    """Whether a Gemm is a product and a bias and nothing else."""
    if node.op_type == "MatMul":
        return True
    attributes = node.attributes
    return (attributes.get_float("alpha", 1.0), attributes.get_float("beta", 1.0), attributes.get_int("transA", 0)) == (
        1.0,
        1.0,
        0,
    )


def _rank(value: ir.Value) -> int | None:
    if value.shape is not None:
        return len(value.shape)
    roots = constants(value)
    return len(roots[0].shape) if roots and roots[0].shape is not None else None


def _name(roots: list[ir.Value]) -> str:
    names = [str(root.name).removesuffix(".weight") for root in roots]
    parent, _, first = names[0].rpartition(".")
    return f"{parent}.{'+'.join([first, *(name.rpartition('.')[2] for name in names[1:])])}"
