from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
from flat_plans import flat_plan

from luvc_export.bundle.manifest import Footprint
from luvc_export.core.budgets import kv_bytes
from luvc_export.core.shapes import DecoderShape
from luvc_export.engines import memory, targets
from luvc_export.engines.memory import KvCacheSpec
from luvc_export.engines.profiles import Capacity
from luvc_export.errors import PlanError

MIB = 2**20
SHAPE = DecoderShape(36, 2048, 16, 2, 128, 11008, 151936, 32768)
PLAN = flat_plan((32, 32), (1024,) * 35 + (0,), last_layer="full")
CACHE = KvCacheSpec(PLAN, SHAPE, Capacity(1024), "fp16", "inplace")
NANO = targets.find("jetson-orin-nano-jp72")
ADA = targets.find("rtx-ada")


def footprint(cache: KvCacheSpec = CACHE, weights: int = 4000) -> Footprint:
    return memory.predict((1300 * MIB, (weights - 1300) * MIB), cache, (100 * MIB, 300 * MIB), 1024)


def test_the_cache_is_that_of_the_budgets() -> None:
    assert sum(kv_bytes(SHAPE, PLAN.keep, 1024)) == CACHE.bytes
    assert dataclasses.replace(CACHE, kv="concat").bytes == 2 * CACHE.bytes
    assert dataclasses.replace(CACHE, precision="fp32").bytes == 2 * CACHE.bytes
    two = dataclasses.replace(CACHE, capacity=Capacity(1024, groups=2, batch=3))
    assert two.bytes == (3 + 1) * sum(kv_bytes(SHAPE, [2 * keep for keep in PLAN.keep], 1024)), "and one that joins"
    assert dataclasses.replace(two, kv="concat").bytes == (2 * 3 + 1) * two.bytes // 4


def test_what_is_predicted() -> None:
    need = footprint()
    assert need.weights == 4000 * MIB and need.kv == CACHE.bytes
    assert need.activations == 8_192_000 + 375 * MIB
    assert need.loading == 2700 * MIB and need.workspace == 1024 * MIB
    assert need.running == need.weights + need.kv + need.activations
    assert need.peak == need.weights + need.loading > need.running


def test_a_plan_held_while_loading_counts_where_memory_is_shared() -> None:
    assert memory.needed(footprint(), NANO) == footprint().peak
    assert memory.needed(footprint(), ADA) == footprint().running
    assert memory.smallest_fit(footprint(), ADA) == 8
    assert memory.smallest_fit(footprint(), NANO) is None


def test_what_fits_passes_and_an_unknown_size_is_not_guessed() -> None:
    memory.check_fits(footprint(), ADA, CACHE)
    memory.check_fits(footprint(), targets.find("cpu"), CACHE)


def test_the_budget_that_would_fit_is_named_and_fits() -> None:
    need = footprint()
    have = (need.running - need.kv // 3) / 2**30
    with pytest.raises(PlanError, match=r"does not fit on the target[\s\S]*needed: weights 4,000 MiB, kv ") as got:
        memory.check_fits(need, ADA, CACHE, have)
    assert got.value.exit_code == 2 and "loading" not in str(got.value)
    hint = re.search(r"--kv-mib ([\d.]+) fits, with 1024 text tokens", str(got.value))
    assert hint
    rows = int(float(hint[1]) * MIB) // (CACHE.rows[0]) - PLAN.layers * 64
    fewer = flat_plan((32, 32), (rows // 35,) * 35 + (0,), last_layer="full")
    memory.check_fits(footprint(dataclasses.replace(CACHE, plan=fewer)), ADA, CACHE, have)
    more = flat_plan((32, 32), (rows // 35 + 8,) * 35 + (0,), last_layer="full")
    with pytest.raises(PlanError):
        memory.check_fits(footprint(dataclasses.replace(CACHE, plan=more)), ADA, CACHE, have)


def test_less_text_where_no_visual_token_would_fit() -> None:
    need = footprint()
    have = (need.running - need.kv + CACHE.text // 2) / 2**30
    with pytest.raises(PlanError, match=r"no budget of visual tokens would fit; 51[12] text tokens do"):
        memory.check_fits(need, ADA, CACHE, have)


def test_weights_that_are_too_much_by_themselves() -> None:
    with pytest.raises(PlanError, match="no budget would fit: weights alone are too much"):
        memory.check_fits(footprint(weights=9000), ADA, CACHE, 8)
    with pytest.raises(PlanError, match=r"loading 2,700 MiB[\s\S]*no budget would fit"):
        memory.check_fits(footprint(), NANO, CACHE)


@pytest.mark.parametrize("kv", ["concat", "inplace"])
def test_the_largest_batch_that_fits_is_named(kv: Any) -> None:
    def cache(batch: int) -> KvCacheSpec:
        return dataclasses.replace(CACHE, kv=kv, capacity=Capacity(1024, batch=batch))

    def of_batch(batch: int) -> Footprint:
        return footprint(cache(batch))

    have = (of_batch(5).running + 1) / 2**30
    with pytest.raises(PlanError, match=r"does not fit on the target[\s\S]*fix: --batch 5 fits$"):
        memory.check_fits(of_batch(16), ADA, cache(16), have, of_batch)
    memory.check_fits(of_batch(5), ADA, cache(5), have, of_batch)
    with pytest.raises(PlanError, match="--batch 4 fits"):
        memory.check_fits(of_batch(16), ADA, cache(16), have - 1 / 2**29, of_batch)
    with pytest.raises(PlanError, match="no budget would fit"):
        memory.check_fits(of_batch(2), ADA, cache(2), 1, of_batch)


def test_memory_of_a_build() -> None:
    assert memory.building(footprint()) == 512 * MIB + 3 * 2700 * MIB
