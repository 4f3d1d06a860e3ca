"""A trial of a hub checkpoint from the client's cache alone: a snapshot of links, HF_HUB_OFFLINE=1, no network.

Its first step is done here; ``family_published.py`` does the others, for every family.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from family_harness import case
from family_published import hub_cache, save

from luvc_export.cli import main


@pytest.mark.slow(beside="export/test_checkpoint.py::test_each_refusal")
def test_a_hub_checkpoint_is_tried_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save(case("qwen2_vl"), tmp_path / "made", "old", "json")
    hub_cache(folder, tmp_path / "hub", "owner/tiny")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    monkeypatch.chdir(tmp_path)
    steps = [word for name in ("plan", "bench") for word in ("--only", name)]
    monkeypatch.setattr(sys, "argv", ["luvc-export", "trial", "owner/tiny", "--out", "out", "--json", *steps])
    with pytest.raises(SystemExit) as stop:
        main()
    out = capsys.readouterr().out
    assert not stop.value.code, (tmp_path / "out" / "plan.log").read_text(encoding="utf-8")
    report = json.loads(out)
    plan = report["steps"]["plan"]
    assert plan["state"] == "done" and plan["result"]["keep"][-1] == 0 and plan["result"]["flops_ratio"] > 1
    assert report["steps"]["bench"]["why"] == "step export gave nothing"
    verdicts = {line["claim"]: line for line in report["verdicts"]}
    assert {line["verdict"] for line in verdicts.values()} == {"not tried"}
    assert "tiny" not in out and str(tmp_path) not in out
    assert (tmp_path / "out" / "report.html").is_file()
