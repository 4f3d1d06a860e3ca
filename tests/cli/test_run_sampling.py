"""The sampler's options of ``run``: each reaches the sampler, or says what is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from cli_words import Cli
from PIL import Image

from luvc_export.bundle.folder import Bundle
from luvc_export.cli.answer_lines import write_answer
from luvc_export.demo.questions import cases

CASE = next(cases("heldout", 1, 0, ("where_is",)))


@pytest.fixture
def asked(demo_bundle: Bundle, tmp_path: Path) -> list[Any]:
    Image.fromarray(CASE.images[0]).save(tmp_path / "picture.png")
    words = ["run", demo_bundle.folder, "--plan", "even", "--backend", "cpu", "--threads", 1]
    return [*words, "--image", tmp_path / "picture.png", "--prompt", CASE.prompt, "--max-new-tokens", 24]


def test_log_probabilities(cli: Cli, asked: list[Any]) -> None:
    code, out, _ = cli(*asked, "--logprobs", 2, "--json")
    record = json.loads(out)
    assert code == 0 and len(record["logprobs"]) == len(record["token_ids"])
    assert [one["token"] for one in record["logprobs"]] == record["token_ids"]
    assert all(len(one["top"]) == 2 and one["logprob"] <= 0 for one in record["logprobs"])
    assert json.loads(cli(*asked, "--json")[1])["logprobs"] is None


@pytest.mark.slow(beside="cli/test_run_sampling.py::test_log_probabilities")
def test_penalties_and_bias_change_the_answer(cli: Cli, asked: list[Any]) -> None:
    plain = json.loads(cli(*asked, "--json")[1])
    assert plain["text"] == CASE.answer == "row two column two"
    first = plain["token_ids"][0]
    for words in (
        ("--logit-bias", f"{first}=-100"),
        ("--logit-bias", f"{first}=100"),
        ("--repetition-penalty", 50),
        ("--no-repeat-ngram-size", 1),
    ):
        assert json.loads(cli(*asked, *words, "--json")[1])["token_ids"] != plain["token_ids"], words
    drawn = (*asked, "--temperature", 6, "--seed", 2, "--json")
    free = json.loads(cli(*drawn)[1])["token_ids"]
    for name in ("--presence-penalty", "--frequency-penalty"):
        assert json.loads(cli(*drawn, name, 2)[1])["token_ids"] != free, name
    near = cli(*asked, "--temperature", 2, "--min-p", 1, "--seed", 3, "--json")[1]
    assert json.loads(near)["text"] == CASE.answer, "only the most likely token is drawn from"


def test_schemas_and_patterns(cli: Cli, asked: list[Any], tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    shape = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    schema.write_text(json.dumps(shape))
    assert json.loads(json.loads(cli(*asked, "--json-schema", schema, "--json")[1])["text"])["n"] in (1, 2)
    code, out, _ = cli(*asked, "--regex", "(left|right) [0-9]")
    assert code == 0 and re.fullmatch("(left|right) [0-9]", out.strip())


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (("--logprobs", 2), "pass --json"),
        (("--logprobs", 99, "--json"), "logprobs: got 99"),
        (("--logit-bias", "13"), "a token id and a number"),
        (("--logit-bias", "x=1"), "a token id and a number"),
        (("--logit-bias", "3=1000"), "numbers from -100 to 100"),
        (("--min-p", 0.5), "temperature 0 draws nothing"),
        (("--repetition-penalty", 0), "repetition_penalty: got 0"),
        (("--json-schema", "gone.json"), "gone.json"),
        (("--regex", "("), "no grammar can be made of this"),
        (("--regex", "a", "--json-schema", "FILE"), "exclude each other"),
        (("--json-schema", "LIST"), "a schema is a JSON object"),
    ],
)
def test_what_is_wrong_is_said(
    cli: Cli, asked: list[Any], tmp_path: Path, words: tuple[Any, ...], refusal: str
) -> None:
    files = {"FILE": "{}", "LIST": "[]"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    code, _, err = cli(*asked, *[tmp_path / word if word in files else word for word in words])
    assert code == 2 and refusal in err, err


def test_an_answer_goes_to_a_file_unchanged_and_says_where_it_is_cut(
    cli: Cli, asked: list[Any], tmp_path: Path
) -> None:
    """Tables, LaTeX and control characters too, which a terminal is not given."""
    answer = tmp_path / "page.md"
    code, out, err = cli(*asked, "--output", answer)
    assert code == 0 and not out and answer.read_text(encoding="utf-8") == CASE.answer
    assert "cut after" not in err
    code, out, err = cli(*asked, "--output", answer, "--max-new-tokens", 2)
    assert code == 0 and CASE.answer.startswith(answer.read_text(encoding="utf-8")) and not out
    assert "cut after 2 tokens, the answer goes on: --max-new-tokens" in err
    write_answer(iter(["| a |\n|", "---|\r\n\x1b[31m$x^2$"]), answer)
    assert answer.read_bytes() == b"| a |\n|---|\r\n\x1b[31m$x^2$"
    code, _, err = cli("run", asked[1], "--output", answer, "--camera", "0", "--prompt", "Hi")
    assert code != 0 and "one answer is written to a file" in err
    code, _, err = cli(*asked, "--output", tmp_path / "page.md" / "inside")
    assert code != 0 and "is no folder" in err
