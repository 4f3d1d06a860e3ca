"""The arithmetic of quantising: statistics, ranges, rounding, factors and the search, each against plain numpy."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from luvc_export.calibration.parity.tolerances import TABLE, tolerances
from luvc_export.calibration.quantise import bisect, blocks
from luvc_export.calibration.quantise.blocks import compensated
from luvc_export.calibration.quantise.recipe import Recipe, activation_aware, decide
from luvc_export.calibration.quantise.statistics import BINS, METHODS, ROWS, Statistics
from luvc_export.core.precision import PRECISIONS, check_target, find
from luvc_export.engines import targets
from luvc_export.errors import UsageError

RANDOM = np.random.default_rng(0)


def seen(values: np.ndarray, parts: int = 1) -> Statistics:
    statistics = Statistics()
    for part in np.array_split(values, parts):
        statistics.add(part)
    return statistics


def int4() -> blocks.Format:
    form = blocks.int4(np.zeros((128, 1), np.float32))
    assert form is not None
    return form


def outliers(rows: int = 400, width: int = 64) -> np.ndarray:
    """Activations with two channels a hundred times the others, as transformers have them."""
    values = RANDOM.normal(size=(rows, width)).astype(np.float32)
    values[:, :2] *= 100
    return values


def test_statistics_in_parts_are_those_of_the_whole() -> None:
    values = outliers()
    whole, parts = seen(values), seen(values, 7)
    assert whole.rows == parts.rows == 400
    np.testing.assert_array_equal(parts.largest, np.abs(values).max(0))
    np.testing.assert_allclose(parts.mean, np.abs(values).mean(0), rtol=1e-5)
    assert parts.counts.sum() == values.size and parts.edge >= parts.maximum


def test_the_histogram_grows_by_doubling_and_loses_no_count() -> None:
    statistics = Statistics()
    for size in (0.01, 1.0, 100.0):
        statistics.add(np.full((3, 4), size, np.float32))
    assert statistics.counts.sum() == 36 and statistics.edge / 2 < 100 <= statistics.edge
    width = statistics.edge / BINS
    assert statistics.counts[int(100.0 / width) if statistics.edge > 100.0 else BINS - 1] == 12


def test_the_sample_is_spread_over_all_rows() -> None:
    values = np.arange(10 * ROWS, dtype=np.float32)[:, None]
    sample = seen(values, 9).sample[:, 0]
    assert ROWS <= len(sample) < 2 * ROWS
    np.testing.assert_array_equal(np.diff(sample), sample[1] - sample[0])


def test_ranges_keep_what_their_names_say() -> None:
    values = RANDOM.normal(size=(2000, 50)).astype(np.float32)
    values[0, 0] = 40
    statistics = seen(values)
    assert METHODS["max"](statistics, 99.9) == 40
    exact = np.percentile(np.abs(values), 99.9)
    assert METHODS["percentile"](statistics, 99.9) == pytest.approx(exact, abs=2 * statistics.edge / BINS)
    assert METHODS["percentile"](statistics, 100) == 40
    assert 2 < METHODS["entropy"](statistics, 99.9) < 20, "one outlier in 100,000 is cut off"
    even = seen(RANDOM.uniform(-1, 1, (2000, 50)).astype(np.float32))
    assert METHODS["entropy"](even, 99.9) > 0.9, "where all magnitudes are as likely, none is"


def test_rounding_is_to_the_nearest_by_column_and_block() -> None:
    weight = RANDOM.normal(size=(256, 24)).astype(np.float32)
    codes = blocks.rounded_int8(weight)
    assert codes.values.dtype == np.int8 and codes.scale.shape == (24,)
    assert (np.abs(codes.widened() - weight) <= codes.scale / 2 + 1e-6).all()
    four = blocks.nearest(weight, int4())
    assert four.scale.shape == (2, 24)
    assert (np.abs(four.widened() - weight) <= np.repeat(four.scale, 128, 0) / 2 + 1e-6).all()
    eight = blocks.rounded_fp8(weight)
    assert np.abs(eight.widened() - weight).max() <= np.abs(weight).max() / 16
    assert blocks.rounded_int8(np.zeros((4, 4), np.float32)).widened().max() == 0, "no division by nothing"


def test_nvfp4_weights_are_e2m1_by_e4m3_block_scales_by_one_scale() -> None:
    weight = RANDOM.normal(size=(64, 24)).astype(np.float32) * np.float32(0.02)
    form = blocks.nvfp4(weight)
    assert form is not None and form.tensor == pytest.approx(np.abs(weight).max() / (6 * 448))
    rounded = blocks.nearest(weight, form)
    codes = np.abs(rounded.values.astype(np.float32))
    assert set(np.unique(codes)) <= {0, 0.5, 1, 1.5, 2, 3, 4, 6} and codes.max() == 6
    stored = blocks.stored_scales(rounded)
    assert stored.shape == (4, 24) and stored.astype(np.float32).max() == 448
    again = codes * np.sign(weight) * np.repeat(stored.astype(np.float32) * np.float32(form.tensor), 16, 0)
    np.testing.assert_allclose(rounded.widened(), again, rtol=1e-6)
    assert (np.abs(rounded.widened() - weight) <= np.repeat(rounded.scale, 16, 0) * 1.01 + 1e-7).all(), (
        "half a step of 2"
    )
    assert blocks.nvfp4(np.ones((24, 4), np.float32)) is None


def test_clipping_by_importance_loses_less_where_it_matters() -> None:
    weight = RANDOM.normal(size=(128, 64)).astype(np.float32)
    weight[5] *= 3
    power = np.ones(128, np.float32)
    power[5] = 1e-4
    error = [
        float((np.square(codes.widened() - weight) * power[:, None]).sum())
        for codes in (blocks.nearest(weight, int4()), blocks.nearest(weight, int4(), power))
    ]
    assert error[1] < 0.8 * error[0]


def test_blocks_divide_the_rows() -> None:
    forms = [blocks.int4(np.ones((rows, 1), np.float32)) for rows in (256, 192, 96, 3420)]
    assert [form and form.size for form in forms] == [128, 64, 32, None]
    reason = decide(Recipe(PRECISIONS["int4"]), np.ones((20, 8), np.float32), Statistics())
    assert isinstance(reason, str) and "divides its 20 rows" in reason


def product_error(values: np.ndarray, weight: np.ndarray, smooth: float) -> float:
    """Relative error of the W8A8 product that a decision makes."""
    decision = decide(Recipe(PRECISIONS["int8"], smooth=smooth), weight, seen(values))
    assert not isinstance(decision, str) and decision.range is not None
    divided = values if decision.factor is None else values / decision.factor
    step = decision.range / 127
    rounded = np.clip(np.rint(divided / step), -127, 127) * step
    wanted = values @ weight
    return float(np.linalg.norm(rounded @ decision.weight.widened() - wanted) / np.linalg.norm(wanted))


def test_smoothing_saves_activations_with_outliers() -> None:
    weight = RANDOM.normal(size=(64, 32)).astype(np.float32)
    weight[:2] /= 100
    plain, smoothed = (product_error(outliers(), weight, smooth) for smooth in (0, 0.5))
    assert smoothed < plain / 3


def test_activation_aware_scales_are_never_worse_than_rounding() -> None:
    values, weight = outliers(width=128), RANDOM.normal(size=(128, 32)).astype(np.float32)
    statistics = seen(values)
    factor = activation_aware(statistics, weight, lambda rows: int4())
    rounded = blocks.nearest(weight * factor[:, None], int4()).widened() / factor[:, None]
    plain = blocks.nearest(weight, int4()).widened()
    error = [float(np.linalg.norm(values @ (item - weight))) for item in (plain, rounded)]
    assert error[1] < error[0] / 2


@pytest.mark.parametrize("form", ["int4", "nvfp4"])
def test_compensated_rounding_loses_half_of_what_the_nearest_code_loses(form: str) -> None:
    """Channels that move together, as hidden states do: an error in one can be made up for by the next."""
    mixed = RANDOM.normal(size=(64, 128)) / 8 + RANDOM.normal(size=(64, 8)) @ RANDOM.normal(size=(8, 128))
    rows = (RANDOM.normal(size=(2000, 64)) @ mixed).astype(np.float32)
    weight = RANDOM.normal(size=(128, 32)).astype(np.float32)
    chosen = int4() if form == "int4" else blocks.nvfp4(weight)
    assert chosen is not None
    fresh = (RANDOM.normal(size=(500, 64)) @ mixed).astype(np.float32)
    plain, better = blocks.nearest(weight, chosen), compensated(weight, chosen, rows)
    lost = [float(np.linalg.norm(fresh @ (item.widened() - weight))) for item in (plain, better)]
    assert lost[1] < lost[0] / 2, "and on rows it has not seen"
    assert better.values.dtype == plain.values.dtype and better.scale.shape == plain.scale.shape


def test_compensation_of_rows_that_say_nothing_is_rounding_to_the_nearest() -> None:
    weight = RANDOM.normal(size=(128, 16)).astype(np.float32)
    codes = compensated(weight, int4(), np.zeros((10, 128), np.float32))
    assert np.isfinite(codes.widened()).all()
    alone = compensated(weight, int4(), np.eye(128, dtype=np.float32))
    np.testing.assert_array_equal(alone.widened(), blocks.nearest(weight, int4(), np.ones(128, np.float32)).widened())


def test_a_recipe_that_means_nothing_is_refused() -> None:
    int8 = PRECISIONS["int8"]
    with pytest.raises(UsageError, match="did you mean 'entropy'"):
        Recipe(int8, "entropi")
    with pytest.raises(UsageError, match="percentile"):
        Recipe(int8, "percentile", 30)
    with pytest.raises(UsageError, match="alpha"):
        Recipe(int8, smooth=2)


def test_an_unsupported_precision_names_the_others() -> None:
    with pytest.raises(UsageError, match=r"unsupported precision(.|\n)*did you mean 'int8'\? known: fp8, int4, int8"):
        find("int9")


@pytest.mark.parametrize(
    ("target", "works"),
    [
        ("jetson-agx-orin-jp72", {"int8", "int4"}),
        ("jetson-orin-nano-jp62", {"int8"}),
        ("h100", {"int8", "int4", "fp8"}),
        ("rtx-blackwell", {"int8", "int4", "fp8", "nvfp4", "nvfp4a16"}),
        ("b200", {"int8", "int4", "fp8", "nvfp4", "nvfp4a16"}),
        ("jetson-thor", {"int8", "int4", "fp8", "nvfp4", "nvfp4a16"}),
        ("l4", {"int8", "int4", "fp8"}),
        ("cpu", {"int8", "int4", "q8", "q4", "q4f16"}),
    ],
)
def test_targets_refuse_what_they_cannot_run(target: str, works: set[str]) -> None:
    record = targets.find(target)
    for name, precision in PRECISIONS.items():
        if name in works:
            check_target(precision, record)
            continue
        with pytest.raises(UsageError, match="cannot run this precision") as caught:
            check_target(precision, record)
        offered = str(caught.value).split("expected: ")[1].split("\n")[0]
        assert works <= set(offered.split(", ")) and name not in offered.split(", ")


@pytest.mark.parametrize("board", ["agx-orin", "orin-nx", "orin-nano"])
def test_a_precision_that_graphs_cannot_say_is_in_no_record_and_refused_for_that(board: str) -> None:
    record = targets.find(f"jetson-{board}-jp62")
    assert record.quantised == ("int8",) and not record.says("int4")
    with pytest.raises(UsageError, match="its graphs end at opset 20, which has no type for INT4"):
        check_target(PRECISIONS["int4"], record)
    with pytest.raises(UsageError, match="tensorrt does not read operators of ONNX Runtime"):
        check_target(PRECISIONS["q4"], record)
    newer = targets.find(f"jetson-{board}-jp72")
    with pytest.raises(UsageError, match="it has no FP8 kernels"):
        check_target(PRECISIONS["fp8"], newer)
    with pytest.raises(UsageError, match=r"no type for a quantised product(.|\n)*got: int4 \(opset 21\)"):
        dataclasses.replace(record, quantised=newer.quantised)


def test_a_condition_asks_for_capabilities() -> None:
    """A record with a newer opset takes what a record of the same name with an older one refuses."""
    record = targets.find("jetson-orin-nano-jp62")
    able = dataclasses.replace(
        record, spec=dataclasses.replace(record.spec, dialect="onnx", opset=23), quantised=("int8", "int4")
    )
    with pytest.raises(UsageError, match="no type for INT4"):
        check_target(PRECISIONS["int4"], record)
    check_target(PRECISIONS["int4"], able)


class Model:
    """Layers that each break a share of the answers; two of them break more together."""

    def __init__(self, breaks: Mapping[str, float]) -> None:
        self.breaks, self.asked = dict(breaks), 0

    def agreement(self, high: tuple[str, ...]) -> float:
        self.asked += 1
        return 1 - sum(share for name, share in self.breaks.items() if name not in high)


def test_the_search_keeps_high_only_what_is_needed() -> None:
    model = Model({f"layer {i}": 0.0001 for i in range(60)} | {"bad": 0.2, "worse": 0.3})
    kept = bisect.fewest(lambda: model.breaks, model.agreement, 0.99)
    assert set(kept.high) == {"bad", "worse"} and kept.agreement >= 0.99
    assert model.asked < 15 and len(kept.trials) == model.asked


def test_the_search_measures_no_damage_where_nothing_breaks() -> None:
    def never() -> Mapping[str, float]:
        raise AssertionError

    assert bisect.fewest(never, Model({"a": 0.001}).agreement, 0.99).high == ()


def test_the_search_spares_what_the_ranking_put_first_for_nothing() -> None:
    model = Model({"a": 0.0, "b": 0.0, "c": 0.5})
    kept = bisect.fewest(lambda: {"a": 3.0, "b": 2.0, "c": 1.0}, model.agreement, 0.9)
    assert kept.high == ("c",), "a misleading ranking costs trials, not layers"


def test_parity_judges_quantised_precisions_by_rows_of_their_own() -> None:
    assert tolerances("fp32", "int8") is tolerances("q8", "fp16") is tolerances("fp8") is TABLE["8-bit"]
    assert tolerances("int4", "int8") is tolerances("fp32", "q4f16") is TABLE["4-bit"]
    for finer, coarser in (("bf16", "8-bit"), ("8-bit", "4-bit")):
        assert TABLE[finer].rel_l2.value < TABLE[coarser].rel_l2.value
        assert TABLE[finer].top1.value > TABLE[coarser].top1.value


def test_a_plan_for_another_image_size_keeps_its_size_last() -> None:
    assert PRECISIONS["q8"].plan_name("even") == "even_quantized"
    assert PRECISIONS["int4"].plan_name("even@448x672", "even") == "even_int4@448x672"


def test_many_rows_are_compensated_in_parts_of_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """No matrix is larger than allowed, and answers still lose less than by rounding to the nearest."""
    random, sizes = np.random.default_rng(3), list[int]()
    weight = random.standard_normal((640, 24)).astype(np.float32)
    rows = (random.standard_normal((900, 80)) @ random.standard_normal((80, 640))).astype(np.float32)
    form = blocks.int4(weight)
    assert form is not None
    inverse = np.linalg.inv

    def watched(matrix: Any) -> Any:
        sizes.append(len(matrix))
        return inverse(matrix)

    monkeypatch.setattr(blocks.np.linalg, "inv", watched)
    whole = compensated(weight, form, rows)
    monkeypatch.setattr(blocks, "LARGEST", 300)
    parted = compensated(weight, form, rows)
    assert sizes == [640, 256, 256, 128]
    lost = [
        np.square(rows @ (codes.widened() - weight)).mean() for codes in (whole, parted, blocks.nearest(weight, form))
    ]
    assert lost[0] < lost[1] < 0.9 * lost[2]
