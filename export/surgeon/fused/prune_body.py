"""ONNX bodies of luvc::SpectrumPrune, of its two halves, and of luvc::SpectrumDrop, in standard operators.

They work on the whole sequence [visual | text]; docs/surgery.md is the contract plug-ins follow. They avoid what ONNX
Runtime or TensorRT refuse (export/compression/spu.py): the low-pass is one 2-D product, rows are gathered by one
index.
"""

from __future__ import annotations

import onnx
import onnx.parser

from luvc_export.core.operators import KEEP_ROWS, SPECTRUM_CHOOSE, SPECTRUM_DROP, SPECTRUM_PRUNE
from luvc_export.core.plan import Axis
from luvc_export.export.surgeon.fused.node import head

_FILTER = {
    "token": """
    turned = Transpose <perm = [0, 2, 1]> (wide)
    flat = Reshape (turned, by_token)
    tones = MatMul (flat, basis)
    smooth = MatMul (tones, turned_basis)
    turned_shape = Shape (turned)
    filtered = Reshape <allowzero = 1> (smooth, turned_shape)
    plain = Identity (turned)
    channels = Constant <value_ints = [1]> ()""",
    "channel": """
    wide_shape = Shape (wide)
    width = Shape <start = 2, end = 3> (wide)
    by_channel = Concat <axis = 0> (less_one, width)
    flat = Reshape (wide, by_channel)
    tones = MatMul (flat, basis)
    smooth = MatMul (tones, turned_basis)
    filtered = Reshape <allowzero = 1> (smooth, wide_shape)
    plain = Identity (wide)
    channels = Constant <value_ints = [2]> ()""",
}

_SCORE = {
    "low": "score = ReduceL2 <keepdims = 0> (filtered, channels)",
    "residual": "removed = Sub (plain, filtered)\n    score = ReduceL2 <keepdims = 0> (removed, channels)",
    "ratio": "passed = ReduceL2 <keepdims = 0> (filtered, channels)\n"
    "    all = ReduceL2 <keepdims = 0> (plain, channels)\n    score = Div (passed, all)",
}


#: ``spu.padding_last``: places of padding are marked by being negative.
_PADDING_LAST = """place = Cast <to = 1> (index)
    away = Neg (place)
    behind = Relu (away)
    step = Constant <value_float = 1e30> ()
    lowered = Mul (behind, step)
    ranked = Sub (grouped, lowered)"""


_CONSTANTS = """zero = Constant <value_int = 0> ()
    one = Constant <value_int = 1> ()
    zeros = Constant <value_ints = [0]> ()
    ones = Constant <value_ints = [1]> ()
    two = Constant <value_ints = [2]> ()
    less_one = Constant <value_ints = [-1]> ()
    count = Constant <value_int: int = @tokens> ()
    counts = Reshape (count, ones)
    groups = Shape <start = 1, end = 2> (index)
    span = Mul (groups, counts)"""

#: From the sequence and the norm to the places that stay.
_CHOOSE = """by_token = Concat <axis = 0> (less_one, counts)
    kept_count = Constant <value_int: int = @keep> ()
    kept_counts = Reshape (kept_count, ones)
    normed = RMSNormalization <axis = -1, epsilon: float = @epsilon> (hidden, norm_weight)
    visual = Slice (normed, zeros, span, ones)
    wide = Cast <to = 1> (visual)
    turned_basis = Transpose <perm = [1, 0]> (basis){filter}
    {score}
    index_shape = Shape (index)
    grouped = Reshape <allowzero = 1> (score, index_shape)
    {ranked}
    best, places = TopK <axis = -1, largest = 1, sorted = 1> (ranked, kept_counts)
    chosen, again = TopK <axis = -1, largest = 0, sorted = 1> (places, kept_counts)"""

#: From the places that stay to the rows of everything.
_KEEP = """keep_rows = Constant <value_ints = [0, -1]> ()
    batch = Shape <start = 0, end = 1> (index)
    length = Shape <start = 1, end = 2> (hidden)
    group_count = Squeeze (groups)
    group = Range (zero, group_count, one)
    start = Mul (group, count)
    starts = Unsqueeze (start, ones)
    absolute = Add (chosen, starts)
    visual_rows = Reshape (absolute, keep_rows)
    span_end = Squeeze (span)
    sequence_end = Squeeze (length)
    text = Range (span_end, sequence_end, one)
    per_row = Concat <axis = 0> (batch, ones)
    text_rows = Expand (text, per_row)
    rows = Concat <axis = 1> (visual_rows, text_rows)
    at = Unsqueeze (rows, two)
    kept_hidden = GatherND <batch_dims = 1> (hidden, at)
    kept_order = GatherND <batch_dims = 1> (order, at)
    kept_cos = GatherND <batch_dims = 1> (cos, at)
    kept_sin = GatherND <batch_dims = 1> (sin, at)
    kept_index = GatherElements <axis = 2> (index, chosen)"""


def _choosing(score: str, axis: Axis, padded: bool) -> str:
    ranked = _PADDING_LAST if padded else "ranked = Identity (grouped)"
    return _CHOOSE.format(filter=_FILTER[axis], score=_SCORE[score], ranked=ranked)


def spectrum_prune(score: str, axis: Axis, padded: bool = False) -> onnx.FunctionProto:
    """Body that ranks with ``score`` along ``axis``; inputs and outputs as in docs/surgery.md.

    ``padded``: ``index`` marks padding (``spu.mark_padding``), which ranks below everything.
    """
    return parse(f"""{head(SPECTRUM_PRUNE)} {{
    {_CONSTANTS}
    {_choosing(score, axis, padded)}
    {_KEEP}
    kept_normed = GatherND <batch_dims = 1> (normed, at)
}}""")


def spectrum_choose(score: str, axis: Axis, padded: bool = False) -> onnx.FunctionProto:
    """The first half of ``spectrum_prune``."""
    return parse(f"""{head(SPECTRUM_CHOOSE)} {{
    {_CONSTANTS}
    {_choosing(score, axis, padded)}
}}""")


def keep_rows() -> onnx.FunctionProto:
    """The second half of ``spectrum_prune``."""
    return parse(f"""{head(KEEP_ROWS)} {{
    {_CONSTANTS}
    {_KEEP}
}}""")


def spectrum_drop() -> onnx.FunctionProto:
    """A prune that keeps nothing: the text alone goes on, and no score is computed."""
    return parse(f"""{head(SPECTRUM_DROP)} {{
    one = Constant <value_ints = [1]> ()
    last = Constant <value_ints = [9223372036854775807]> ()
    count = Constant <value_int: int = @tokens> ()
    groups = Shape <start = 1, end = 2> (index)
    span = Mul (groups, count)
    kept_hidden = Slice (hidden, span, last, one)
    kept_order = Slice (order, span, last, one)
    kept_cos = Slice (cos, span, last, one)
    kept_sin = Slice (sin, span, last, one)
}}""")


def parse(text: str) -> onnx.FunctionProto:
    """An operator of the domain ``luvc`` from ONNX's text form. Its nodes are named: profiles tell them apart."""
    function: onnx.FunctionProto = onnx.parser.parse_function(
        f'<domain: "luvc", opset_import: ["" : 23, "luvc" : 1]> {text}'
    )
    for index, node in enumerate(function.node):
        node.name = f"luvc.{function.name}.{node.op_type}.{index}"
    return function
