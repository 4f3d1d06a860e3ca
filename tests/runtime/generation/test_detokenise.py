from __future__ import annotations

import json

import pytest
import tiny_bundle
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from luvc_export.errors import BundleError
from luvc_export.runtime.generation.detokenise import TextStream

BYTES = tiny_bundle.tokenizer()


def metaspace() -> Tokenizer:
    words = ["<unk>", "\u2581the", "\u2581cat", "s", "\u2581", "\u00e9", *(f"<0x{value:02X}>" for value in range(256))]
    tokenizer = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, [], byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return tokenizer


METASPACE = metaspace()


def wordpiece() -> Tokenizer:
    words = {word: index for index, word in enumerate(["[UNK]", "the", "cat", "##s", ",", "."])}
    tokenizer = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def run(tokenizer: Tokenizer, ids: list[int], stop: tuple[str, ...] = ()) -> tuple[list[str], TextStream]:
    stream, pieces = TextStream(tokenizer, stop), []
    for token in ids:
        pieces.append(stream.push(token))
        if stream.stopped:
            break
    pieces.append(stream.flush())
    assert "".join(pieces) == stream.text
    return pieces, stream


def test_what_stopped_the_answer_may_be_shown() -> None:
    for shows, text in ((False, "a "), (True, "a end")):
        stream = TextStream(BYTES, ("ending", "end", "never"), shows)
        pieces = [stream.push(token) for token in BYTES.encode("a end of it").ids]
        assert stream.stopped and "".join(pieces) + stream.flush() == text == stream.text


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=12))
def test_pieces_hold_whole_characters(text: str) -> None:
    pieces, stream = run(BYTES, BYTES.encode(text).ids)
    assert stream.text == BYTES.decode(BYTES.encode(text).ids)
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


def test_a_character_of_four_tokens_comes_at_once() -> None:
    ids = BYTES.encode("a\U0001f600b").ids
    assert len(ids) == 6
    pieces, _ = run(BYTES, ids)
    assert pieces == ["a", "", "", "", "\U0001f600", "b", ""]


@pytest.mark.parametrize("tokenizer", [BYTES, wordpiece()], ids=["bytes", "wordpiece"])
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_pieces_joined_are_the_decoded_whole(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.get_vocab_size() - 1), max_size=20))
    _, stream = run(tokenizer, ids)
    assert stream.text == tokenizer.decode(ids)


@settings(max_examples=100, deadline=None)
@given(st.text(st.sampled_from("the cats\u00e9\u4f60\U0001f600"), max_size=12))
def test_bytes_within_a_sentencepiece_vocabulary(text: str) -> None:
    ids = METASPACE.encode(
        text
    ).ids  # random ids would not do: ByteFallback turns good bytes beside bad ones into U+FFFD
    pieces, stream = run(METASPACE, ids)
    assert stream.text == METASPACE.decode(ids)
    assert not any("\ufffd" in piece for piece in pieces)


def test_special_tokens_leave_no_text() -> None:
    ids = [*BYTES.encode("hi").ids, tiny_bundle.END_TOKEN, *BYTES.encode("!").ids]
    assert run(BYTES, ids)[0] == ["h", "i", "", "!", ""]


@pytest.mark.parametrize(
    ("text", "stop", "wanted", "stopped"),
    [
        ("hello END more", ("END",), "hello ", True),
        ("hello EN", ("END",), "hello EN", False),
        ("aaab", ("aab",), "a", True),
        ("one\n\ntwo", ("\n\n",), "one", True),
        ("x</s>y", ("</t>", "</s>"), "x", True),
        ("abcd", ("cd", "bcd"), "a", True),
        ("caf\u00e9!", ("\u00e9",), "caf", True),
        ("stop", ("s",), "", True),
        ("plain", (), "plain", False),
    ],
)
def test_stop_strings_over_several_tokens(text: str, stop: tuple[str, ...], wanted: str, stopped: bool) -> None:
    pieces, stream = run(BYTES, BYTES.encode(text).ids, stop)
    assert stream.text == wanted
    assert stream.stopped is stopped
    for end in range(len(pieces) + 1):  # no prefix of what was shown has to be taken back
        assert wanted.startswith("".join(pieces[:end]))


def test_a_beginning_that_leads_nowhere_is_released() -> None:
    pieces, _ = run(BYTES, BYTES.encode("ENough").ids, ("END",))
    assert pieces == ["", "", "ENo", "u", "g", "h", ""]


@settings(max_examples=80, deadline=None)
@given(st.text("ab", max_size=14), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_the_text_ends_before_the_first_stop_string_that_completes(text: str, stops: list[str]) -> None:
    _, stream = run(BYTES, BYTES.encode(text).ids, tuple(stops))
    for end in range(len(text) + 1):
        ends = [text[:end].find(stop) for stop in stops if stop in text[:end]]
        if ends:
            assert stream.text == text[: min(ends)]
            assert stream.stopped
            return
    assert stream.text == text
    assert not stream.stopped


def test_a_decoder_that_panics_is_the_bundle_s_fault() -> None:
    """A panic of the library is no Exception: it would end the thread that answers everybody."""
    fields = json.loads(tiny_bundle.tokenizer().to_str())
    fields["decoder"] = {"type": "Sequence", "decoders": [{"type": "Strip", "content": "a", "start": 1, "stop": 1}] * 9}
    stream = TextStream(Tokenizer.from_str(json.dumps(fields)))
    with pytest.raises(BundleError, match="the tokenizer fails"):
        for token in range(60, 90):
            stream.push(token)
