"""The pages of results say what the committed figures say, and the figures are small."""

from __future__ import annotations

import copy
import fnmatch
import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import luvc_export
from luvc_export.calibration.ablation import run as ablation
from luvc_export.calibration.ablation import tables
from luvc_export.calibration.ablation.study import from_plain
from luvc_export.calibration.budgets import report
from luvc_export.calibration.budgets.freezing import Frozen
from luvc_export.calibration.budgets.run import MEASUREMENTS, SearchResult
from luvc_export.calibration.budgets.search import Against
from luvc_export.calibration.budgets.space import Horizon, Setting
from luvc_export.calibration.budgets.trials import PlanTrial
from luvc_export.calibration.intervals import Interval

ROOT = Path(luvc_export.__file__).resolve().parents[1]
RESULTS = ROOT / "docs/results"

#: Lines of JSON under docs/ and examples/ together.
JSON_LINES = 6000
PRUNING = RESULTS.parents[1] / "benchmarks" / "measure" / "pruning"


def test_the_ablation_page_is_its_figures() -> None:
    data = json.loads((RESULTS / "ablation.json").read_text(encoding="utf-8"))
    about = data.pop("about")
    page = (RESULTS / "ablation.md").read_text(encoding="utf-8")
    assert tables.page(from_plain(data), about) == page
    data["one_shot"][0]["kinds"]["count"] += 0.01
    assert tables.page(from_plain(data), about) != page


def search_result(data: dict[str, Any]) -> SearchResult:
    """What ``budgets.json`` was written from, as far as the page and its plots read it."""
    units = data["plan"]["grid"][0] * data["plan"]["grid"][1]

    def trial(item: dict[str, Any]) -> PlanTrial:
        merged = item["vision_tokens"] < units
        plan: Any = SimpleNamespace(
            keep=tuple(item["keep"]),
            layers=len(item["keep"]),
            cached=len(item["keep"]) - item.get("shared", 0),
            units=units,
            vision_tokens=item["vision_tokens"],
            encoder=SimpleNamespace(merges=(merged,) if merged else ()),
            llm=SimpleNamespace(kv_only=tuple(item.get("kv_only", ()))),
        )
        whole = item["asked"] in (data["calibration"]["asked"], data["held_out"]["asked"])
        interval = Interval(*item["agreement"])
        return PlanTrial(plan, item["flops"], interval, item["asked"], item["disagree"], whole, item["holds"])

    chosen = trial(data["calibration"])
    return SearchResult(
        data["retention"] or 0.0,
        chosen.plan,
        data["uncompressed_flops"],
        data["text"],
        data["images"],
        Horizon(data["horizon"], {int(layer): trial(item) for layer, item in data["horizon_curve"].items()}),
        chosen,
        trial(data["held_out"]),
        [trial(item) for item in data["frontier"]],
        {name: trial(item) for name, item in data["defaults"].items()},
        [
            Against(item["default"], trial(item["ours"]), trial(item["theirs"]), Interval(*item["difference"]))
            for item in data["compared"]
        ],
        data["tried"],
        data["about"],
        [
            Setting({k: v for k, v in item.items() if k != "trials"}, tuple(trial(each) for each in item["trials"]))
            for item in data.get("settings", [])
        ],
        [Frozen(*item) for item in data.get("freezing", [])],
        data.get("speedup"),
    )


def test_the_budgets_page_is_its_figures() -> None:
    data = json.loads((RESULTS / "budgets.json").read_text(encoding="utf-8"))
    page = (RESULTS / "budgets.md").read_text(encoding="utf-8")
    assert report.page(search_result(data), data["command"]) == page
    other = copy.deepcopy(data)
    other["compared"][0]["theirs"]["disagree"] += 1
    assert report.page(search_result(other), data["command"]) != page
    assert json.loads((RESULTS / "budgets-plan.json").read_text(encoding="utf-8")) == data["plan"]


def test_pages_of_frozen_layers_and_prunes_are_their_figures() -> None:
    for name, part in (("frozen", "mix"), ("prune", "cost")):
        spec = importlib.util.spec_from_file_location(f"{name}_measure", PRUNING / f"{name}.py")
        assert spec is not None and spec.loader is not None
        spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
        data = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        page = (RESULTS / f"{name}.md").read_text(encoding="utf-8")
        assert module.page(data) == page
        other = json.loads(json.dumps(data))
        other[part]["seconds" if part == "mix" else "layer"] *= 2
        assert module.page(other) != page


def test_figures_are_small_and_stores_stay_out() -> None:
    ignored = [
        line for line in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines() if line.endswith(".json")
    ]
    stores = (MEASUREMENTS, ablation.MEASUREMENTS)
    assert all(any(fnmatch.fnmatch(store, pattern) for pattern in ignored) for store in stores)
    files = [path for folder in ("docs", "examples") for path in (ROOT / folder).rglob("*.json")]
    files = [path for path in files if not any(fnmatch.fnmatch(path.name, pattern) for pattern in ignored)]
    assert len(files) >= 5
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)
    assert lines <= JSON_LINES, f"{lines} lines of JSON under docs/ and examples/, {JSON_LINES} are enough for figures"


def test_tables_of_peers_have_a_place_on_their_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--page`` of both benchmarks finds the comments around its table, and says so where a page has none."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    peers = importlib.import_module("run")
    places = {
        "first-token.md": ("9 + 8", "9 + 8, weights in bf16", "18 + 16, weights in bf16"),
        "first-token-clips.md": ("9 + 8, clips",),
        "decode-peers.md": ("decode, AMX-INT8", "decode, AVX512-VNNI"),
    }
    for name, tables_of in places.items():
        page = tmp_path / name
        page.write_text((RESULTS / name).read_text(encoding="utf-8"), encoding="utf-8")
        for table in tables_of:
            peers.put(page, table, f"| written for {table} |")
            assert f"<!-- peers {table} -->\n\n| written for {table} |\n\n<!--" in page.read_text(encoding="utf-8")
        with pytest.raises(SystemExit, match=f"{name} has no place for this table: no <!-- peers 1 \\+ 1 -->"):
            peers.put(page, "1 + 1", "| none |")
    assert peers.RESULTS == RESULTS


def disagreements(row: dict[str, Any]) -> list[str]:
    """Where the profile of few passes and the whole one part: a layer at the drop-out, a quarter in what works.

    A quarter whose interval holds the bar is not decided by the whole profile either.
    """
    whole, proposed, layers = row["whole"], row["proposed"], row["layers"]

    def needed(curve: list[list[float]]) -> int:
        return 1 + max((layer for layer, (_, low, _) in enumerate(curve) if low < row["bar"]), default=-1)

    wrong = list[str]()
    if abs(proposed["horizon"] - needed(whole["gone_before"])) > 1:
        wrong.append("drop-out layer")
    working = max((each["layers"][1] for each in proposed["quarters"] if not each["free"]), default=0)
    if abs(working - needed(whole["carried_from"])) > layers / 4:
        wrong.append("working set")
    for mine, theirs in zip(proposed["quarters"], whole["quarters"], strict=True):
        _, low, high = theirs["kept"]
        if mine["free"] != (low >= row["bar"]) and not low < row["bar"] < high:
            wrong.append(f"quarter {mine['layers']}")
    return wrong


@pytest.mark.parametrize("model", ["glyph_shallow", "glyph_deep", "pretrained"])
def test_a_profile_of_few_passes_agrees_with_that_of_every_layer(model: str) -> None:
    row = json.loads((RESULTS / "depth.json").read_text(encoding="utf-8"))[model]
    assert disagreements(row) == [] and row["proposed"]["passes"] <= 12
    assert len(row["whole"]["gone_before"]) == len(row["whole"]["carried_from"]) == row["layers"]
    assert row["proposed"]["held_out"][0] >= row["bar"]
    spoilt = copy.deepcopy(row)
    spoilt["proposed"]["horizon"] -= 2
    spoilt["proposed"]["quarters"][0]["free"] ^= True
    assert disagreements(spoilt)[
        0
    ] == "drop-out layer" and f"quarter {row['proposed']['quarters'][0]['layers']}" in disagreements(spoilt)
