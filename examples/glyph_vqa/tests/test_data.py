# ruff: noqa: D103
"""Pictures, questions and tokenizer: deterministic, disjoint, and right by a recomputation of their own."""

import functools
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from glyph_vqa.card import write
from glyph_vqa.tokenizer import CHAT_TEMPLATE, VOCABULARY, build_tokenizer, write_tokenizer

from luvc_export.demo import CHECKPOINT
from luvc_export.demo.questions import KINDS, cases
from luvc_export.demo.scene import COLOURS, FONTS, GRID, HEIGHT, SIZES, TOKEN, WIDTH, generator, render
from luvc_export.errors import UsageError

WORD = {"one": 1, "two": 2, "three": 3, "four": 4}
STEP = {"right": (0, 1), "left": (0, -1), "below": (1, 0)}


@functools.cache
def board(split, seed, picture, *more):
    """The picture as {(row, column): (digit, colour)}, from 1."""
    _, scene = render(generator(split, seed, picture, *more), split)
    return {(m.row + 1, m.column + 1): (m.digit, m.colour) for m in scene.marks}


def solve(kind, prompt, first, second):
    """Answer a question from the boards with its text alone, by other code than the one that asked it."""
    words = prompt.replace("?", "").replace(":", "").replace(",", "").split()
    colour = dict(first.values())
    digits = {c: [d for d, other in first.values() if other == c] for c in COLOURS}
    if kind == "colour_of_digit":
        return colour[int(words[-1])]
    if kind == "digit_of_colour":
        (digit,) = digits[words[-1]]
        return str(digit)
    if kind == "at_place":
        digit, name = first[WORD[words[4]], WORD[words[6]]]
        return f"{name} {digit}"
    if kind == "where_is":
        (place,) = [p for p, (d, _) in first.items() if d == int(words[-1])]
        name = {v: k for k, v in WORD.items()}
        return f"row {name[place[0]]} column {name[place[1]]}"
    if kind == "count":
        return str(len(digits[words[-1]]))
    if kind in ("larger", "sum"):
        (a,), (b,) = digits[words[2]], digits[words[4]]
        return str(a + b) if kind == "sum" else words[2] if a > b else words[4]
    if kind == "two_pictures":
        (b,) = [d for d, c in second.values() if c == words[-1]]
        return f"{colour[int(words[3])]} {b}"
    (digit,) = digits[words[1]]
    for step in words[3:-1]:
        if step == "next":
            digit = (digit + 1) % 10
        elif step != "then":
            ((row, column),) = [p for p, (d, _) in first.items() if d == digit]
            digit = first[row + STEP[step][0], column + STEP[step][1]][0]
    return colour[digit]


@pytest.mark.parametrize("split", ["train", "heldout", "harder"])
def test_answers_are_right_by_another_computation(split):
    asked = set()
    for case in cases(split, 12 * len(KINDS), seed=5):
        first, second = board(split, 5, case.picture), board(split, 5, case.picture, 1)
        assert solve(case.kind, case.prompt, first, second) == case.answer, case.prompt
        assert len(case.images) == (2 if case.kind == "two_pictures" else 1)
        asked.add(case.kind)
    assert asked == set(KINDS)


def test_the_same_seed_gives_the_same_cases_and_another_seed_others():
    one, again, other = (list(cases("heldout", 60, seed=s)) for s in (1, 1, 2))
    assert [(c.prompt, c.answer, c.picture) for c in one] == [(c.prompt, c.answer, c.picture) for c in again]
    assert all(np.array_equal(a.images[0], b.images[0]) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one[0].images[0], other[0].images[0])


def test_a_question_does_not_depend_on_the_other_kinds_asked():
    alone = [c.prompt for c in cases("heldout", 20, kinds=("sum",))]
    among = [c.prompt for c in cases("heldout", 20 * len(KINDS)) if c.kind == "sum"]
    assert among == alone[: len(among)]


def test_splits_share_no_picture_and_harder_has_its_own_fonts_and_sizes():
    seen = {
        split: {render(generator(split, 0, i), split)[0].tobytes() for i in range(30)}
        for split in SIZES | {"heldout": 0}
    }
    assert not seen["train"] & seen["heldout"] and not seen["train"] & seen["harder"]
    assert not set(FONTS["train"]) & set(FONTS["harder"]) and not set(SIZES["train"]) & set(SIZES["harder"])


def test_a_picture_has_at_least_a_hundred_visual_tokens_and_its_owner_map_shows_every_digit():
    image, scene = render(generator("heldout", 3), "heldout")
    assert image.shape == (HEIGHT, WIDTH, 3) and image.dtype == np.uint8
    assert HEIGHT % TOKEN == WIDTH % TOKEN == 0 and GRID[0] * GRID[1] >= 100
    assert set(scene.owner.ravel()) == {-1, *range(len(scene.marks))}


def test_unknown_splits_and_kinds_are_named_in_the_error():
    with pytest.raises(UsageError, match="did you mean 'heldout'"):
        generator("held_out")
    with pytest.raises(UsageError, match="did you mean 'colour_of_digit'"):
        next(cases("heldout", 1, kinds=("colour_of",)))


def test_the_tokenizer_round_trips_any_text_and_has_the_words_of_the_task_whole(tmp_path):
    tokenizer = build_tokenizer()
    assert tokenizer.get_vocab_size() <= VOCABULARY
    for text in ("from red go right then next: colour?", "naïve 42 – 日本\n\tok", "row two column three", "<|im_end|>"):
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text
    assert len(tokenizer.encode("sum of red and blue?").ids) == 6
    assert len(tokenizer.encode("17").ids) == 1
    assert write_tokenizer(tmp_path).to_str() == tokenizer.to_str()


def test_the_chat_template_renders_alike_in_transformers_and_in_plain_jinja(tmp_path):
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from transformers import AutoTokenizer

    write_tokenizer(tmp_path)
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "where is 7?"}]}]
    plain = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(CHAT_TEMPLATE)
    rendered = plain.render(messages=messages, add_generation_prompt=True)
    ours = AutoTokenizer.from_pretrained(tmp_path)
    assert ours.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == rendered
    assert rendered == (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>where is 7?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert ours("where is 7?").input_ids == build_tokenizer().encode("where is 7?").ids


def test_the_card_is_what_the_evaluation_of_the_bundled_weights_says() -> None:
    folder = Path(__file__).parents[1]
    result = json.loads((folder / "evaluation.json").read_text())
    assert result["weights_sha256"] == hashlib.sha256((CHECKPOINT / "model.safetensors").read_bytes()).hexdigest()
    text = write(result, json.loads((folder / "recipe.json").read_text()))
    assert text == (CHECKPOINT.parent / "MODEL_CARD.md").read_text()
    result["accuracy"]["heldout"]["mean"]["accuracy"] -= 0.01
    assert write(result, json.loads((folder / "recipe.json").read_text())) != text
