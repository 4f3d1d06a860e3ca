"""``--lora`` of run and batch, slots that export refuses, and engines, which have none."""

from __future__ import annotations

import json
from pathlib import Path

from cli_words import Cli

from luvc_export.demo import CHECKPOINT
from luvc_export.runtime.session import Session


def test_run_and_batch(cli: Cli, lora: Path, tmp_path: Path) -> None:
    session = Session(lora / "slots", "cpu", threads=1, lora={"loud": lora / "loud"})
    texts = [
        session.generate(prompt="left of 5", adapter=name, max_new_tokens=4, greedy=True).text
        for name in ("loud", None)
    ]
    options = [lora / "slots", "--backend", "cpu", "--threads", 1, "--greedy", "--max-new-tokens", 4]
    code, out, _ = cli("run", *options, "--lora", f"x={lora / 'loud'}", "--prompt", "left of 5", "--json")
    assert code == 0 and json.loads(out)["text"] == texts[0]
    cases = [{"prompt": "left of 5", **which} for which in ({"adapter": "loud"}, {}, {"adapter": "no"})]
    (tmp_path / "cases.jsonl").write_text("\n".join(map(json.dumps, cases)))
    batch = ["batch", *options, "--input", tmp_path / "cases.jsonl", "-o", tmp_path / "out", "--json"]
    two = [item for name in ("loud", "terse") for item in ("--lora", f"{name}={lora / name}")]
    assert cli(*batch, *two)[0] == 1
    rows = [json.loads(line) for path in (tmp_path / "out").glob("*.jsonl") for line in path.read_text().splitlines()]
    assert [row["text"] for row in rows] == [*texts, None] and "no such adapter" in rows[2]["error"]
    code, _, err = cli(*batch, *two[:2])
    assert code == 2 and "lora" in err, "other adapters are another batch"


def test_one_adapter_answers_every_row(cli: Cli, lora: Path, tmp_path: Path) -> None:
    session = Session(lora / "slots", "cpu", threads=1, lora={"loud": lora / "loud"})
    text = session.generate(prompt="left of 5", adapter="loud", max_new_tokens=4, greedy=True).text
    (tmp_path / "cases.jsonl").write_text('{"prompt": "left of 5"}')
    options = ["--backend", "cpu", "--threads", 1, "--greedy", "--max-new-tokens", 4, "--lora", f"loud={lora / 'loud'}"]
    assert cli("batch", lora / "slots", "--input", tmp_path / "cases.jsonl", "-o", tmp_path / "out", *options)[0] == 0
    (shard,) = (tmp_path / "out").glob("*.jsonl")
    assert json.loads(shard.read_text())["text"] == text


def test_refusals(cli: Cli, lora: Path, tmp_path: Path) -> None:
    for words, refusal in (
        (["run", lora / "plain", "--lora", f"x={lora / 'loud'}", "--prompt", "a"], "no slots for adapters"),
        (["run", lora / "slots", "--lora", str(lora / "loud"), "--prompt", "a"], "NAME=FOLDER"),
        (["serve", lora / "slots", "--lora-dir", tmp_path / "none"], "there is no such folder"),
        (["export", CHECKPOINT, "-o", tmp_path / "b", "--lora-targets", "q_proj"], "slots have a rank"),
        (
            ["export", CHECKPOINT, "-o", tmp_path / "b", "--lora-slots", 4, "--lora-targets", "qproj"],
            "no such product in the LLM's layers",
        ),
        (["build", lora / "plain", "--target", "rtx-ada", "--adapters", 1], "this bundle has no slots for adapters"),
        (["build", lora / "slots", "--target", "rtx-ada", "--adapters", 2], "a call has no more adapters than rows"),
    ):
        code, _, err = cli(*words)
        assert code == 2 and refusal in err, err
    assert not (tmp_path / "b").exists()
