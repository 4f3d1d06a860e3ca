from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_bundle
from tokenizers import processors

from luvc_export.bundle import folder as bundles
from luvc_export.bundle.folder import Bundle
from luvc_export.core.tiling import Prefix
from luvc_export.errors import BundleError, UsageError
from luvc_export.runtime.prompt.encoder import PromptEncoder
from luvc_export.runtime.prompt.question import question

IMAGE = tiny_bundle.IMAGE_TOKEN
ONE = np.zeros((4, 4, 3), np.uint8)


def text_ids(text: str) -> list[int]:
    ids: list[int] = tiny_bundle.tokenizer().encode(text).ids
    return ids


def test_pictures_come_first(bundle: Bundle) -> None:
    encoder = PromptEncoder(bundle)
    assert encoder.encode(question([ONE, ONE], "hi", None)) == [IMAGE, IMAGE, *text_ids("hi")]
    assert encoder.encode(question(ONE, "hi", None)) == [IMAGE, *text_ids("hi")]
    assert encoder.encode(question(None, "hi", None)) == text_ids("hi")


def test_messages_say_where_the_pictures_stand(bundle: Bundle) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}, {"type": "image"}]
    asked = question([ONE, ONE], None, [{"role": "user", "content": parts}])
    assert PromptEncoder(bundle).encode(asked) == [*text_ids("a"), IMAGE, *text_ids("b"), IMAGE]


def test_messages_may_carry_their_pictures(bundle: Bundle) -> None:
    parts = [{"type": "image", "url": "a.png"}, {"type": "text", "text": "?"}, {"type": "image", "image": ONE}]
    asked = question(None, None, [{"role": "user", "content": parts}])
    assert asked.media[0] == "a.png"
    assert asked.media[1] is ONE
    assert PromptEncoder(bundle).encode(asked) == [IMAGE, *text_ids("?"), IMAGE]


@pytest.mark.parametrize(
    ("image", "prompt", "messages", "words"),
    [
        (None, None, None, "neither"),
        (None, "a", [{"role": "user", "content": "a"}], "both"),
        (None, 7, None, "int"),
        (None, None, ["a"], "messages[0]"),
        (None, None, [{"content": "a"}], "messages[0]"),
        (ONE, None, [{"role": "user", "content": [{"type": "image", "image": ONE}]}], "two ways"),
        (None, None, [{"role": "user", "content": [{"type": "image", "image": ONE}, {"type": "image"}]}], "1 of 2"),
    ],
)
def test_wrong_ways_of_asking(image: Any, prompt: Any, messages: Any, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        question(image, prompt, messages)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("image", "prompt", "messages", "words"),
    [
        (ONE, "what is <image>?", None, "places for 2 pictures, but 1 are given"),
        (ONE, None, [{"role": "user", "content": "a"}], "places for 0 pictures, but 1 are given"),
        (None, None, [{"role": "user", "content": [{"type": "image"}]}], "places for 1 pictures, but 0 are given"),
    ],
)
def test_placeholders_and_pictures_must_agree(
    bundle: Bundle, image: Any, prompt: Any, messages: Any, words: str
) -> None:
    with pytest.raises(UsageError) as caught:
        PromptEncoder(bundle).encode(question(image, prompt, messages))
    assert words in str(caught.value)
    assert "one <image> per picture" in str(caught.value)


def test_a_bundle_without_a_template_takes_plain_prompts(fresh: Path) -> None:
    bundle = rewritten(fresh, "tokenizer_config.json", "{}")
    encoder = PromptEncoder(bundle)
    assert encoder.encode(question(ONE, "hi", None)) == [IMAGE, *text_ids("hi")]
    parts = [{"type": "image"}, {"type": "text", "text": "h"}, {"type": "text", "text": "i"}]
    for asked in (question(ONE, None, [{"role": "user", "content": parts}]), question(ONE, "hi", None)):
        assert encoder.encode(asked) == [IMAGE, *text_ids("hi")]
    assert encoder.encode(question(None, None, [{"role": "user", "content": "hi"}])) == text_ids("hi")


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}, {"role": "user", "content": "?"}],
        [{"role": "system", "content": "hi"}],
        [{"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "image"}]}],
        [{"role": "user", "content": []}],
        [{"role": "user", "content": [{"type": "text"}]}],
    ],
)
def test_a_bundle_without_a_template_takes_one_question(fresh: Path, messages: list[Any]) -> None:
    encoder = PromptEncoder(rewritten(fresh, "tokenizer_config.json", "{}"))
    with pytest.raises(UsageError, match=r"takes one question at a time(.|\n)*pictures first, then text"):
        encoder.encode(question(None, None, messages))


def test_what_stands_around_a_prompt_that_is_seen_both_ways(fresh: Path) -> None:
    """After the last picture and at the end; the tokenizer adds nothing of its own."""
    bundle = rewritten(fresh, "tokenizer_config.json", "{}")
    prompt = replace(bundle.manifest.prompt, prefix=Prefix("<a>", "!"))
    encoder = PromptEncoder(replace(bundle, manifest=replace(bundle.manifest, prompt=prompt)))
    assert encoder.encode(question([ONE, ONE], "hi", None)) == [IMAGE, IMAGE, *text_ids("<a>hi!")]
    prompt = replace(prompt, prefix=Prefix("<none>", "!"))
    with pytest.raises(BundleError, match=r"what stands after the pictures(.|\n)*'<none>'"):
        PromptEncoder(replace(bundle, manifest=replace(bundle.manifest, prompt=prompt)))


def test_stored_truncation_and_padding_are_off(fresh: Path) -> None:
    tokenizer = tiny_bundle.tokenizer()
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=50)
    encoder = PromptEncoder(rewritten(fresh, "tokenizer.json", tokenizer.to_str()))
    assert encoder.encode(question(None, "hello", None)) == text_ids("hello")


@pytest.mark.parametrize(("template", "extra"), [("{{ messages[0].content[0].text }}", 1), ("{{ bos_token }}x", 1)])
def test_a_bos_token_is_added_once(fresh: Path, template: str, extra: int) -> None:
    tokenizer = tiny_bundle.tokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(single="<a> $A", special_tokens=[("<a>", 258)])
    bundle = rewritten(fresh, "tokenizer.json", tokenizer.to_str())
    config = json.dumps({"chat_template": template, "bos_token": "<a>"})
    ids = PromptEncoder(rewritten(fresh, "tokenizer_config.json", config, bundle)).encode(question(None, "x", None))
    assert ids == [258, *text_ids("x")]
    assert ids.count(258) == extra


def test_a_broken_tokenizer_is_named(fresh: Path) -> None:
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        PromptEncoder(rewritten(fresh, "tokenizer.json", "{}"))


def rewritten(folder: Path, name: str, content: str, bundle: Bundle | None = None) -> Bundle:
    manifest = (bundle or tiny_bundle.write(folder)).manifest
    (folder / name).write_text(content, encoding="utf-8")
    manifest.files[name] = bundles.record(folder / name)
    bundles.write_manifest(folder, manifest)
    return bundles.load(folder)


@pytest.mark.parametrize("fps", [0, -1, 10**400, float("nan"), float("inf"), True, "2", 1001])
def test_frames_a_second_have_bounds(fps: object) -> None:
    with pytest.raises(UsageError, match="frames per second is a number above 0"):
        question(None, "what?", None, ["frame"], fps)  # type: ignore[arg-type]


def test_half_a_character_is_the_prompt_s_fault() -> None:
    asked = [{"role": "user", "content": [{"type": "text", "text": "\ud800"}]}]
    for prompt, messages in (("a\udfffb", None), (None, asked), (None, [{"role": "user", "content": "\ud800"}])):
        with pytest.raises(UsageError, match="the prompt holds half a character"):
            question(None, prompt, messages)
    named = [{"role": "user", "content": [{"type": "image", "path": "\udcff.png"}]}]
    assert question(None, None, named).media == ("\udcff.png",)  # a file's name need be no text
