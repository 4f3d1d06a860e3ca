"""ONNX bodies of luvc::SpectrumPrune, of its two halves, and of luvc::SpectrumDrop, in standard operators.

They work on the whole sequence [visual | text]; docs/surgery.md is the contract plug-ins follow. They avoid what ONNX
Runtime or TensorRT refuse (export/compression/spu.py): the low-pass is one 2-D product, rows are gathered by one
index. Their operators are in ``prune_body.onnxtxt``.
"""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import onnx.parser

from luvc_export.core.operators import KEEP_ROWS, SPECTRUM_CHOOSE, SPECTRUM_DROP, SPECTRUM_PRUNE, Schema
from luvc_export.core.plan import Axis
from luvc_export.export.surgeon.fused.node import head


def texts_beside(module: str) -> dict[str, str]:
    """Operators in ONNX's text form by the ``[name]`` above them, of the ``.onnxtxt`` beside the file ``module``."""
    _, *parts = re.split(r"^\[(.+)\]\n", Path(module).with_suffix(".onnxtxt").read_text(encoding="utf-8"), flags=re.M)
    return dict(zip(parts[::2], parts[1::2], strict=True))


_TEXTS = texts_beside(__file__)


def _choosing(score: str, axis: Axis, padded: bool) -> str:
    """From the sequence and the norm to the places that stay; of padding places are negative (``spu.padding_last``)."""
    ranked = _TEXTS["padding last" if padded else "all alike"]
    return _TEXTS["choose"].format(filter=_TEXTS[f"filter {axis}"], score=_TEXTS[f"score {score}"], ranked=ranked)


def spectrum_prune(score: str, axis: Axis, padded: bool = False) -> onnx.FunctionProto:
    """Body that ranks with ``score`` along ``axis``; inputs and outputs as in docs/surgery.md.

    ``padded``: ``index`` marks padding (``spu.mark_padding``), which ranks below everything.
    """
    choosing = _choosing(score, axis, padded)
    return body(SPECTRUM_PRUNE, _TEXTS["constants"], choosing, _TEXTS["keep"], _TEXTS["kept normed"])


def spectrum_choose(score: str, axis: Axis, padded: bool = False) -> onnx.FunctionProto:
    """The first half of ``spectrum_prune``."""
    return body(SPECTRUM_CHOOSE, _TEXTS["constants"], _choosing(score, axis, padded))


def keep_rows() -> onnx.FunctionProto:
    """The second half of ``spectrum_prune``: from the places that stay to the rows of everything."""
    return body(KEEP_ROWS, _TEXTS["constants"], _TEXTS["keep"])


def spectrum_drop() -> onnx.FunctionProto:
    """A prune that keeps nothing: the text alone goes on, and no score is computed."""
    return body(SPECTRUM_DROP, _TEXTS["drop"])


def body(schema: Schema, *texts: str, name: str = "") -> onnx.FunctionProto:
    """An operator of the domain ``luvc`` from ONNX's text form. Its nodes are named: profiles tell them apart."""
    signature, operators = head(schema, name), "\n".join(texts)
    function: onnx.FunctionProto = onnx.parser.parse_function(
        f'<domain: "luvc", opset_import: ["" : 23, "luvc" : 1]> {signature} {{\n{operators}\n}}'
    )
    for index, node in enumerate(function.node):
        node.name = f"luvc.{function.name}.{node.op_type}.{index}"
    return function
