"""Animated pictures are decoded in a helper process, within limits that are read before anything is decompressed."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from luvc_export.errors import UsageError
from luvc_export.runtime.confined.helpers import Helpers
from luvc_export.runtime.media import animation, decoding_task
from luvc_export.runtime.media.animation import read_header
from luvc_export.runtime.media.decoding import webp_size
from luvc_export.runtime.media.film import MAX_FRAME_PIXELS, MAX_TAKEN_PIXELS
from luvc_export.runtime.media.video import open_video


def animated(form: str, size: tuple[int, int], frames: int, milliseconds: int = 100, **options: Any) -> bytes:
    """A file of flat frames, each of another colour."""
    buffer = io.BytesIO()
    shown = [Image.new("RGB", size, (index * 37 % 256, index * 91 % 256, 90)) for index in range(frames)]
    if form == "WEBP":
        options = {"lossless": True, "quality": 0, "method": 0, "kmin": 1, "kmax": 1, **options}
    shown[0].save(buffer, form, save_all=True, append_images=shown[1:], duration=milliseconds, **options)
    return buffer.getvalue()


def with_durations(data: bytes, milliseconds: int) -> bytes:
    """A WebP whose frames are each shown so long."""
    changed, at = bytearray(data), data.find(b"ANMF")
    while at >= 0:
        changed[at + 20 : at + 23] = milliseconds.to_bytes(3, "little")
        at = data.find(b"ANMF", at + 1)
    return bytes(changed)


def repeated(data: bytes, times: int) -> bytes:
    """A WebP that shows its frames so many times."""
    at = data.find(b"ANMF")
    whole = data[:at] + times * data[at:]
    return whole[:4] + (len(whole) - 8).to_bytes(4, "little") + whole[8:]


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_blocks_say_size_frames_and_times_as_decoding_does(form: str) -> None:
    data = animated(form, (40, 30), 5, 120)
    with Image.open(io.BytesIO(data)) as image:
        assert read_header(data, "a") == animation.Animation(image.size, (120.0,) * getattr(image, "n_frames", 0))


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_an_animation_is_not_decoded_in_this_process(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = animated(form, (40, 30), 5)

    def here(*arguments: object, **named: object) -> None:
        pytest.fail("opened in this process")

    monkeypatch.setattr(Image, "open", here)
    monkeypatch.setattr(ImageFile.ImageFile, "load", here)
    shown = open_video(data, 5)
    assert [np.asarray(frame)[3, 3].tolist() for frame in shown.frames] == [
        [index * 37 % 256, index * 91 % 256, 90] for index in range(5)
    ]
    assert shown.fps == pytest.approx(10) and shown.of == 5


def test_memory_and_seconds_of_this_process_are_bounded() -> None:
    """800 bytes that took 612 MB and 1.6 s of computing here: what comes back is at most ``MAX_TAKEN_PIXELS``."""
    data = repeated(animated("WEBP", (2896, 2896), 2), 8)
    assert len(data) < 2000
    script = f"""
import resource, sys, time
from luvc_export.runtime.media.video import open_video
def held(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before, begin = held(), time.process_time()
frames = open_video(sys.stdin.buffer.read(), 16).frames
assert len(frames) == 16 and sum(frame.width * frame.height for frame in frames) <= {MAX_TAKEN_PIXELS}
print(held() - before, time.process_time() - begin)
"""
    run = subprocess.run([sys.executable, "-c", script], input=data, stdout=subprocess.PIPE, check=True, timeout=120)
    kibibytes, seconds = map(float, run.stdout.split())
    assert kibibytes < 300 * 1024, "the reply and its pictures, 96 MiB each"
    assert seconds < 1


def claiming(data: bytes, side: int) -> bytes:
    """An animated WebP whose canvas claims to be ``side`` pixels square."""
    assert data[12:16] == b"VP8X"
    return data[:24] + 2 * (side - 1).to_bytes(3, "little") + data[30:]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (
            lambda: claiming(animated("WEBP", (8, 8), 2), 4000),
            r"frames of 4000x4000(.|\n)*at most 9,437,184 pixels each",
        ),
        (
            lambda: claiming(animated("WEBP", (8, 8), 300), 2048),
            r"300 frames of 2048x2048(.|\n)*at most 1,073,741,824 pixels in",
        ),
        (lambda: with_durations(animated("WEBP", (4, 4), 4), 2**24 - 1), r"too long(.|\n)*18\.6 hours(.|\n)*12 hours"),
    ],
    ids=["frames", "pixels", "hours"],
)
def test_limits_are_known_before_decoding(data: Any, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = data()
    monkeypatch.setattr(Image, "open", lambda *arguments, **named: pytest.fail("opened"))
    begin = time.process_time()
    with pytest.raises(UsageError, match=what):
        read_header(file, "a.webp")
    reply, pixels = decoding_task.task(
        {"frames": 4, "fps": None, "default_fps": 2.0, "where": "a.webp", "allowed": None}, file
    )
    assert reply["kind"] == "UsageError" and not pixels
    assert time.process_time() - begin < 1


@pytest.mark.slow(beside="runtime/media/test_picture_limits.py::test_decoding_has_limits_on_time_and_memory")
def test_a_helper_that_takes_too_much_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = Image.effect_noise((1200, 1200), 90).convert("RGB")
    buffer = io.BytesIO()
    noise.save(buffer, "WEBP", save_all=True, append_images=[noise.rotate(90), noise.rotate(180)] * 3, method=0)
    module = animation._helpers._module
    for data, helpers, got in (
        (buffer.getvalue(), Helpers(module, animation.MEMORY, 0.05), "more than 0.05 s"),
        (animated("PNG", (1200, 1200), 3), Helpers(module, 2**22, 60), "more memory than it may have"),
    ):
        monkeypatch.setattr(animation, "_helpers", helpers)
        with pytest.raises(UsageError, match=r"the animated picture takes too much time or memory") as caught:
            open_video(data, 7)
        helpers.close()
        assert caught.value.got == got and "shorter" in str(caught.value.fix)


def test_a_size_is_read_from_each_kind_of_webp() -> None:
    for options in ({"lossless": True}, {"quality": 50}, {"quality": 50, "exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}):
        buffer = io.BytesIO()
        Image.effect_noise((601, 333), 50).convert("RGB").save(buffer, "WEBP", **options)
        assert webp_size(buffer.getvalue()) == (601, 333), options
    assert webp_size(b"RIFF\0\0\0\0WEBP") is None


def test_blocks_that_are_cut_or_lie_end_in_our_error() -> None:
    dice = np.random.default_rng(57)
    for form in ("GIF", "WEBP", "PNG"):
        data = animated(form, (40, 30), 4)
        for cut in range(0, len(data), 7):
            _any(data[:cut])
        for _ in range(300):
            changed = bytearray(data)
            for place in dice.integers(8, len(data), 3):
                changed[place] = dice.integers(256)
            _any(bytes(changed))


def _any(data: bytes) -> None:
    try:
        header = read_header(data, "a")
    except UsageError:
        return
    assert len(header.durations) >= 2 and header.size[0] * header.size[1] <= MAX_FRAME_PIXELS


def test_a_default_picture_before_an_animated_png_is_a_frame_that_is_never_shown(tmp_path: Path) -> None:
    data = animated("PNG", (20, 10), 3, 100, default_image=True)
    assert read_header(data, "a").durations == (0.0, 100.0, 100.0)
    shown = open_video(data, 2)
    assert (shown.of, np.asarray(shown.frames[0])[0, 0].tolist()) == (3, [37, 91, 90])


def test_a_png_that_lies_of_its_frames_is_damaged() -> None:
    data = animated("PNG", (20, 10), 3)
    at = data.index(b"acTL")
    lying = data[: at + 4] + struct.pack(">II", 2, 0)
    lying += struct.pack(">I", zlib.crc32(lying[at:])) + data[at + 16 :]
    with pytest.raises(UsageError, match="damaged or truncated"):
        open_video(lying, 3)
