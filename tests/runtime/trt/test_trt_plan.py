from __future__ import annotations

import dataclasses
import itertools

import pytest
from engine_entry import entry
from flat_plans import flat_plan
from hypothesis import given
from hypothesis import strategies as st

from luvc_export.core.budgets import kv_bytes
from luvc_export.core.plan import Plan
from luvc_export.core.shapes import DecoderShape
from luvc_export.errors import BundleError
from luvc_export.runtime.tensorrt.memory_plan import ALIGNMENT, pack, plan_kv

SHAPES = st.builds(
    lambda layers, kv_heads, head_dim: DecoderShape(layers, 64, 8, kv_heads, head_dim, 128, 100, 4096),
    st.integers(2, 6),
    st.integers(1, 8),
    st.sampled_from([32, 64, 96, 128]),
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[DecoderShape, Plan, int, int]:
    shape = draw(SHAPES)
    budgets = sorted(draw(st.lists(st.integers(0, 64), min_size=shape.layers, max_size=shape.layers)), reverse=True)
    plan = flat_plan(grid=(8, 8), keep=(*budgets[:-1], 0))
    return shape, plan, draw(st.integers(1, 4)), draw(st.integers(1, 300))


@given(st.dictionaries(st.text(min_size=1, max_size=4), st.integers(0, 5000), max_size=8))
def test_packed_tensors_are_aligned_and_apart(sizes: dict[str, int]) -> None:
    region = pack(sizes)
    ends = [0]
    for name, nbytes in sizes.items():
        offset = region.offsets[name]
        assert offset % ALIGNMENT == 0 and offset >= ends[-1]
        ends.append(offset + nbytes)
    assert ends[-1] <= region.nbytes < ends[-1] + ALIGNMENT


@given(cases(), st.sampled_from(["concat", "inplace"]), st.sampled_from([("float16", 2), ("float32", 4)]))
def test_caches_take_the_plans_bytes(
    case: tuple[DecoderShape, Plan, int, int], kv: str, dtype: tuple[str, int]
) -> None:
    shape, plan, images, text = case
    planned = plan_kv(shape.kept, plan, entry(shape, plan, kv, images, text, dtype[0]))
    assert planned.rows == tuple(images * keep + text for keep in plan.keep)
    wanted = sum(kv_bytes(shape, [images * keep for keep in plan.keep], text, dtype[1]))
    assert wanted <= planned.region.nbytes < wanted + 2 * shape.layers * ALIGNMENT
    assert planned.nbytes == planned.region.nbytes * (1 if kv == "inplace" else 2)
    spans = [(planned.region.offsets[part.state.past], part.nbytes) for part in planned.parts]
    assert all(a + n <= b for (a, n), (b, _) in itertools.pairwise(spans))


def test_a_smaller_plan_takes_less() -> None:
    shape = DecoderShape(4, 64, 8, 2, 64, 128, 100, 4096)
    full, half = flat_plan(grid=(8, 8), keep=(64, 64, 64, 0)), flat_plan(grid=(8, 8), keep=(64, 32, 16, 0))
    sizes = [plan_kv(shape.kept, plan, entry(shape, plan, "inplace", 1, 32)).nbytes for plan in (full, half)]
    assert sizes[0] - sizes[1] == 2 * 2 * 64 * 2 * (32 + 48)


def test_engines_of_another_plan_are_refused() -> None:
    shape = DecoderShape(2, 64, 8, 2, 64, 128, 100, 4096)
    built, other = flat_plan(grid=(8, 8), keep=(64, 0)), flat_plan(grid=(8, 8), keep=(32, 0))
    with pytest.raises(BundleError, match=r"does not fit the plan\n.*past_key_values\.0\.key\n.*96.*\n.*64"):
        plan_kv(shape.kept, other, entry(shape, built, "inplace", 1, 32))
    lacking = entry(shape, built, "concat", 1, 32)
    lacking = dataclasses.replace(lacking, decoder=dataclasses.replace(lacking.decoder, inputs=()))
    with pytest.raises(BundleError, match=r"lacks a cache"):
        plan_kv(shape.kept, built, lacking)
