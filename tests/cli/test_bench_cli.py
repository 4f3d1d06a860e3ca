"""bench and make-random from the outside."""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cli_words import Cli
from PIL import Image

from luvc_export.bundle.folder import Bundle
from luvc_export.export.synthetic import presets
from luvc_export.runtime.bench import measure, profile

QUICK = ("--repeats", 1, "--warm-up", 0, "--new-tokens", 2, "--text", 8, "--threads", 1)


def test_bench_compares_two_plans(cli: Cli, demo_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """As JSON and, of the same figures, as a table."""
    asked, timed = ("bench", demo_bundle.folder, "--plan", "none", "--vs", "#thirds", *QUICK), list[Any]()
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
    monkeypatch.setattr(measure, "measure", lambda *words: timed[0])
    code, out, _ = cli(*asked)
    assert code == 0 and len(timed) == 1
    for text in ("prefill ms", "decode tokens/s", "KV cache MiB", "share of bandwidth", "80 x2, 40 x2, 20, 0"):
        assert text in out


def test_sweeps_write_a_picture_and_a_page(cli: Cli, demo_bundle: Bundle, tmp_path: Path) -> None:
    code, out, _ = cli("bench", demo_bundle.folder, "--sweep", "budget", "-o", tmp_path / "out", "--json", *QUICK)
    data = json.loads(out)
    assert code == 0 and {case["facts"]["plan"] for case in data["cases"]} == {"none", "even", "thirds"}
    with Image.open(tmp_path / "out/sweep-budget.png") as drawn:
        assert drawn.width > 500
    page = (tmp_path / "out/sweep-budget.html").read_text()
    assert "data:image/png;base64" in page and "<script" not in page and "thirds" in page
    code, out, _ = cli("bench", demo_bundle.folder, "--sweep", "tokens", "-o", tmp_path / "out", "--json", *QUICK)
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


def test_make_random_writes_what_export_opens(cli: Cli, tmp_path: Path) -> None:
    args = ("make-random", "smolvlm-256m", "--layers", 1, "--encoder-blocks", 1, "-o", tmp_path / "small")
    code, out, _ = cli(*args, "--json")
    assert code == 0 and json.loads(out)["dtype"] == "bf16"
    code, out, _ = cli("plan", tmp_path / "small", "--plan", "thirds")
    assert code == 0 and "64 units" in out
    assert cli(*args)[0] == 2
