"""What stands for a video in a prompt: its images one after another, and what a family writes around them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from luvc_export.core.tiling import Video
from luvc_export.runtime.prompt.question import VideoClip

# fmt: off
_UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)
# fmt: on
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def video_text(video: Video, images: int, clip: VideoClip) -> tuple[str | int, ...]:
    """What stands for a video that became so many images: text, and the image token's id once an image.

    Times are those of the clip's frames, or, where nobody knows them, as far apart as frames of its rate are.
    """
    times = clip.times or tuple(index / clip.fps for index in range(len(clip.frames)))
    seconds = len(clip.frames) / clip.fps + 1e-6  # a film of 3 s is not one of 2.9999999
    opening = video.opening.replace("{count}", in_words(images))
    parts: list[Any] = [opening.replace("{duration}", str(timedelta(seconds=int(seconds))))]
    for index in range(images):
        first, last = times[index * video.frames], times[min((index + 1) * video.frames, len(times)) - 1]
        values = {
            "{seconds}": f"{(first + last) / 2:.1f}",
            "{clock}": f"{int(first // 60):02d}:{int(first % 60):02d}",
            "{number}": str(index + 1),
        }
        parts += [_filled(part, values) if isinstance(part, str) else part for part in video.written]
        parts.append(video.between if index + 1 < images else video.closing)
    return tuple(part for part in parts if part != "")


def in_words(number: int) -> str:
    """A number of frames, 0 to 999,999, as ``num2words`` writes it in English: one hundred and twenty-eight."""
    if number < 20:
        return _UNITS[number]
    if number < 100:
        return _TENS[number // 10] + (f"-{_UNITS[number % 10]}" if number % 10 else "")
    if number < 1000:
        hundreds, rest = divmod(number, 100)
        return f"{_UNITS[hundreds]} hundred" + (f" and {in_words(rest)}" if rest else "")
    thousands, rest = divmod(number, 1000)
    joined = "" if not rest else f", {in_words(rest)}" if rest >= 100 else f" and {in_words(rest)}"
    return f"{in_words(thousands)} thousand{joined}"


def _filled(text: str, values: dict[str, str]) -> str:
    """Each of the few names there are; a stranger's bundle may have written others, which stay."""
    for name, value in values.items():
        text = text.replace(name, value)
    return text
