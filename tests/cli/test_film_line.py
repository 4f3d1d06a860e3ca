"""What `run` says of a film: nothing alarming where all of it is seen, how far apart the frames are where not."""

from __future__ import annotations

import pytest
from PIL import Image

from luvc_export.cli.answer_lines import film_line
from luvc_export.runtime.media.video import Sampled

FRAME = Image.new("RGB", (8, 8))


def test_a_film_longer_than_the_plan_is_said() -> None:
    film = Sampled((FRAME,) * 16, 16 / 30, 900)
    line = film_line(film)
    assert line.startswith("longer than is looked at: 16 of 900 frames, one every 1.88 s of 30 s (--frames N")
    facts = film.taken().to_json()
    assert (facts["frames"], facts["of"]) == (16, 900)
    assert (facts["seconds"], facts["every_seconds"]) == pytest.approx((30, 30 / 16))


def test_one_that_fits_is_no_warning() -> None:
    assert film_line(Sampled((FRAME,) * 16, 8.0, 16)) == "all 16 frames, 8 a second"
