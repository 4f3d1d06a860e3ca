"""What weights of a graph take on the CPU while ONNX Runtime loads them."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from luvc_export.bundle import onnx_fields as onnx
from luvc_export.bundle import onnx_wire as wire
from luvc_export.bundle.graph_rules import OutsideTensor
from luvc_export.bundle.onnx_wire import Message
from luvc_export.core.element_types import BY_ONNX, BY_PRECISION
from luvc_export.errors import BundleError
from luvc_export.runtime.sharing.weight_order import turned_early

#: ONNX element types of half precision.
HALF = tuple(BY_PRECISION[name].onnx for name in ("fp16", "bf16"))


#: Bytes up to which ONNX Runtime folds untold, since 1.27; what is larger is computed in every call.
_FOLDED = 2**30
_FLOATS = (*HALF, BY_PRECISION["fp32"].onnx)


def fold_settings(outside: Iterable[OutsideTensor]) -> dict[str, str]:
    """Settings of a session that folds as much as the largest weight takes in fp32, such as a head's Cast."""
    largest = 4 * max((one.count for one in outside if one.kind in _FLOATS), default=0)
    return {"optimization.constant_folding_max_output_size_in_bytes": str(largest)} if largest > _FOLDED else {}


def cpu_bytes(outside: Iterable[OutsideTensor], nodes: Iterable[Message], where: str) -> int:
    """What ONNX Runtime's CPU provider holds of outside weights at the height of loading.

    Every Cast and Transpose that is folded on the way lives until loading ends, and half precision is widened to fp32
    in the end. A weight that is cast and then turned is turned first (``weight_order``).

    Raises:
        BundleError: A Cast or Transpose of ``nodes`` is none.
    """
    outside, nodes = [*outside], [*nodes]
    try:
        folds = _folds(nodes)
        early = {*turned_early(nodes, {one.name for one in outside if one.kind in HALF}).values()}
    except (ValueError, IndexError) as error:
        raise BundleError("this file is no ONNX graph", where=where, got=str(error)) from error
    return sum(one.count * _cpu_itemsize(one.name, one.kind, folds, early) for one in outside)


def _folds(nodes: Iterable[Message]) -> dict[str, tuple[str, int | None]]:
    """Casts and Transposes by what they read: (their output, the type cast to)."""
    folds: dict[str, tuple[str, int | None]] = {}
    for node in nodes:
        kind = wire.text(node, onnx.NODE_OP)
        if kind in ("Cast", "Transpose"):
            attributes = wire.parts(node, onnx.NODE_ATTRIBUTE)
            to = wire.numbers(attributes[0], onnx.ATTRIBUTE_INT)[0] if kind == "Cast" else None
            folds[wire.text(node, onnx.NODE_INPUT)] = (wire.text(node, onnx.NODE_OUTPUT), to)
    return folds


def _cpu_itemsize(name: str, kind: int, folds: dict[str, tuple[str, int | None]], early: Collection[str]) -> int:
    """Bytes an element at the height of loading; ``early``: outputs of Casts whose Transpose goes before them."""
    size = 0
    for _ in range(4):  # longer chains are not weights
        if name not in folds:
            break
        name, to = folds[name]
        if name in early:
            name = folds[name][0]
            size += _itemsize(kind)
        if to != kind:  # a Cast to its own type is removed
            kind = to or kind
            size += _itemsize(kind)
    if kind in HALF:
        return size + 4
    return size or _itemsize(kind)


def _itemsize(kind: int) -> int:
    """Bytes of an element; types that are not listed take no part in predictions."""
    return BY_ONNX[kind].itemsize if kind in BY_ONNX else 0
