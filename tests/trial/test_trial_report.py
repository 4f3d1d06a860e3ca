"""The report says no more than it should, its verdicts are its figures', and a changed figure is found."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from trial_results import journal_of, made_results

import luvc_export
from luvc_export.errors import CheckFailed, UsageError
from luvc_export.trial import check, claims, steps
from luvc_export.trial.claims import CLAIMS, judge
from luvc_export.trial.report import digest, make, own_names, page, told_too_much
from luvc_export.trial.steps import STEPS

ROOT = Path(luvc_export.__file__).resolve().parents[1]


@pytest.fixture
def results() -> dict[str, Any]:
    return made_results()


@pytest.fixture
def report(tmp_path: Path, results: dict[str, Any]) -> dict[str, Any]:
    return make(journal_of(tmp_path, results))


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_a_claim_is_made_where_it_says(claim: Any) -> None:
    text = " ".join((ROOT / claim.page).read_text(encoding="utf-8").split())
    assert claim.quote in text
    assert claim.step in {step.name for step in STEPS}


def test_every_row_of_the_tables_has_its_function() -> None:
    """A claim without a judge of its own is about a parity, whose gates are its verdict."""
    assert {*claims._JUDGES} == {claim.name for claim in CLAIMS if "parity" not in claim.name}
    rows = json.loads(Path(steps.__file__).with_suffix(".json").read_text(encoding="utf-8"))
    assert {row["pick"] for row in rows} == {*steps._PICKS} and len(rows) == len(STEPS) == 11


def test_every_step_s_figures_count(report: dict[str, Any]) -> None:
    assert {line["verdict"] for line in report["verdicts"]} == {"holds"} and len(report["verdicts"]) == len(CLAIMS)


def _failing(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(results: dict[str, Any]) -> None:
        item: Any = results
        *way, last = path.split("/")
        for part in way:
            item = item[int(part)] if part.isdigit() else item[part]
        item[last] = value

    return change


@pytest.mark.parametrize(
    ("claim", "change"),
    [
        ("reference", _failing("export/weights_mode", "copy")),
        ("parity-none", _failing("parity-none/passed", False)),
        ("parity-safe", _failing("parity-safe/gates/0/passed", False)),
        ("fixed", _failing("bench/cases/0/visual_tokens", [8, 5, 0])),
        ("none-left", _failing("bench/cases/0/visual_tokens", [8, 4, 1])),
        ("sooner", _failing("bench/cases/1/runs", [{"ttft_ms": 1.0, "prefill_ms": 1.0, "vision_ms": 1.0}] * 3)),
        ("smaller", _failing("bench/cases/0/kv_mib", 99.0)),
        ("cheap", _failing("bench/cases/0/kernels", {"vision": {"total_ms": 1.0, "merge_ms": 1.0, "prune_ms": 0.0}})),
        ("built", _failing("build-safe", {"state": "failed"})),
        ("engine-parity", _failing("engine-parity/passed", False)),
        (
            "engines-sooner",
            _failing("engines/cases/2/runs", [{"ttft_ms": 1.0, "decode_ms": 1.0, "decode_tokens": 1.0}]),
        ),
        ("graphs", _failing("engines/cases/1/runs", [{"ttft_ms": 1.0, "decode_ms": 1.0, "decode_tokens": 8.0}])),
        ("memory", _failing("engines/memory/0/taken_mib", 101.0)),
        ("kernels", _failing("gpu-check/exit_code", 1)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_claim_can_fail(tmp_path: Path, results: dict[str, Any], claim: str, change: Any) -> None:
    results = copy.deepcopy(results)
    change(results)
    journal = journal_of(tmp_path, results)
    if claim == "built":
        journal.steps["build-safe"] |= {"state": "failed", "why": "TensorRT built no engine", "result": None}
    lines = {line.claim: line for line in judge(journal.steps)}
    assert lines[claim].verdict == "fails"
    assert set(lines) == {each.name for each in CLAIMS}


def test_what_was_not_tried_says_why(tmp_path: Path, results: dict[str, Any]) -> None:
    journal = journal_of(tmp_path, results)
    journal.steps["engines"] = {"state": "skipped", "seconds": 0.0, "why": "there is no NVIDIA GPU", "result": None}
    del journal.steps["gpu-check"]
    verdicts = {line.claim: (line.verdict, line.figure) for line in judge(journal.steps)}
    assert verdicts["graphs"] == ("not tried", "there is no NVIDIA GPU")
    assert verdicts["kernels"] == ("not tried", "the step was not asked for")


@pytest.mark.parametrize("text", ["/home/somebody/model", "see ~/x/y", r"C:\Users\x", "in /srv/models/a.bin, 3"])
def test_a_path_is_not_reported(tmp_path: Path, results: dict[str, Any], text: str) -> None:
    results["export"]["model_type"] = text
    with pytest.raises(CheckFailed, match=r"would say more than it should\n  got: steps\.export\.result\.model_type"):
        make(journal_of(tmp_path, results))


def test_a_host_or_a_user_is_not_reported(
    tmp_path: Path, results: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.node", lambda: "Lab7-Box.example.org")
    assert "lab7-box" in own_names()
    results["export"]["model_type"] = "on lab7-box"
    with pytest.raises(CheckFailed, match="more than it should"):
        make(journal_of(tmp_path, results))


def test_rates_and_names_of_packages_are_no_paths() -> None:
    fine = ["12.3 tokens/s", "onnxruntime 1.31.1", "and/or", "Linux x86_64", "fp16/bf16", "2 / 3"]
    assert not list(told_too_much(fine))


def test_the_journal_s_model_is_not_in_the_report(report: dict[str, Any]) -> None:
    assert "somebody" not in json.dumps(report)


def test_a_report_that_was_written_is_accepted(report: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report, indent=1), encoding="utf-8")
    assert check.read(path) == report
    assert check.main([str(path)]) == 0


def test_a_changed_figure_is_refused(
    report: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.json"
    report["steps"]["bench"]["result"]["cases"][0]["runs"][0]["ttft_ms"] -= 0.5
    path.write_text(json.dumps(report), encoding="utf-8")
    assert check.main([str(path), "--add"]) == 1
    assert "the report was changed after it was written" in capsys.readouterr().err


def test_a_verdict_that_its_figures_do_not_give_is_refused(report: dict[str, Any]) -> None:
    """With a hash that fits: whoever changes a report may make one."""
    report["steps"]["bench"]["result"]["cases"][1]["runs"] = report["steps"]["bench"]["result"]["cases"][0]["runs"]
    report["sha256"] = digest(report)
    with pytest.raises(CheckFailed, match=r"verdicts are not what the figures say\n(.|\n)*got: sooner"):
        check.check(report, "x")


def _without(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda report: report.pop(name)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_without("verdicts"), "its parts are"),
        (lambda r: r.update(extra=1), "its parts are"),
        (lambda r: r.update(schema=2), "schema 2, this version reads 1"),
        (lambda r: r.update(steps=[]), "steps is list"),
        (lambda r: r["steps"].update(other={}), "there is no step 'other'"),
        (lambda r: r["steps"]["bench"].pop("why"), "step 'bench' is not one"),
        (lambda r: r["steps"]["bench"].update(state="great"), "step 'bench' is not one"),
        (lambda r: r["steps"]["bench"].update(result=None), "step 'bench' is done and has no result"),
        (lambda r: r["steps"]["bench"].update(seconds=-1), "took -1 seconds"),
        (lambda r: r["steps"]["bench"].update(seconds=True), "took True seconds"),
        (lambda r: r["steps"].pop("machine"), "what versions it was made with"),
        (lambda r: r["steps"]["machine"]["result"]["versions"].pop("numpy"), "the version of numpy"),
        (lambda r: r.update(version="9.9"), "two versions of luvc-export"),
        (lambda r: r["steps"]["machine"]["result"].pop("device"), "does not name its device"),
    ],
)
def test_what_is_no_report_is_refused(report: dict[str, Any], change: Any, says: str) -> None:
    change(report)
    report["sha256"] = digest(report)
    with pytest.raises(UsageError, match=f"this is no report of a trial(.|\n)*{re.escape(says)}"):
        check.check(report, "x")


@pytest.mark.parametrize("step", ["bench", "export", "engines", "build-safe"])
def test_a_step_without_its_figures_is_refused(report: dict[str, Any], step: str) -> None:
    report["steps"][step]["result"] = {}
    report["sha256"] = digest(report)
    with pytest.raises(UsageError, match="a step of the report lacks its figures"):
        check.check(report, "x")


def test_a_report_with_a_path_is_refused(report: dict[str, Any]) -> None:
    report["steps"]["machine"]["result"]["cpu"] = "/root/secret/x"
    report["sha256"] = digest(report)
    with pytest.raises(CheckFailed, match="holds a path or a name"):
        check.check(report, "x")


def test_reports_are_added_once_and_the_table_is_theirs(report: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "measurements"
    shutil.copytree(check.MEASUREMENTS, folder)
    already = check.load(folder)
    assert check.add(report, folder) and not check.add(report, folder)
    records = check.load(folder)
    assert len(records) == len(already) + 1
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert f"| a GPU | qwen2_5_vl | 11.0 ms, 31.0 ms | {len(CLAIMS)} |  |" in text and report["sha256"][:12] in text
    assert check.page(text, records) == text


def test_the_committed_page_is_of_the_committed_records() -> None:
    text = (check.MEASUREMENTS / "README.md").read_text(encoding="utf-8")
    assert check.page(text, check.load()) == text
    assert {path.name for path in check.MEASUREMENTS.iterdir()} == {"README.md", "trials.json"}


def test_a_cell_cannot_break_the_table() -> None:
    assert check._cell("a | b\n<b>") == r"a \| b &lt;b>"


def test_the_page_shows_verdicts_and_pictures(report: dict[str, Any], tmp_path: Path) -> None:
    from PIL import Image

    report["steps"]["machine"]["result"]["cpu"] = "<script>"
    Image.new("RGB", (4, 4)).save(tmp_path / "kept.png")
    html = page(report, tmp_path / "kept.png")
    assert html.count("<span class=holds>") == len(CLAIMS) and "<svg" in html and "data:image/png;base64," in html
    assert "<script" not in html and report["sha256"] in html
    assert "<svg" in page(report, None)


def test_the_page_says_what_is_not_known_and_how_long_what_was_cut_off_took(report: dict[str, Any]) -> None:
    why = "the time was over before it ended"
    report["steps"]["export"] = {"state": "cut off", "seconds": 81.25, "why": why, "result": None}
    report["steps"]["bench"] = {"state": "skipped", "seconds": 0.0, "why": "step export gave nothing", "result": None}
    html = page(report, None)
    assert (
        "None" not in html and "<td>gpu</td><td>not known</td>" in html and "<td>power</td><td>not known</td>" in html
    )
    assert "<td>export</td><td>cut off</td><td>81.2 s</td>" in html
    assert "<td>bench</td><td>skipped</td><td></td>" in html
    report["verdicts"] = [asdict(line) for line in judge(report["steps"])]
    assert {line["verdict"] for line in report["verdicts"] if line["figure"] == why} == {"not tried"}
    report["sha256"] = digest(report)
    check.check(report, "a report with a step that was cut off")
