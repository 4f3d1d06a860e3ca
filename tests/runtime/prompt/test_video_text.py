"""What is written around frames: numbers in words, times, and nothing that a stranger's bundle asks for beside them."""

from __future__ import annotations

import pytest

from luvc_export.core.tiling import Video
from luvc_export.runtime.prompt.question import VideoClip
from luvc_export.runtime.prompt.video_text import in_words, video_text


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (16, "sixteen"),
        (40, "forty"),
        (64, "sixty-four"),
        (100, "one hundred"),
        (128, "one hundred and twenty-eight"),
        (1000, "one thousand"),
        (2005, "two thousand and five"),
        (12345, "twelve thousand, three hundred and forty-five"),
    ],
)
def test_numbers_are_written_as_num2words_writes_them(number: int, words: str) -> None:
    """Its own words; all numbers to 12,000 and every 97th of a million were compared with it."""
    assert in_words(number) == words


def test_images_have_numbers_times_and_what_stands_around_them() -> None:
    video = Video("<video>", 1, ("{number} at {clock}: ", 7), opening="{count}, {duration}\n", between=";", closing=".")
    clip = VideoClip((None, None), 2 / 3725.2, (0.4, 3599.9))  # type: ignore[arg-type]
    assert video_text(video, 2, clip) == ("two, 1:02:05\n", "1 at 00:00: ", 7, ";", "2 at 59:59: ", 7, ".")


def test_pairs_are_at_the_middle_of_their_time() -> None:
    """The last frame of an odd number is shown twice."""
    clip = VideoClip((None,) * 3, 2.0)  # type: ignore[arg-type]
    assert video_text(Video("v", 2, ("<{seconds}>", 7)), 2, clip) == ("<0.2>", 7, "<1.0>", 7)


@pytest.mark.parametrize("part", ["{", "{seconds.__class__}", "{0}", "{seconds:>99999999}", "{unknown}"])
def test_other_braces_stay(part: str) -> None:
    clip = VideoClip((None,), 1.0)  # type: ignore[arg-type]
    assert video_text(Video("v", 1, (part, 7)), 1, clip) == (part, 7)
