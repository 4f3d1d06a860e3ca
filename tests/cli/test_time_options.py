"""``plan --time``: budgets for a time to the first token."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_words import Cli

from luvc_export.runtime.speed_probe import first_token
from luvc_export.runtime.speed_probe.first_token import Rate


@pytest.fixture(autouse=True)
def known_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_token, "rate", lambda engine, *shape: Rate("cpu", "fp32", (1, 1, 1), 1e9))


def test_the_plan_meets_the_time_and_says_what_it_rests_on(cli: Cli, tmp_path: Path) -> None:
    code, out, err = cli("plan", "demo", "--plan", "none", "--json")
    assert code == 0, err
    code, out, err = cli("plan", "demo", "--time", "5s", "--json")
    none = json.loads(out)["first_token"]
    assert code == 0 and json.loads(out)["plan"]["schedule"] == "none", err
    goal = none["encoder_s"] + none["llm_s"] / 2
    file = tmp_path / "timed.json"
    code, out, err = cli("plan", "demo", "--time", f"{goal * 1000:.3f}ms", "-o", file, "--json")
    record = json.loads(out)
    assert code == 0 and record["first_token"]["first_token_s"] <= goal < none["first_token_s"], err
    assert json.loads(file.read_text()) == record["plan"] and record["cost"]["flops_ratio"] >= 2
    code, out, _ = cli("plan", "demo", "--time", "5s", "--backend", "cpu")
    assert code == 0 and "first token here: about" in out and "1 and 1 GFLOP/s" in out


def test_frames_that_share_a_budget_are_all_counted(cli: Cli) -> None:
    """One image was counted, however many frames the plan is for."""
    one, four = (
        json.loads(cli("plan", "demo", "--time", "99s", *words, "--json")[1])["first_token"]
        for words in ((), ("--joint-frames", "8"))
    )
    assert four["encoder_s"] == pytest.approx(4 * one["encoder_s"])
    left = four["llm_s"] / 2
    code, out, err = cli(
        "plan", "demo", "--time", f"{(four['encoder_s'] + left) * 1000:.3f}ms", "--joint-frames", "8", "--json"
    )
    assert code == 0 and json.loads(out)["first_token"]["llm_s"] <= left * 1.001, err


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (("--time", "1ms"), "the encoder alone takes longer here"),
        (("--time", "soon"), "this is no time"),
        (("--time", "1s", "--speedup", "2"), "--time solves the budgets itself"),
        (("--time", "1s", "--plan", "lean"), "--time solves the budgets itself"),
        (("--time", "9s", "--encoder-keep", "0.5"), "--time solves the budgets itself, for the whole encoder"),
        (("--backend", "cpu"), "give --time too"),
        (("--time", "1s", "--backend", "cuda"), "--backend"),
    ],
)
def test_what_contradicts_is_refused(cli: Cli, words: tuple[str, ...], refusal: str) -> None:
    code, _, err = cli("plan", "demo", *words)
    assert code == 2 and refusal in err, err
