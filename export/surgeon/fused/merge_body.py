"""ONNX body of luvc::OrthogonalMerge in standard operators, built of one axis pass (luvc::MergeAxis) twice.

The arithmetic is that of export/compression/oim.py, step for step; docs/surgery.md is the contract plug-ins follow.
Everything that depends on sizes only becomes constant once the attributes are filled in.
"""

from __future__ import annotations

import onnx

from luvc_export.core.operators import MERGE_AXIS, ORTHOGONAL_MERGE
from luvc_export.core.plan import MergeMode
from luvc_export.export.compression import oim
from luvc_export.export.surgeon.fused.node import head
from luvc_export.export.surgeon.fused.prune_body import parse

_CONSTANTS = """zero = Constant <value_int = 0> ()
    one = Constant <value_int = 1> ()
    two = Constant <value_int = 2> ()
    zeros = Constant <value_ints = [0]> ()
    ones = Constant <value_ints = [1]> ()
    twos = Constant <value_ints = [2]> ()
    less_one = Constant <value_ints = [-1]> ()
    flat = Constant <value_ints = [0, -1]> ()
    last = Constant <value_ints = [9223372036854775807]> ()"""

#: Names of what merges, as ONNX has them, and how rows and columns change places.
_TURNED = {3: "0, 2, 1", 4: "0, 2, 1, 3"}
_STATE = tuple((tensor.onnx, _TURNED[len(tensor.shape)]) for tensor in ORTHOGONAL_MERGE.fused.inputs)


def orthogonal_merge(columns: bool = True, rows: bool = True, name: str = "") -> onnx.FunctionProto:
    """One pass over a grid: ``columns`` leave every row, then ``rows`` leave every column.

    A pass over one axis only is a variant with a name of its own, since a body has no branches; ``name`` goes before.
    """
    steps, names = [], [name for name, _ in _STATE]
    if columns:
        steps.append(_call("c", "width", "columns", names))
        names = [f"c_{name}" for name, _ in _STATE]
    if rows:
        steps += [
            f"f_{kind} = Transpose <perm = [{perm}]> ({name})" for (kind, perm), name in zip(_STATE, names, strict=True)
        ]
        steps.append(_call("r", "height", "rows", [f"f_{kind}" for kind, _ in _STATE]))
        steps += [f"merged_{kind} = Transpose <perm = [{perm}]> (r_{kind})" for kind, perm in _STATE]
    else:
        steps += [f"merged_{kind} = Identity (c_{kind})" for kind, _ in _STATE]
    steps.append(_PLACES[columns, rows])
    body = "\n    ".join(steps)
    return parse(f"""{head(ORTHOGONAL_MERGE, name or merge_name(columns, rows))} {{
    {_CONSTANTS}
    {body}
}}""")


def merge_name(columns: bool, rows: bool) -> str:
    """Operator name of a pass over both axes, or over one."""
    columns_only, rows_only = ORTHOGONAL_MERGE.variants
    return ORTHOGONAL_MERGE.name if columns and rows else columns_only if columns else rows_only


def merge_axis(mode: MergeMode, slots: int, padded: bool = False) -> onnx.FunctionProto:
    """Pairs leave along the third axis: x [n, R, W, C] -> [n, R, W - removed, C], and where each unit went [n, R, W].

    Args:
        mode: How hidden states of members join.
        slots: Original positions each unit carries in ``copies``.
        padded: Small ``sizes`` are padding (``oim.PADDING``).
    """
    join = _MEAN if mode == "mean" else _LARGEST
    return parse(f"""{head(MERGE_AXIS)} {{
    {_CONSTANTS}
    tiny = Constant <value_float = 1e-12> ()
    {_TABLES}
    {_SIMILAR}
    {_BESIDE_PADDING if padded else _BESIDE_PICTURES}
    {_DECIDE}
    {join}
    {_MOVE}
    {_copies(slots)}
}}""")


def _call(tag: str, length: str, removed: str, names: list[str]) -> str:
    outputs = ", ".join(f"{tag}_{kind}" for kind, _ in _STATE)
    return (
        f"{outputs}, {tag}_into = luvc.MergeAxis <length: int = @{length}, removed: int = @{removed}>"
        f" ({', '.join(names)})"
    )


_PLACES = {
    (True, True): """w = Constant <value_int: int = @width> ()
    r_w = Constant <value_int: int = @columns> ()
    new_w = Sub (w, r_w)
    h = Constant <value_int: int = @height> ()
    row = Range (zero, h, one)
    row_column = Unsqueeze (row, ones)
    offset = Mul (c_into, h)
    there = Add (offset, row_column)
    there_flat = Reshape (there, flat)
    row_flat = Reshape (r_into, flat)
    new_row = GatherElements <axis = 1> (row_flat, there_flat)
    new_column = Reshape (c_into, flat)
    row_start = Mul (new_row, new_w)
    places = Add (row_start, new_column)""",
    (True, False): """w = Constant <value_int: int = @width> ()
    r_w = Constant <value_int: int = @columns> ()
    new_w = Sub (w, r_w)
    h = Constant <value_int: int = @height> ()
    row = Range (zero, h, one)
    row_start = Mul (row, new_w)
    row_column = Unsqueeze (row_start, ones)
    there = Add (c_into, row_column)
    places = Reshape (there, flat)""",
    (False, True): """w = Constant <value_int: int = @width> ()
    column = Range (zero, w, one)
    row_start = Mul (r_into, w)
    column_first = Unsqueeze (column, ones)
    there = Add (row_start, column_first)
    back = Transpose <perm = [0, 2, 1]> (there)
    places = Reshape (back, flat)""",
}

_TABLES = """w = Constant <value_int: int = @length> ()
    r = Constant <value_int: int = @removed> ()
    k = Sub (w, r)
    w1 = Reshape (w, ones)
    r1 = Reshape (r, ones)
    k1 = Reshape (k, ones)
    odd = Div (w, two)
    odd1 = Reshape (odd, ones)
    place = Range (zero, w, one)
    own_half = Range (zero, odd, one)
    before_own = Mul (own_half, two)
    own = Add (before_own, one)
    after_own = Add (own, one)
    half = Div (place, two)
    odd_last = Sub (odd, one)
    spread = Min (half, odd_last)
    even = Mul (half, two)
    is_even = Equal (even, place)
    later = Add (place, w)
    pairs = Mul (odd1, twos)
    w_less = Sub (w1, ones)
    have = Div (w_less, twos)
    lack = Sub (odd1, have)
    pads = Concat <axis = 0> (zeros, zeros, zeros, lack)"""

_SIMILAR = """channels = Shape <start = 3, end = 4> (x)
    head = Shape <start = 0, end = 2> (x)
    x_lines = Concat <axis = 0> (less_one, w1, channels)
    lines = Concat <axis = 0> (less_one, w1, ones)
    x_flat = Reshape (x, x_lines)
    s = Reshape (sizes, lines)
    wide = Cast <to = 1> (x_flat)
    norm = ReduceL2 <keepdims = 1> (wide, less_one)
    safe = Max (norm, tiny)
    unit = Div (wide, safe)
    first = Slice (unit, zeros, less_one, ones)
    second = Slice (unit, ones, last, ones)
    product = Mul (first, second)
    similar = ReduceSum <keepdims = 0> (product, less_one)"""

_BESIDE_PICTURES = """below = Constant <value_float = -2.0> ()
    cosine = Identity (similar)"""

#: ``oim._beside_padding``, step for step.
_BESIDE_PADDING = f"""below = Constant <value_float = {oim.BELOW_PADDING}> ()
    limit = Constant <value_float = {oim.HALF}> ()
    unity = Constant <value_float = 1.0> ()
    three = Constant <value_float = 3.0> ()
    four = Constant <value_float = 4.0> ()
    s_row = Squeeze (s, twos)
    small = Less (s_row, limit)
    padding = Cast <to = 1> (small)
    pad_first = Slice (padding, zeros, less_one, ones)
    pad_second = Slice (padding, ones, last, ones)
    pad_both = Mul (pad_first, pad_second)
    pad_gap = Sub (pad_first, pad_second)
    pad_one = Abs (pad_gap)
    not_both = Sub (unity, pad_both)
    not_one = Sub (unity, pad_one)
    not_two = Mul (similar, not_both)
    between = Mul (not_two, not_one)
    pair_total = Sub (w, one)
    pair = Range (zero, pair_total, one)
    pair_place = Cast <to = 1> (pair)
    pair_count = Cast <to = 1> (pair_total)
    share = Div (pair_place, pair_count)
    first_pairs = Sub (four, share)
    last_pairs = Add (three, share)
    raised = Mul (pad_both, first_pairs)
    lowered = Mul (pad_one, last_pairs)
    beside = Sub (raised, lowered)
    cosine = Add (between, beside)"""

_DECIDE = """left = Slice (cosine, zeros, pairs, ones, twos)
    some_right = Slice (cosine, ones, last, ones, twos)
    right = Pad (some_right, pads, below)
    best = Max (left, right)
    best_value, best_odd = TopK <axis = -1, largest = 1, sorted = 1> (best, r1)
    best_column = Unsqueeze (best_odd, twos)
    hit = Equal (best_column, own_half)
    hit_int = Cast <to = 6> (hit)
    any_hit = ReduceMax <keepdims = 0> (hit_int, ones)
    joins = Cast <to = 9> (any_hit)
    to_right = Greater (right, left)
    toward = Where (to_right, after_own, before_own)
    target_odd = Where (joins, toward, own)
    target_all = Gather <axis = 1> (target_odd, spread)
    target = Where (is_even, place, target_all)
    stays = Equal (target, place)
    key = Where (stays, place, later)
    kept, kept_at = TopK <axis = -1, largest = 0, sorted = 1> (key, k1)
    kept_column = Unsqueeze (kept, twos)
    target_row = Unsqueeze (target, ones)
    same = Equal (kept_column, target_row)
    a = Cast <to = 1> (same)
    s_new = MatMul (a, s)"""

_MEAN = """heavy = Mul (wide, s)
    heap = MatMul (a, heavy)
    joined = Div (heap, s_new)"""

_LARGEST = "\n    ".join(
    [
        "m_column = Unsqueeze (place, ones)",
        "m_upper = LessOrEqual (m_column, place)",
        "m_ones = Cast <to = 1> (m_upper)",
    ]
    + ["m_rank = MatMul (a, m_ones)", "m_number = Mul (m_rank, a)"]
    + [
        f"""nth{i} = Constant <value_float = {i}.0> ()
    is{i} = Equal (m_number, nth{i})
    as{i} = Cast <to = 1> (is{i})
    m{i} = MatMul (as{i}, wide)
    abs{i} = Abs (m{i})"""
        for i in (1, 2, 3)
    ]
    + ["more2 = Greater (abs2, abs1)", "best2 = Where (more2, m2, m1)", "abs_best = Abs (best2)"]
    + ["more3 = Greater (abs3, abs_best)", "joined = Where (more3, m3, best2)"]
)

_MOVE = """narrow = CastLike (joined, x)
    x_shape = Concat <axis = 0> (head, k1, channels)
    new_x = Reshape (narrow, x_shape)
    s_shape = Concat <axis = 0> (head, k1)
    new_sizes = Reshape (s_new, s_shape)
    planes = Shape <start = 3, end = 4> (positions)
    p_lines = Concat <axis = 0> (less_one, w1, planes)
    p = Reshape (positions, p_lines)
    p_heavy = Mul (p, s)
    p_heap = MatMul (a, p_heavy)
    p_new = Div (p_heap, s_new)
    p_shape = Concat <axis = 0> (head, k1, planes)
    new_positions = Reshape (p_new, p_shape)
    into_flat = ArgMax <axis = 1, keepdims = 0> (a)
    into_shape = Concat <axis = 0> (head, w1)
    into = Reshape (into_flat, into_shape)"""


def _copies(slots: int) -> str:
    """Slot j of n takes slot j of member floor(j * members / n)."""
    steps = ["width = Shape <start = 3, end = 4> (copies)", "q_lines = Concat <axis = 0> (less_one, w1, width)"]
    steps += [
        "q = Reshape (copies, q_lines)",
        "column = Unsqueeze (place, ones)",
        "upper = LessOrEqual (column, place)",
    ]
    steps += ["upper_ones = Cast <to = 1> (upper)", "rank = MatMul (a, upper_ones)", "number = Mul (rank, a)"]
    if slots > 1:
        steps.append("members = ReduceSum <keepdims = 1> (a, less_one)")
    for slot in range(slots):
        if slots == 1:
            steps.append("want0 = Constant <value_float = 1.0> ()")
        else:
            steps.append(f"share{slot} = Constant <value_float = {slot / slots}> ()")
            steps.append(f"scaled{slot} = Mul (members, share{slot})")
            steps.append(f"whole{slot} = Floor (scaled{slot})")
            steps.append(f"unit{slot} = Constant <value_float = 1.0> ()")
            steps.append(f"want{slot} = Add (whole{slot}, unit{slot})")
        steps.append(f"from{slot} = Constant <value_ints = [{2 * slot}]> ()")
        steps.append(f"to{slot} = Constant <value_ints = [{2 * slot + 2}]> ()")
        steps.append(f"is_slot{slot} = Equal (number, want{slot})")
        steps.append(f"hot{slot} = Cast <to = 1> (is_slot{slot})")
        steps.append(f"slot{slot} = Slice (q, from{slot}, to{slot}, twos)")
        steps.append(f"got{slot} = MatMul (hot{slot}, slot{slot})")
    steps.append(f"q_new = Concat <axis = -1> ({', '.join(f'got{slot}' for slot in range(slots))})")
    steps += ["q_shape = Concat <axis = 0> (head, k1, width)", "new_copies = Reshape (q_new, q_shape)"]
    return "\n    ".join(steps)
