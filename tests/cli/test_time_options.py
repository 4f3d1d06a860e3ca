"""``plan --time``: budgets for a time to the first token."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_words import Cli

from luvc_export.runtime.speed_probe import first_token
from luvc_export.runtime.speed_probe.products import Rate


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
    made = json.loads(out)
    assert code == 0 and made["first_token"]["first_token_s"] <= goal < none["first_token_s"], err
    assert json.loads(file.read_text()) == made["plan"] and made["cost"]["flops_ratio"] >= 2
    code, out, _ = cli("plan", "demo", "--time", "5s", "--backend", "cpu")
    assert code == 0 and "first token here: about" in out and "1 and 1 GFLOP/s" in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--time", "1ms"), "the encoder alone takes longer here"),
        (("--time", "soon"), "this is no time"),
        (("--time", "1s", "--speedup", "2"), "--time solves the budgets itself"),
        (("--time", "1s", "--plan", "lean"), "--time solves the budgets itself"),
        (("--backend", "cpu"), "give --time too"),
        (("--time", "1s", "--backend", "cuda"), "--backend"),
    ],
)
def test_what_contradicts_is_refused(cli: Cli, words: tuple[str, ...], told: str) -> None:
    code, _, err = cli("plan", "demo", *words)
    assert code == 2 and told in err, err
