from __future__ import annotations

import json
from typing import Any

import pytest
import tiny_bundle

from luvc_export.errors import BundleError
from luvc_export.runtime.prompt.tokenizer_rules import check_tokenizer, pattern_problem

QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def tokenizer(**parts: Any) -> bytes:
    return json.dumps(json.loads(tiny_bundle.tokenizer().to_str()) | parts).encode()


@pytest.mark.parametrize("pattern", [QWEN, GPT2, r"\p{N}{1,3}", r"[ab]{2,}?", r"(?:'s|'t)?"])
def test_patterns_of_families_pass(pattern: str) -> None:
    assert pattern_problem(pattern) is None


@pytest.mark.parametrize(
    "pattern",
    [
        r"(a+)+$",
        r"(a|aa)+$",
        r"(a?)*",
        r"(.*)(.*)(.*)(.*)x",
        r"(a)\1+",
        r"((a{0,99}){0,99}){0,99}",
        "(",
        "[",
        "a{99999}",
    ],
)
def test_patterns_that_may_not_end_or_panic_are_named(pattern: str) -> None:
    assert pattern_problem(pattern)


def test_forty_rules_that_double_a_letter() -> None:
    steps = [replace({"String": "a"}, "aa") for _ in range(40)]
    for part in ("normalizer", "decoder"):
        name = "normalizers" if part == "normalizer" else "decoders"
        with pytest.raises(BundleError, match="may fill the memory"):
            check_tokenizer(tokenizer(**{part: {"type": "Sequence", name: steps}}), "tokenizer.json")
    check_tokenizer(tokenizer(normalizer=replace({"String": " "}, "▁")), "tokenizer.json")


def test_what_is_no_tokenizer() -> None:
    for data in (b"\xff", b"[]", b"{", tokenizer(added_tokens=[{"content": ""}])):
        with pytest.raises(BundleError):
            check_tokenizer(data, "tokenizer.json")
