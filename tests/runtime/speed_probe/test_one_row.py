"""Times of a step's products: of ways that compute them right, tried once and remembered."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from slow_cases import slow_but

from luvc_export.core.shapes import DecoderShape
from luvc_export.runtime.product_check.graph import coded_products
from luvc_export.runtime.speed_probe import one_row
from luvc_export.runtime.speed_probe.one_row import BITS, Run, spilling, step_times, timed, ways

honest_busy = one_row.busy


@pytest.fixture(autouse=True)
def own_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(one_row, "busy", lambda: False)
    return tmp_path


def shape(hidden: int, intermediate: int) -> DecoderShape:
    return DecoderShape(2, hidden, 4, 2, 16, intermediate, 500, 64)


@pytest.mark.parametrize("precision", slow_but(["q8"], BITS))
def test_every_engine_that_is_here_computes_the_codes(precision: str) -> None:
    pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")
    times = step_times(precision, shape(256, 512), threads=1)
    assert set(times) == set(ways(1, precision)) and all(0 < spent < 1 for spent in times.values())


def test_a_probe_that_lies_does_not_count() -> None:
    """Sabotage: a way that answers at once with something else is no way at all."""
    coded = coded_products(8, 64, 96)
    wrong: dict[str, Callable[[bytes], Run]] = {
        "nothing": lambda graph: lambda rows: np.zeros_like(coded.exact),
        "not a number": lambda graph: lambda rows: np.full_like(coded.exact, np.nan),
        "half of it": lambda graph: lambda rows: coded.exact / 2,
    }
    assert {name: timed(way, coded) for name, way in wrong.items()} == dict.fromkeys(wrong)
    assert timed(lambda graph: lambda rows: coded.exact, coded) is not None


def test_a_head_counts_as_often_as_the_model_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_row, "timed", lambda open_way, coded: 1.0)
    sized = shape(64, 96)
    layers = 2 * (2 * 64 * (4 + 2) * 16 + 3 * 64 * 96) / (2 * 64 * 96)
    assert step_times("q4", sized)["openvino"] == pytest.approx(layers + 1)


def test_a_head_in_codes_is_more_of_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_row, "timed", lambda open_way, coded: 1.0)
    sized = shape(64, 96)
    weights = 2 * (2 * 64 * (4 + 2) * 16 + 3 * 64 * 96) + 64 * sized.vocab
    assert step_times("q4", sized, coded_head=True)["openvino"] == pytest.approx(weights / (2 * 64 * 96))


def test_weights_are_read_from_memory_before_each_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """What else is written before a run: more than the caches hold, as often as products are timed."""
    coded, seen = coded_products(4, 64, 96), list[str]()
    monkeypatch.setattr(one_row, "spilling", lambda: lambda: seen.append("spill"))

    def run(rows: Any) -> Any:
        seen.append("run")
        return coded.exact

    timed(lambda graph: run, coded)
    assert seen[0] == "run", "whether it computes right is no time"
    assert seen[1:] == ["spill", "run"] * (len(seen) // 2) and len(seen) > one_row.RUNS


def test_the_last_cache_says_how_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    monkeypatch.setattr(one_row, "_CACHES", tmp_path)
    monkeypatch.setattr(one_row.np, "zeros", lambda size, kind: written.append(size) or np.empty(1, kind))
    spilling()()
    for index, size in enumerate(("48K", "2048K", "131072K", "odd")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(f"{size}\n")
    spilling()()
    (tmp_path / "index2" / "size").write_text("1G\n")
    spilling()()
    assert written == [one_row.LEAST_SPILL, 192 * 2**20, one_row.MOST_SPILL]


@pytest.mark.parametrize(("inner", "block"), [(256, 128), (192, 64), (96, 32)])
def test_four_bits_share_scales_as_in_plans(inner: int, block: int) -> None:
    graph = coded_products(4, inner, 128).graph
    assert b"block_size\x18" + bytes(encoded_size(block)) in graph


def encoded_size(value: int) -> list[int]:
    """A protobuf varint of at most 14 bits."""
    return [value] if value < 128 else [value & 127 | 128, value >> 7]


def test_a_way_that_is_not_here_is_left_out() -> None:
    def missing(graph: bytes) -> Run:
        raise ImportError("no such engine")

    assert timed(missing, coded_products(4, 64, 96)) is None


def test_it_is_tried_once(own_cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Any] = []

    def fake(open_way: Any, coded: Any) -> float:
        tried.append(coded)
        return 0.5

    monkeypatch.setattr(one_row, "timed", fake)
    first = step_times("q8", shape(64, 96))
    assert step_times("q8", shape(64, 96)) == first and len(tried) == 2 * len(ways(None, "q8"))
    step_times("q8", shape(64, 128))
    step_times("q8", shape(64, 96), threads=1)
    assert len(tried) == 6 * len(ways(None, "q8")), "another shape or number of threads is another question"
    for file in (own_cache_folder / "luvc-export" / "steps").iterdir():
        data = json.loads(file.read_text())
        file.write_text(json.dumps({**data, "key": "another CPU"}) if len(tried) % 2 else "{")
    step_times("q8", shape(64, 96))
    assert len(tried) == 8 * len(ways(None, "q8")), "what is damaged or of another CPU is tried again"


def test_what_was_tried_beside_other_work_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few times beside it, when the shorter time of each way counts, and once more at rest, which stays."""
    load, spent = [True], [5.0]
    monkeypatch.setattr(one_row, "busy", lambda: load[0])
    monkeypatch.setattr(one_row, "timed", lambda open_way, coded: spent[0])

    def times(next_spent: float) -> float:
        spent[0] = next_spent
        return step_times("q8", shape(64, 96))["openvino"]

    first = times(5.0)
    assert times(9.0) == first > times(3.0) == times(4.0)
    assert times(1.0) == times(3.0), "no more than so often"
    load[0] = False
    assert times(9.0) > first, "what is seen at rest counts alone"
    load[0] = True
    assert times(1.0) > first, "and stays"


def test_the_shortest_time_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    later = [value for n in range(99) for value in (n, n + 0.5)]
    coded, clock = coded_products(8, 64, 96), iter([0.0, 0.0, 9.0, *later])
    monkeypatch.setattr(one_row.time, "perf_counter", lambda: next(clock))
    assert timed(lambda graph: lambda rows: coded.exact, coded) == 0.5


@pytest.mark.parametrize(("load", "busy"), [(0.2, False), (64.0, True), (None, False)])
def test_load(monkeypatch: pytest.MonkeyPatch, load: float | None, busy: bool) -> None:
    def average() -> tuple[float, float, float]:
        if load is None:
            raise OSError
        return load, 0.0, 0.0

    monkeypatch.setattr(one_row.os, "getloadavg", average, raising=False)
    monkeypatch.setattr(one_row.os, "cpu_count", lambda: 2)
    assert honest_busy() is busy
