"""How much of a video a plan looks at: frames that it has no room for are missing, those it shows twice count once."""

from __future__ import annotations

import pytest
from PIL import Image

from luvc_export.runtime.media.pictures import open_picture
from luvc_export.runtime.prompt.question import OpenedClip
from luvc_export.runtime.prompt.request import _filled, _taken

FRAME = open_picture(Image.new("RGB", (8, 8)))


def clip(frames: int, of: int | None = None) -> OpenedClip:
    return OpenedClip((FRAME,) * frames, 2.0, tuple(index / 2 for index in range(frames)), of)


def test_a_list_of_more_frames_than_the_plan_has() -> None:
    whole = clip(40)
    taken = _taken(whole, _filled(whole, 16)).to_json()
    assert (taken["frames"], taken["of"], len(taken["times"])) == (16, 40, 16)
    assert (taken["seconds"], taken["every_seconds"]) == pytest.approx((20, 20 / 16))


def test_a_film_that_was_sampled_already() -> None:
    whole = clip(16, 900)
    assert _taken(whole, _filled(whole, 16)).line().startswith("longer than is looked at: 16 of 900 frames")


def test_frames_shown_twice_count_once() -> None:
    whole = clip(7)
    taken = _taken(whole, _filled(whole, 16))
    assert (taken.frames, taken.of, taken.fps, taken.times) == (7, 7, 2.0, whole.times)
    assert taken.line() == "all 7 frames, 2 a second"
