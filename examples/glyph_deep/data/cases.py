"""Cases by split: `plain`, `textured`, `pages` and `wide` are held out, `search-plain` and so on are for searching.

`clean` are the pages of `pages` on paper of one colour, as a rendered page or a screen is; `wide-clean` those of
`wide`, and `wide-bare` those without their prose, so that half of the sheet is empty. `fonts` are the pages of `pages`
in fonts that nothing was trained on, `photographs` digits on photographs (both held out only).
"""

from __future__ import annotations

from collections.abc import Iterator

from luvc_export.demo.questions import GlyphCase, ask
from luvc_export.errors import UsageError, did_you_mean

from . import page, pictures
from .questions import KINDS, PAGE
from .splits import GROUNDS, SHARES, generator

SPLITS = {
    f"{'' if share == 'heldout' else share + '-'}{ground}": (share, ground) for share in SHARES for ground in GROUNDS
} | {name: ("heldout", name) for name in ("wide", "clean", "wide-clean", "wide-bare", "fonts", "photographs")}
#: Height and width of the pictures of a ground in pixels.
SIZES = {
    "plain": (252, 336),
    "textured": (252, 336),
    "pages": tuple(28 * n for n in page.FORMATS["page"]),
    "wide": tuple(28 * n for n in page.FORMATS["wide"]),
}
#: Grounds of pages: format and paper of each.
PAGES: dict[str, tuple[str, page.Paper]] = {
    "pages": ("page", "grained"),
    "wide": ("wide", "grained"),
    "clean": ("page", "clean"),
    "wide-clean": ("wide", "clean"),
    "wide-bare": ("wide", "bare"),
    "fonts": ("page", "grained"),
}
SIZES["photographs"] = SIZES["plain"]
SIZES |= {ground: tuple(28 * n for n in page.FORMATS[form]) for ground, (form, _) in PAGES.items()}
LONGEST = 8  # tokens an answer may have, <|im_end|> included; the longest right answer has five
_QUESTION, _SECOND, _PHOTOGRAPH = 1 << 20, 1 << 21, 1 << 22  # keys of a picture's other streams


def cases(split: str, count: int, seed: int = 0, kinds: tuple[str, ...] | None = None) -> Iterator[GlyphCase]:
    """Yield `count` cases of a split: every picture or page is asked one question of each kind that it allows.

    The question of a kind about a picture depends on split, seed, picture and kind alone, not on the other kinds.

    Raises:
        UsageError: There is no split or kind of that name.
    """
    if split not in SPLITS:
        raise UsageError("unknown split", where="glyph-deep", got=repr(split), expected=did_you_mean(split, SPLITS))
    share, ground = SPLITS[split]
    known = KINDS["pages" if ground in PAGES else "textured" if ground == "photographs" else ground]
    for kind in kinds or ():
        if kind not in known:
            raise UsageError("unknown kind", where="glyph-deep", got=repr(kind), expected=did_you_mean(kind, known))
    drawn, number = 0, 0
    while drawn < count:
        for case in of_picture(share, ground, seed, number, kinds or known):
            if drawn < count:
                drawn += 1
                yield case
        number += 1


def of_picture(share: str, ground: str, seed: int, number: int, kinds: tuple[str, ...]) -> Iterator[GlyphCase]:
    """Yield the cases about one picture or page."""
    if ground in PAGES:
        form, paper = PAGES[ground]
        which = (seed, list(page.FORMATS).index(form), number)
        fonts = page.OTHER_FONTS if ground == "fonts" else page.FONTS
        image, layout, _ = page.render(generator(share, "pages", *which), share, form, paper, fonts)
        for kind in kinds:
            rng = generator(share, "pages", *which, _QUESTION, list(PAGE).index(kind))
            asked = PAGE[kind](rng, layout)
            if asked is not None:
                yield GlyphCase((image,), asked.text, asked.answer, kind, number)
        return
    own = (share, "textured", _PHOTOGRAPH, seed) if ground == "photographs" else (share, ground, seed)
    image, scene = pictures.render(generator(*own, number), share, ground)
    second, other = pictures.render(generator(*own, number, _SECOND), share, ground)
    for kind in kinds:
        question = ask(kind, generator(*own, number, _QUESTION, KINDS[own[1]].index(kind)), scene, other)
        if question is not None:
            images = (image, second) if kind == "two_pictures" else (image,)
            yield GlyphCase(images, question.text, question.answer, kind, number)
