"""Text-like units tell a page from digits, and paper without ink has none."""

from __future__ import annotations

import numpy as np
from glyph_deep.studies.plans.content import LEAST, pictures, text_share


def test_pages_have_text_and_digits_have_less() -> None:
    """A page is far above the bar, digits are far below it, and bare paper is at nothing."""
    shares = {split: text_share(next(pictures(split))) for split in ("search-plain", "search-pages")}
    assert shares["search-pages"] > LEAST > 2 * shares["search-plain"] > 0
    assert text_share(np.full((56, 84, 3), 200, np.uint8)) == 0


def test_a_picture_is_met_once() -> None:
    """Questions about one picture follow each other."""
    some = pictures("search-plain")
    first, second = next(some), next(some)
    assert first.shape == second.shape and (first != second).any()
