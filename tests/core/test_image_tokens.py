"""Ceilings of visual tokens, and the sizes they make."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luvc_export.core.image_tokens import AUTO, MOST, ceiling, ceilings, shapes, size_of
from luvc_export.errors import UsageError


@given(st.integers(1, MOST), st.sampled_from([14, 28, 32]))
def test_a_size_stays_below_its_ceiling_and_one_more_row_or_column_would_not(tokens: int, unit: int) -> None:
    height, width = size_of(tokens, unit)
    rows, columns = height // unit, width // unit
    assert (height % unit, width % unit) == (0, 0)
    assert rows * columns <= tokens < min((rows + 1) * columns + columns, rows * (columns + 1))
    assert rows <= columns <= rows + 2


@given(st.sampled_from([70, 140, 280, 560, 1120]), st.integers(1, 60), st.integers(1, 60))
def test_a_shape_has_the_grid_of_gemmas_processor(tokens: int, width: int, height: int) -> None:
    from transformers.models.gemma4.image_processing_pil_gemma4 import get_aspect_ratio_preserving_size

    size = size_of(tokens, 48, (width, height))
    assert size == get_aspect_ratio_preserving_size(480 * height, 480 * width, 16, 9 * tokens, 3)


def test_shapes_stand_behind_their_ceilings() -> None:
    assert shapes("280, 280@16:9,70@3:4") == ((280, None), (280, (16, 9)), (70, (3, 4)))
    assert shapes("auto") == tuple((tokens, None) for tokens in AUTO)
    assert shapes("auto", (70, 140)) == ((70, None), (140, None))
    for text in ("280@", "280@16", "280@0:9", "280,280", "280@4:3,280@4:3", "@4:3", "280@4:3:2"):
        with pytest.raises(UsageError, match="cannot read the ceilings"):
            shapes(text)


@pytest.mark.parametrize(("text", "numbers"), [("256", (256,)), ("256, 1024", (256, 1024)), ("auto", AUTO)])
def test_what_is_read(text: str, numbers: tuple[int, ...]) -> None:
    assert ceilings(text) == numbers


@pytest.mark.parametrize("text", ["", "0", "256,256", "1e3", "-4", "70000", "9" * 30, "256,,4", "Auto"])
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="cannot read the ceilings") as caught:
        ceilings(text)
    assert "such as 256,1024; or auto" in str(caught.value)


def test_a_run_has_one_ceiling_or_none() -> None:
    assert (ceiling("256"), ceiling(" auto ")) == (256, None)
    with pytest.raises(UsageError, match="a picture has one ceiling") as caught:
        ceiling("256,1024")
    assert "--image-tokens" in str(caught.value)
