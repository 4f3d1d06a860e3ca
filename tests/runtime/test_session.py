from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_bundle
from flat_plans import flat_plan
from numpy.typing import NDArray

from luvc_export.bundle import folder as bundles
from luvc_export.bundle.folder import Bundle
from luvc_export.core import graph_io
from luvc_export.errors import BundleError, CheckFailed, UsageError
from luvc_export.runtime.graphs import forced_indices
from luvc_export.runtime.model import Array, Backend, Cache
from luvc_export.runtime.ort import OrtBackend
from luvc_export.runtime.session import Session
from luvc_export.runtime.state import State

IMAGE = tiny_bundle.IMAGE_TOKEN
Picture = NDArray[np.uint8]


def chat(*parts: str) -> list[dict[str, Any]]:
    content = [{"type": "image"} if part == "<image>" else {"type": "text", "text": part} for part in parts]
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize(
    "parts",
    [
        ("hello",),
        ("<image>", "hello"),
        ("hel", "<image>", "lo"),
        ("hello", "<image>"),
        ("<image>", "a", "<image>", "b"),
    ],
    ids="".join,
)
def test_logits_are_those_computed_by_hand(session: Session, picture: Picture, parts: tuple[str, ...]) -> None:
    images = [picture, picture[::-1]][: parts.count("<image>")]
    request = session.prepare(images, messages=chat(*parts))
    step = session.default.run(request.token_ids, session.default.encode_images(request.images), all_logits=True)
    wanted = tiny_bundle.expected(list(request.token_ids), request.images)
    np.testing.assert_allclose(step.logits[0], wanted, atol=1e-4)
    assert wanted.std() > 1
    assert step.state.cache.lengths == (2 * len(images) + step.state.past_text, step.state.past_text)
    assert step.kept[0].tolist() == [[1, 2]] * len(images)


@pytest.mark.parametrize("images", [0, 1, 2])
def test_decoding_equals_a_longer_prompt(session: Session, picture: Picture, images: int) -> None:
    request = session.prepare([picture, picture[::-1]][:images], "hello")
    step = session.default.run(request.token_ids, session.default.encode_images(request.images))
    ids = list(request.token_ids)
    for _ in range(5):
        ids.append(int(step.logits[0, -1].argmax()))
        step = session.default.run(ids[-1:], state=step.state)
        wanted = tiny_bundle.expected(ids, request.images)[-1]
        np.testing.assert_allclose(step.logits[0, -1], wanted, atol=1e-3)
    answer = session.generate([picture, picture[::-1]][:images], "hello", max_new_tokens=5)
    assert list(answer.token_ids) == ids[-5:]


def test_a_state_can_be_continued_more_than_once(session: Session, picture: Picture) -> None:
    request = session.prepare(picture, "hello")
    state = session.default.run(request.token_ids, session.default.encode_images(request.images)).state
    first = session.default.run([65, 66], state=state, all_logits=True).logits
    session.default.run([70], state=state)
    np.testing.assert_array_equal(session.default.run([65, 66], state=state, all_logits=True).logits, first)
    assert first.shape == (1, 2, tiny_bundle.VOCAB)


def test_a_later_turn_may_bring_a_picture(session: Session, picture: Picture) -> None:
    request = session.prepare(None, "hello")
    state = session.default.run(request.token_ids).state
    seen = session.default.encode_images(picture[None, None])
    step = session.default.run([IMAGE, 65], seen, state, all_logits=True)
    ids = [*request.token_ids, IMAGE, 65]
    np.testing.assert_allclose(step.logits[0, 0], tiny_bundle.expected(ids, picture[None, None])[-1], atol=1e-3)


@pytest.mark.parametrize(
    ("mode", "dtype", "io", "tolerance"),
    [
        ("reference", "float32", "fp32", 1e-4),
        ("reference", "bfloat16", "fp32", 1e-4),
        ("reference", "float16", "fp32", 1e-4),
        ("copy", "bfloat16", "fp32", 1e-4),
        ("copy", "float16", "fp16", 0.02),  # caches rounded to 11 bits: 64 * 2**-11 at logits of 64
        ("copy", "float32", "bf16", 0.15),  # 8 bits
    ],
)
def test_weights_and_types(fresh: Path, picture: Picture, mode: str, dtype: str, io: str, tolerance: float) -> None:
    session = Session(tiny_bundle.write(fresh, mode, dtype, io), threads=1)
    request = session.prepare(picture, "hello")
    step = session.default.run(request.token_ids, session.default.encode_images(request.images), all_logits=True)
    wanted = tiny_bundle.expected(list(request.token_ids), request.images)
    np.testing.assert_allclose(step.logits[0], wanted, atol=tolerance)
    after = session.default.run([65], state=step.state)
    np.testing.assert_allclose(
        after.logits[0], tiny_bundle.expected([*request.token_ids, 65], request.images)[-1:], atol=2 * tolerance
    )


def test_a_debug_session_is_told_what_to_keep(bundle: Bundle, picture: Picture) -> None:
    session = Session(bundle, threads=1, debug=True)
    request = session.prepare([picture, picture[::-1]], "hello")
    seen = session.default.encode_images(request.images)
    step = session.default.run(request.token_ids, seen, all_logits=True, forced={0: np.array([[0, 3], [0, 3]])})
    ids = list(request.token_ids)
    np.testing.assert_allclose(step.logits[0], tiny_bundle.expected(ids, request.images, (0, 3)), atol=1e-4)
    assert step.kept[0].tolist() == [[0, 3], [0, 3]]
    after = session.default.run([65], state=step.state)
    wanted = tiny_bundle.expected([*ids, 65], request.images, (0, 3))[-1]
    np.testing.assert_allclose(after.logits[0, 0], wanted, atol=1e-3)
    for forced in ({}, {0: np.array([[0, 3]])}, {0: np.array([[0, 4], [0, 3]])}, {0: np.array([[0, 0], [0, 3]])}):
        with pytest.raises(UsageError, match=r"forced\[0\]"):
            session.default.run(request.token_ids, seen, forced=forced)


def test_forced_indices_become_places_in_the_span_that_is_left() -> None:
    plan = flat_plan((3, 3), keep=(6, 3, 2, 0))
    kept = {0: np.array([[0, 2, 3, 5, 7, 8]]), 1: np.array([[2, 5, 8]]), 2: np.array([[5, 8]])}
    feeds = forced_indices(plan, kept, 1)
    assert {name: array.tolist() for name, array in feeds.items()} == {
        "forced_indices.0": [[[0, 2, 3, 5, 7, 8]]],
        "forced_indices.1": [[[1, 3, 5]]],
        "forced_indices.2": [[[1, 2]]],
    }
    with pytest.raises(UsageError, match=r"forced\[1\]"):
        forced_indices(plan, {**kept, 1: np.array([[1, 5, 8]])}, 1)  # 1 was not kept before


def test_an_answer_and_what_it_cost(session: Session, picture: Picture) -> None:
    answer = session.generate(picture, "hello", max_new_tokens=4)
    assert len(answer.token_ids) == 4
    assert answer.finish_reason == "length"
    assert answer.visual_tokens == (2, 0)
    assert answer.selection.grid == (2, 2)
    assert answer.selection.merged_into is not None
    assert answer.selection.merged_into.tolist() == [[0, 1, 2, 3]]
    assert answer.selection.kept[0].tolist() == [[1, 2]]
    assert answer.selection.placements[0].size == (4, 4)
    timings = answer.timings
    rows = (2 + 5 + 3) + (5 + 3)  # the last token made is not run through the model
    assert timings.kv_mib == rows * 2 * 4 * 4 / 2**20
    assert timings.decode_tokens == 3
    assert timings.ttft_ms >= timings.preprocess_ms + timings.vision_ms + timings.prefill_ms > 0
    data = json.loads(json.dumps(timings.to_json()))
    assert data["visual_tokens"] == [2, 0]
    assert data["tokens_per_s"] == pytest.approx(3000 / timings.decode_ms)
    one = session.generate(None, "hello", max_new_tokens=1).timings
    assert one.tokens_per_s is None
    assert one.vision_ms == 0.0


def test_streaming_gives_the_same_answer(session: Session, picture: Picture) -> None:
    options = {"temperature": 5.0, "seed": 3, "max_new_tokens": 30}
    stream = session.generate(picture, "hello", stream=True, **options)
    with pytest.raises(UsageError, match="not complete"):
        _ = stream.result
    pieces = list(stream)
    whole = session.generate(picture, "hello", **options)
    assert all(pieces)
    assert "".join(pieces) == stream.result.text == whole.text
    assert stream.result.token_ids == whole.token_ids
    assert list(stream) == []
    assert stream.result.text == whole.text


class Scripted(Backend):
    """The real back-end, with logits replaced so that the answer is known."""

    name, arithmetic = "cpu", "fp32"

    def __init__(self, bundle: Bundle, answer: list[int], interrupt: int = -1, bad: int = -1) -> None:
        self.real = OrtBackend(bundle, bundle.entry(), threads=1)
        self.answer, self.calls, self.interrupt, self.bad = answer, 0, interrupt, bad

    def vision(self, images: NDArray[np.uint8], padding: NDArray[np.bool_] | None = None) -> dict[str, Array]:
        return self.real.vision(images, padding)

    def decode(self, feeds: Any, cache: Cache | None) -> tuple[dict[str, Array], Cache]:
        out, after = self.real.decode(feeds, cache)
        if self.calls == self.interrupt:
            self.interrupt = -1
            raise KeyboardInterrupt
        logits = np.zeros_like(out[graph_io.LOGITS])
        logits[..., self.answer[self.calls]] = np.nan if self.calls == self.bad else 1
        self.calls += 1
        return {**out, graph_io.LOGITS: logits}, after


def scripted(bundle: Bundle, text: str, ends: bool = False, **faults: int) -> Session:
    ids = tiny_bundle.tokenizer().encode(text).ids + ([tiny_bundle.END_TOKEN] if ends else [])
    return Session(bundle, Scripted(bundle, ids, **faults))


def test_the_end_token_ends_the_answer(bundle: Bundle) -> None:
    answer = scripted(bundle, "caf\u00e9", ends=True).generate(None, "hello", max_new_tokens=20)
    assert (answer.text, answer.finish_reason) == ("caf\u00e9", "stop")
    assert answer.token_ids[-1] == tiny_bundle.END_TOKEN
    empty = scripted(bundle, "", ends=True).generate(None, "hello")
    assert (empty.text, empty.finish_reason, len(empty.token_ids)) == ("", "stop", 1)


def test_stop_strings_over_several_tokens_and_characters(bundle: Bundle) -> None:
    session = scripted(bundle, "caf\u00e9 \U0001f600 END of it")
    stream = session.generate(None, "hello", stream=True, stop=["\nEND", " END"], max_new_tokens=30)
    pieces = list(stream)
    assert "".join(pieces) == "caf\u00e9 \U0001f600"
    assert stream.result.finish_reason == "stop"
    assert len(stream.result.token_ids) == len("caf\u00e9 \U0001f600 END".encode())
    assert all("\ufffd" not in piece for piece in pieces)


def test_what_is_held_back_comes_at_the_end(bundle: Bundle) -> None:
    answer = scripted(bundle, "ab EN").generate(None, "hello", stop=" END", max_new_tokens=5)
    assert (answer.text, answer.finish_reason) == ("ab EN", "length")
    half = scripted(bundle, "a\U0001f600").generate(None, "hello", max_new_tokens=3)
    assert half.text == "a\ufffd"


def test_an_interrupted_answer_leaves_the_session_usable(bundle: Bundle) -> None:
    session = scripted(bundle, "abcabc", interrupt=2)
    stream = session.generate(None, "hello", stream=True, max_new_tokens=6)
    with pytest.raises(KeyboardInterrupt):
        list(stream)
    with pytest.raises(UsageError, match="not complete"):
        _ = stream.result
    assert session.generate(None, "hello", max_new_tokens=4).text == "cabc"
    stream = scripted(bundle, "abc").generate(None, "hello", stream=True, max_new_tokens=3)
    assert next(stream) == "a"
    stream.close()
    assert list(stream) == []


def test_logits_that_are_not_numbers_name_the_step(bundle: Bundle) -> None:
    with pytest.raises(CheckFailed, match="answer token 2"):
        scripted(bundle, "abcdef", bad=2).generate(None, "hello", max_new_tokens=5)


def test_token_limit(session: Session, picture: Picture) -> None:
    assert session.token_limit(session.prepare(None, "hello")) == 43
    assert session.token_limit(session.prepare(None, "hello"), 3) == 3
    assert session.token_limit(session.prepare([picture] * 10, "hello")) == 64 - 40 - 5
    assert len(session.generate(None, "hello").token_ids) <= 43


@pytest.mark.parametrize(
    ("images", "prompt", "wanted", "words"),
    [
        (0, "x" * 65, None, ["longer than the model's context", "65 text tokens", "at most 64"]),
        (0, "x" * 48, None, ["the bundle's text capacity", "48 text tokens", "at most 48", "--text-capacity"]),
        (0, "x" * 40, 9, ["max_new_tokens", "40 text tokens + 9 new", "at most 48", "max_new_tokens of 8 or less"]),
        (15, "x" * 4, None, ["model's context", "4 text tokens + 60 visual places", "fewer pictures"]),
        (15, "x" * 2, 3, ["max_new_tokens of 2 or less"]),
        (1, "", None, ["no text"]),
        (0, "", None, ["no text"]),
    ],
)
def test_prompts_that_do_not_fit(
    session: Session, picture: Picture, images: int, prompt: str, wanted: int | None, words: list[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        session.generate([picture] * images, prompt, stream=True, max_new_tokens=wanted)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_what_a_session_refuses(bundle: Bundle, fresh: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'cuda'"):
        Session(bundle, "cude")
    with pytest.raises(UsageError, match="no such plan"):
        Session(bundle, plan="third")
    entry = dataclasses.replace(bundle.entry(), decoder_debug=None)
    with pytest.raises(UsageError, match="no debug graph"):
        OrtBackend(bundle, entry, debug=True)
    with pytest.raises(UsageError, match="no weights"):
        Session(tiny_bundle.write(fresh, "none"))
    with pytest.raises(BundleError, match="not a bundle"):
        Session(fresh.parent)


def test_a_path_will_do_for_a_bundle(bundle: Bundle, picture: Picture) -> None:
    assert Session(str(bundle.folder)).generate(picture, "a", max_new_tokens=1).token_ids


def test_a_graph_that_is_none_is_named(fresh: Path) -> None:
    manifest = tiny_bundle.write(fresh).manifest
    for content in (b"\x0a", b"\x3a\xff\x01abc", b"not a graph at all", b""):
        (fresh / "decoder.onnx").write_bytes(content)
        manifest.files["decoder.onnx"] = bundles.record(fresh / "decoder.onnx")
        bundles.write_manifest(fresh, manifest)
        with pytest.raises(BundleError, match=r"decoder\.onnx"):
            Session(fresh).generate(None, "hello")


def test_a_graph_may_not_take_weights_from_an_unlisted_file(fresh: Path) -> None:
    manifest = tiny_bundle.write(fresh).manifest
    del manifest.files["weights"]
    bundles.write_manifest(fresh, manifest)
    with pytest.raises(BundleError, match=r"a file the manifest does not list\n.*\n.*'colour' from 'weights'"):
        Session(fresh).generate(None, "hello")


def test_placement_says_what_runs_where(session: Session, picture: Picture) -> None:
    session.generate(picture, "a", max_new_tokens=1)
    placed = session.backend.placement()
    assert set(placed) == {"vision", "decoder"}
    assert all(set(counts) == {"CPU"} and counts["CPU"] > 3 for counts in placed.values())


def test_states_are_values(session: Session) -> None:
    state = session.default.run([65]).state
    with pytest.raises(AttributeError):
        state.past_text = 3  # type: ignore[misc]
    assert isinstance(state, State)


def test_what_the_pictures_were_brought_to_is_said(session: Session, picture: Picture) -> None:
    from luvc_export.cli.answer_lines import fit_line

    selection = session.generate(picture, "hello", max_new_tokens=1).selection
    assert (selection.size, selection.tiles) == ((4, 4), ((1, 1),))
    assert fit_line(selection, 1) is None
    assert fit_line(selection, 2) == "images of 4x4, of 2 ways to fit a picture"
