# ruff: noqa: D103
"""Grounds, pages and questions: deterministic, disjoint by seed and layout, right by a recomputation of their own."""

import numpy as np
import pytest
from glyph_deep.data import page, pictures
from glyph_deep.data.cases import SIZES, SPLITS, cases
from glyph_deep.data.grounds import LEAST_CONTRAST, clear, textured
from glyph_deep.data.labels import NAMES_OF_FIELDS, ROLES, of_page, of_scene
from glyph_deep.data.questions import KINDS, of_picture
from glyph_deep.data.splits import SHARES, belongs, generator
from glyph_deep.data.tokenizer import VOCABULARY, build_tokenizer

from luvc_export.demo.questions import ask
from luvc_export.demo.scene import COLOURS, background, glyph
from luvc_export.errors import UsageError


def test_the_same_seed_gives_the_same_cases_and_another_seed_others():
    for split in ("textured", "pages"):
        one, again, other = (list(cases(split, 12, seed=s)) for s in (1, 1, 2))
        assert [(c.prompt, c.answer) for c in one] == [(c.prompt, c.answer) for c in again]
        assert all(np.array_equal(a.images[0], b.images[0]) for a, b in zip(one, again, strict=True))
        assert not np.array_equal(one[0].images[0], other[0].images[0])
        assert one[0].images[0].shape == (*SIZES[split], 3)


def test_splits_share_neither_picture_nor_layout():
    for ground, render, layout in (
        ("textured", lambda rng, share: pictures.render(rng, share, "textured"), lambda s: pictures.places(s.marks)),
        ("pages", lambda rng, share: page.render(rng, share, "short")[:2], lambda p: p.layout),
    ):
        seen = {}
        for share in SHARES:
            drawings = [render(generator(share, ground, 0, i), share) for i in range(12)]
            assert all(belongs(layout(thing), share) for _, thing in drawings)
            seen[share] = {image.tobytes() for image, _ in drawings}
        assert len(set().union(*seen.values())) == sum(map(len, seen.values())) == 12 * len(SHARES)
    some = [("any", i) for i in range(80)]
    assert all(sum(belongs(layout, share) for share in SHARES) == 1 for layout in some)
    assert all(any(belongs(layout, share) for layout in some) for share in SHARES)


def test_a_question_does_not_depend_on_the_other_kinds_asked():
    for kind in ("follow", "cell"):
        among = [c.prompt for c in cases("pages", 40) if c.kind == kind]
        assert among == [c.prompt for c in cases("pages", 12, kinds=(kind,))][: len(among)] != []


def board(number, split="heldout"):
    """A page as text alone: {line: (key, {column or "": figure}, reference)}."""
    form = list(page.FORMATS).index("page")
    _, layout, _ = page.render(generator(split, "pages", 0, form, number), split, "page")
    places = {}
    for entry in layout.entries:
        name = page.HEADS[entry.head] if entry.head >= 0 else ""
        key = page.KEYS[entry.key]
        figures = places.setdefault(entry.line, (key, {}, page.KEYS[entry.ref] if entry.ref >= 0 else None))[1]
        figures[name] = str(entry.figure)
    return places


def solve(prompt, lines):
    """Answer a question from the page's lines with its text alone, by other code than the one that asked it."""
    words = prompt.strip("?").replace(":", "").split()
    line_of = {key: line for line, (key, _, _) in lines.items()}
    if words[0] == "from":
        line = line_of[words[1]]
        for step in words[3:-1]:
            line = {"above": line - 1, "below": line + 1, "then": line, "follow": line_of.get(lines[line][2])}[step]
        return lines[line][1][""]
    line = int(words[-1]) if words[1] == "at" else line_of[words[-1]]
    if words[0] in ("key", "line"):
        return lines[line][0] if words[0] == "key" else str(line)
    return lines[line][1][words[0] if words[0] != "figure" else ""]


@pytest.mark.slow(beside="../examples/glyph_deep/tests/test_deep_data.py::test_splits_share_neither_picture_nor_layout")
def test_answers_about_pages_are_right_by_another_computation():
    asked = set()
    for case in cases("pages", 90):
        assert solve(case.prompt, board(case.picture)) == case.answer, case.prompt
        asked.add(case.kind)
    assert asked == set(KINDS["pages"])


def test_a_page_has_text_in_at_least_25_lines_and_its_labels_stand_on_ink():
    for form in page.FORMATS:
        image, layout, shown = page.render(generator("train", "pages", 3, 1), "train", form)
        dark = image.astype(int).sum(-1) < np.median(image.astype(int).sum(-1)) - 150
        by_unit = dark.reshape(layout.rows, 28, layout.columns, 28).transpose(0, 2, 1, 3)[..., 2:-2, 2:-2].sum((2, 3))
        labels = of_page(layout, shown).labels.reshape(layout.rows, layout.columns, -1)
        role = labels[..., NAMES_OF_FIELDS.index("role")]
        assert (by_unit[role == ROLES.index("figure")] >= 10).all()
        assert (by_unit.sum(1) > 20).all(), "every row of units has a line of text"
        assert 0.02 < shown.ink_share < 0.2
        assert len({e.unit for e in layout.entries}) == len(layout.entries)
    assert (
        page.FORMATS["page"][0] >= 25 and np.prod(page.FORMATS["page"]) >= 256 and np.prod(page.FORMATS["wide"]) >= 400
    )


def test_the_ground_under_a_digit_is_moved_away_from_its_colour_and_elsewhere_stays():
    _, scene = pictures.render(generator("train", "plain", 0, 0), "train", "plain")
    mark = scene.marks[0]
    h, w = glyph(mark.font, mark.size, mark.digit).shape
    pixels = np.full((252, 336, 3), COLOURS[mark.colour], dtype=np.uint8)
    before = pixels.copy()
    clear(pixels, mark)
    under = pixels[mark.y : mark.y + h, mark.x : mark.x + w].astype(float) - COLOURS[mark.colour]
    assert np.sqrt((under.mean((0, 1)) ** 2).sum()) >= LEAST_CONTRAST
    far = np.ones(pixels.shape[:2], dtype=bool)
    far[max(0, mark.y - 6) : mark.y + h + 6, max(0, mark.x - 6) : mark.x + w + 6] = False
    assert np.array_equal(pixels[far], before[far])


def test_textured_grounds_are_busier_than_plain_ones():
    def busy(ground):
        coarse = ground.astype(float).reshape(42, 6, 56, 6, 3).mean((1, 3))
        return np.abs(np.diff(coarse, axis=1)).mean()

    marks = pictures.lay(np.random.default_rng(0), "train")
    grounds = [textured(generator("train", "textured", i), marks) for i in range(8)]
    pale = [busy(background(generator("train", "plain", i), False)) for i in range(8)]
    assert np.mean([busy(ground) for ground, _ in grounds]) > 3 * np.mean(pale)
    assert all(0.2 <= strength <= 1 for _, strength in grounds)


def test_lookups_lead_to_the_marks_that_the_bundled_trail_names():
    _, scene = pictures.render(generator("train", "plain", 0, 1), "train", "plain")
    rng = np.random.default_rng(0)
    for kind in ("place_then_next", "next_then_place", "sum", "at_place"):
        question = ask(kind, rng, scene, scene)
        looks = of_picture(question, scene).looks
        assert [None if k is None else scene.marks[k.entry] for k in looks] == list(question.trail)
    assert looks[0] is None and looks[1].hops == 1 and looks[1].sought == ("row", "column")
    assert of_scene(scene).table.shape == (len(scene.marks), len(NAMES_OF_FIELDS))


def test_unknown_splits_grounds_and_kinds_are_named_in_the_error():
    with pytest.raises(UsageError, match=r"unknown split(.|\n)*did you mean 'pages'"):
        next(cases("page", 1))
    with pytest.raises(UsageError, match=r"unknown kind(.|\n)*did you mean 'follow'"):
        next(cases("pages", 1, kinds=("folow",)))
    with pytest.raises(UsageError, match=r"unknown ground(.|\n)*did you mean 'textured'"):
        generator("train", "texture")
    assert {"pages", "search-textured", "train-plain", "wide"} <= set(SPLITS)


def test_every_word_of_the_task_is_one_token():
    tokenizer = build_tokenizer()
    assert tokenizer.get_vocab_size() <= VOCABULARY
    for word in (*page.KEYS, *page.HEADS, *page.STEPS, "figure", "line", "key", *map(str, range(100))):
        assert len(tokenizer.encode(word).ids) == len(tokenizer.encode(f" {word}").ids) == 1, word
    text = "naïve 42 – 日本\n\tok from pear go follow then below: figure?<|im_end|>"
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_other_fonts_print_the_same_pages() -> None:
    assert not set(page.FONTS) & set(page.OTHER_FONTS)
    usual, other = list(cases("pages", 12)), list(cases("fonts", 12))
    assert [(case.prompt, case.answer) for case in usual] == [(case.prompt, case.answer) for case in other]
    assert all((one.images[0] != two.images[0]).any() for one, two in zip(usual, other, strict=True))


def test_photographs_lie_under_digits() -> None:
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    shown = {case.picture: case.images[0] for case in cases("photographs", 40)}
    assert len(shown) > 1 and all(image.shape == (*SIZES["photographs"], 3) for image in shown.values())
    assert all((one != two).any() for one, two in zip(shown.values(), list(shown.values())[1:], strict=False))
