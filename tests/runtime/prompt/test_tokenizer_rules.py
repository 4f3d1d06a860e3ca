from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

import pytest
import tiny_bundle
from tokenizers import Tokenizer

from luvc_export.errors import BundleError
from luvc_export.runtime.prompt import tokenizer_rules
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


KINDS = [(part, kind) for part, kinds in tokenizer_rules._KINDS.items() for kind in kinds if kind != "Sequence"]
FIELDS: dict[str, dict[str, Any]] = {
    "BertNormalizer": {"clean_text": True, "handle_chinese_chars": True, "strip_accents": True, "lowercase": True},
    "Replace": replace({"String": "a"}, "b"), "Prepend": {"prepend": "_"},
    "Precompiled": {"precompiled_charsmap": base64.b64encode((1024).to_bytes(4, "little") + bytes(1030)).decode()},
    "Strip": {"strip_left": True, "strip_right": True, "content": "a", "start": 0, "stop": 0},
    "Metaspace": {"replacement": "_", "prepend_scheme": "always", "split": True}, "FixedLength": {"length": 1},
    "CharDelimiterSplit": {"delimiter": "a"}, "Digits": {"individual_digits": True},
    "ByteLevel": {"add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    "Split": {"pattern": {"Regex": "a"}, "behavior": "Isolated", "invert": False},
    "Punctuation": {"behavior": "Isolated"}, "BPEDecoder": {"suffix": "a"},
    "WordPiece": {"prefix": "a", "cleanup": True},
    "BertProcessing": {"sep": ["a", 0], "cls": ["a", 0]},
    "RobertaProcessing": {"sep": ["a", 0], "cls": ["a", 0], "trim_offsets": True, "add_prefix_space": True},
    "TemplateProcessing": {
        "single": [{"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {},
    },
    "CTC": {"pad_token": "a", "word_delimiter_token": "b", "cleanup": True},
}  # fmt: skip
LISTS = {
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "post_processor": "processors",
    "decoder": "decoders",
}


def repeated(part: str, kind: str, times: int) -> bytes:
    return tokenizer(**{part: {"type": "Sequence", LISTS[part]: [{"type": kind, **FIELDS.get(kind, {})}] * times}})


@pytest.mark.parametrize(("part", "kind"), KINDS)
def test_sixty_of_a_kind_are_refused_or_do_not_lengthen_a_text(part: str, kind: str) -> None:
    """Forty ByteLevel normalizers, or sixty pre-tokenizers, ended the process."""
    data = repeated(part, kind, 60)
    try:
        check_tokenizer(data, "tokenizer.json")
    except BundleError as error:
        assert "may fill the memory" in str(error)
        return
    tokenizer = Tokenizer.from_str(data.decode())  # the library knows the kind, and takes it
    ids = tokenizer.encode("a b\ufdfa 1" * 20).ids
    assert len(ids) < 64 * 6 * 20 and len(tokenizer.decode(ids)) < 64 * 6 * 20


@pytest.mark.parametrize(("part", "kind"), KINDS)
def test_one_of_a_kind_lengthens_a_text_by_no_more_than_the_list_says(part: str, kind: str) -> None:
    if part != "normalizer":
        return
    tokenizer = Tokenizer.from_str(repeated(part, kind, 1).decode())
    for text in ("\ufdfa", "\u0390", "\U0001d160", "\u0130", "\xff", "\u4e16", " ", "a\x00b"):
        longest = tokenizer_rules._KINDS[part][kind] * len((text * 8).encode()) + 1
        assert len(tokenizer.normalizer.normalize_str(text * 8).encode()) <= longest, text


def test_a_kind_that_is_not_on_the_list() -> None:
    for part in LISTS:
        with pytest.raises(BundleError, match="a rule of the kind 'New'"):
            check_tokenizer(tokenizer(**{part: {"type": "New"}}), "tokenizer.json")
        for odd in ([], {}, None, 7):
            with pytest.raises(BundleError, match="a rule of the kind"):
                check_tokenizer(tokenizer(**{part: {"type": odd}}), "tokenizer.json")


@pytest.mark.parametrize(
    "data", [b"\x00\x00\x00\x80" + bytes(10), b"\x03\x00\x00\x00" + bytes(10), bytes(3), b"\xff" * 14]
)
def test_a_precompiled_table_whose_trie_is_longer_than_it(data: bytes) -> None:
    """14 bytes asked the library for 8 GB."""
    rule = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()}
    with pytest.raises(BundleError, match="a Precompiled table of"):
        check_tokenizer(tokenizer(normalizer=rule), "tokenizer.json")
    good = (4).to_bytes(4, "little") + bytes(4) + b"ab\0c\0"
    rule["precompiled_charsmap"] = base64.b64encode(good).decode()
    check_tokenizer(tokenizer(normalizer=rule), "tokenizer.json")


def test_a_template_that_writes_more_than_a_text() -> None:
    rule = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "a", "type_id": 0}}] * 40,
        "pair": [],
        "special_tokens": {"a": {"id": "a", "ids": [0] * 40, "tokens": ["a"] * 40}},
    }
    with pytest.raises(BundleError, match="a template that puts 1,600 tokens around a text"):
        check_tokenizer(tokenizer(post_processor=rule), "tokenizer.json")


def test_values_are_counted_before_they_are_parsed() -> None:
    with pytest.raises(BundleError, match="holds more values than any"):
        check_tokenizer(b"[" + b"[]," * 5_000_000 + b"[]]", "tokenizer.json")


def test_the_longest_token_is_known() -> None:
    assert check_tokenizer(tokenizer(added_tokens=[{"content": "a" * 300}]), "tokenizer.json") == 300


#: A field as it is read, with what stands there.
ODD_PLACES: dict[str, Any] = {
    "added_tokens": lambda odd: {"added_tokens": odd},
    "model": lambda odd: {"model": odd},
    "model.vocab": lambda odd: {"model": {"type": "BPE", "vocab": odd, "merges": []}},
    "normalizer": lambda odd: {"normalizer": odd},
    "normalizers": lambda odd: {"normalizer": {"type": "Sequence", "normalizers": odd}},
    "charsmap": lambda odd: {"normalizer": {"type": "Precompiled", "precompiled_charsmap": odd}},
    "pattern": lambda odd: {"normalizer": {"type": "Replace", "pattern": odd, "content": odd}},
    "prepend": lambda odd: {"normalizer": {"type": "Prepend", "prepend": odd}},
    "single": lambda odd: {"post_processor": {"type": "TemplateProcessing", "single": odd, "special_tokens": odd}},
    "ids": lambda odd: {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": odd}}],
            "special_tokens": {"a": {"ids": odd}},
        }
    },
}


@pytest.mark.parametrize("field", ODD_PLACES)
def test_a_value_of_any_other_kind_is_no_foreign_error(field: str) -> None:
    """Numbers where lists belong were TypeErrors; one of 2^40 in place of a table asked for as many bytes."""
    for odd in (5, True, 2**40, -1, 1.5, "text", None, [], [7], [[]], {}, {"a": 1}):
        with contextlib.suppress(BundleError):
            assert check_tokenizer(tokenizer(**ODD_PLACES[field](odd)), "tokenizer.json") >= 1


def test_added_tokens_that_are_no_list_are_refused() -> None:
    with pytest.raises(BundleError, match="added tokens that are no list: 5"):
        check_tokenizer(tokenizer(added_tokens=5), "tokenizer.json")
