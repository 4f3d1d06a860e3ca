"""bench and make-random from the outside."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cli_words import Cli
from PIL import Image
from rich.console import Console

from luvc_export.bundle.folder import Bundle
from luvc_export.cli.tables.bench import bench_table
from luvc_export.export.synthetic import presets
from luvc_export.runtime.bench import measure, plan_memory, profile
from luvc_export.runtime.bench.case import CaseFacts, Sample
from luvc_export.runtime.bench.loaded_case import Held
from luvc_export.runtime.bench.machine import Machine
from luvc_export.runtime.bench.measure import Timed
from luvc_export.runtime.bench.plan_memory import OpenPlans

QUICK = ("--repeats", 1, "--warm-up", 0, "--new-tokens", 2, "--text", 8, "--threads", 1)
BESIDE = OpenPlans(("thirds", "wide"), Held(2, 0, 300.0, 200.0), Held(1, 0, 200.0, 120.0))


@pytest.mark.slow(beside="runtime/bench/test_bench.py::test_cases_run_in_turns_each_plan_in_a_process")
def test_bench_compares_two_plans(cli: Cli, demo_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """As JSON and, of the same figures, as a table."""
    asked, timed = ("bench", demo_bundle.folder, "--plan", "none", "--vs", "#thirds", *QUICK), list[Any]()
    opened, beside = iter([None, BESIDE]), plan_memory.measure_open_plans
    monkeypatch.setattr(plan_memory, "measure_open_plans", lambda case: next(opened))
    real, profiles = measure.measure, cache(profile.profile)
    monkeypatch.setattr(measure, "measure", lambda *words: timed.append(real(*words)) or timed[-1])
    monkeypatch.setattr(profile, "profile", profiles)
    code, out, _ = cli(*asked, "--json")
    data = json.loads(out)
    first, second = data["cases"]
    assert code == 0 and (first["facts"]["plan"], second["facts"]["plan"]) == ("none", "thirds")
    assert second["facts"]["visual_tokens"] == [80, 80, 40, 40, 20, 0]
    assert data["ratios"]["prefill_ms"]["median"] > 0 and data["machine"]["threads"] == 1
    assert second["profile"]["vision"]["merge_ms"] > 0 and second["profile"]["decoder"]["prune_ms"] > 0
    assert first["profile"]["vision"]["merge_ms"] == first["profile"]["decoder"]["prune_ms"] == 0
    assert second["roofline"]["prefill"] > 0 and second["roofline"]["decode"] > 0
    assert first["open_plans"] is None and second["open_plans"]["plans"] == ["thirds", "wide"]
    held = {"open_plans": 1, "shared": 0, "peak_mib": 200.0, "anonymous_mib": 120.0}
    assert second["open_plans"]["evicted"] == held and second["open_plans"]["together"]["open_plans"] == 2
    monkeypatch.setattr(measure, "measure", lambda *words: timed[0])
    monkeypatch.setattr(plan_memory, "measure_open_plans", beside)
    code, out, err = cli(*asked)
    assert code == 0 and len(timed) == 1 and "plans open" not in out, "none of its plans is a variant of another"
    assert "opening plans" in err and "\N{BOX DRAWINGS HEAVY LEFT}" not in err, "a bar that is not full at the end"
    for text in ("prefill ms", "decode tokens/s", "KV cache MiB", "share of bandwidth", "80 x2, 40 x2, 20, 0"):
        assert text in out


def test_plans_that_are_open_stand_in_the_table() -> None:
    times = tuple(Sample(0, 0, ms, 1, 10, 100, 1, 20) for ms in (1, 2))
    facts = CaseFacts("a", "half", "cpu", "fp32", 1.0, None, 2.0, None, None, 0.5, (2, 0), 2_000_000, 4_000_000)
    one_copy, unfit = Held(2, 1, 300.4, 200.0), replace(BESIDE, together=None, refusal="no memory")
    opened, console = [replace(BESIDE, together=one_copy), unfit], Console(width=200)
    with console.capture() as captured:
        console.print(bench_table([Timed(facts, times)] * 2, [{}, {}], Machine(1e9, 1e9, 1), opened))
    lines = [line.split("│")[1:-1] for line in captured.get().splitlines() if line.startswith("│")]
    rows = [[cell.strip() for cell in line] for line in lines]
    place = next(number for number, row in enumerate(rows) if row[0] == "all plans open")
    assert [row[:3] for row in rows[place : place + 6]] == [
        ["all plans open", "2 of 2, 1 from one copy of the weights", "2 do not fit"],
        ["peak memory MiB", "300", ""],
        ["held at the end, no file behind", "200", ""],
        ["one plan open at a time", "1 of 2", "1 of 2"],
        ["peak memory MiB", "200", "200"],
        ["held at the end, no file behind", "120", "120"],
    ]


@pytest.mark.slow(beside="runtime/bench/test_bench.py::test_cases_run_in_turns_each_plan_in_a_process")
def test_sweeps_write_a_picture_and_a_page(cli: Cli, short_bundle: Bundle, tmp_path: Path) -> None:
    code, out, _ = cli("bench", short_bundle.folder, "--sweep", "budget", "-o", tmp_path / "out", "--json", *QUICK)
    data = json.loads(out)
    assert code == 0 and {case["facts"]["plan"] for case in data["cases"]} == {"none", "thirds"}
    with Image.open(tmp_path / "out/sweep-budget.png") as drawn:
        assert drawn.width > 500
    page = (tmp_path / "out/sweep-budget.html").read_text()
    assert "data:image/png;base64" in page and "<script" not in page and "thirds" in page
    code, out, _ = cli("bench", short_bundle.folder, "--sweep", "tokens", "-o", tmp_path / "out", "--json", *QUICK)
    tokens = [case["tokens_a_layer"] for case in json.loads(out)["cases"]]
    assert code == 0 and tokens == sorted(tokens) and tokens[0] == 32 and len(tokens) >= 5


def test_a_sweep_asks_for_what_draws_before_it_measures(
    cli: Cli, demo_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("luvc_export.runtime.bench.measure.measure", lambda *arguments: pytest.fail("measured"))
    code, _, err = cli("bench", demo_bundle.folder, "--sweep", "budget", "-o", tmp_path / "out", *QUICK)
    assert code == 3 and "luvc-export[report]" in err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("args", "refusal"),
    [
        (("--sweep", "layers"), "unknown choice"),
        (("--sweep", "tokens", "--vs", "#none"), "two jobs"),
        (("--plan", "third"), "did you mean 'thirds'"),
        (("--text", 1000), "these lengths cannot be timed"),
        (("--text", 0), "'--text'"),
        (("--images", -1), "'--images'"),
        (("--new-tokens", 0), "'--new-tokens'"),
    ],
)
def test_bad_input_is_refused(cli: Cli, demo_bundle: Bundle, args: tuple[object, ...], refusal: str) -> None:
    code, out, err = cli("bench", demo_bundle.folder, "--repeats", 1, *args)
    assert code == 2 and refusal in err and "Traceback" not in out + err


def test_make_random_s_help_names_every_preset(cli: Cli) -> None:
    shown = "".join(cli("make-random", "--help")[1].replace("│", " ").split())
    assert [name for name in presets.PRESETS if name not in shown] == []


@pytest.mark.slow(beside="export/synthetic/test_presets.py::test_presets_have_as_many_parameters_as_published")
def test_make_random_writes_what_export_opens(cli: Cli, tmp_path: Path) -> None:
    args = ("make-random", "smolvlm-256m", "--layers", 1, "--encoder-blocks", 1, "-o", tmp_path / "small")
    code, out, _ = cli(*args, "--json")
    assert code == 0 and json.loads(out)["dtype"] == "bf16"
    code, out, _ = cli("plan", tmp_path / "small", "--plan", "thirds")
    assert code == 0 and "64 units" in out
    assert cli(*args)[0] == 2
