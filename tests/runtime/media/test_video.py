"""Videos from folders and animated pictures: what is sampled, how fast it runs, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from luvc_export.errors import UsageError
from luvc_export.runtime.media import animation, video
from luvc_export.runtime.media.video import open_video, spread


def shade(value: int) -> Image.Image:
    return Image.new("RGB", (8, 6), (value, value, value))


def values(sampled: video.Sampled) -> list[int]:
    return [int(np.asarray(frame)[0, 0, 0]) for frame in sampled.frames]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve frames whose names sort by number, and what is no frame."""
    for index in range(12):
        shade(index * 10).save(tmp_path / f"frame{index}.png")
    (tmp_path / "notes.txt").write_text("no frame")
    (tmp_path / ".hidden.png").write_text("no frame")
    return tmp_path


def test_a_folder_is_sampled_evenly_in_the_order_of_its_numbers(folder: Path) -> None:
    sampled = open_video(folder, 4, fps=6)
    assert values(sampled) == [0, 30, 60, 90]
    assert (sampled.fps, sampled.of) == (2.0, 12)
    assert len(open_video(folder, 40).frames) == 12
    assert open_video(folder, 40).fps == video.DEFAULT_FPS


@pytest.mark.parametrize("form", ["gif", "webp", "png"])
def test_animated_pictures_are_sampled_in_time(form: str, tmp_path: Path) -> None:
    """The first frame stays three times as long as the others: it is half of the film."""
    path = tmp_path / f"film.{form}"
    frames = [shade(value) for value in (0, 80, 160, 240)]
    options: dict[str, Any] = {"lossless": True} if form == "webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=[600, 200, 200, 200], **options)
    sampled = open_video(path, 4)
    assert values(sampled) == [0, 0, 80, 160]
    assert sampled.fps == pytest.approx(4 / 1.2)
    assert sampled.of == 4
    assert open_video(path, 2).fps == pytest.approx(2 / 1.2)
    assert open_video(path, 4, fps=2).fps == pytest.approx(2)
    assert values(open_video(path, 4, fps=2)) == [0, 80, 160, 240]


def test_progress_reaches_the_end(folder: Path) -> None:
    shares: list[float] = []
    open_video(folder, 3, progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_spread() -> None:
    assert spread("abcdef", 3) == ("a", "c", "e")
    assert spread("ab", 5) == ("a", "a", "a", "b", "b")
    assert spread("abc", 3) == ("a", "b", "c")


def test_what_is_no_video(tmp_path: Path) -> None:
    film, still, empty = tmp_path / "film.mp4", tmp_path / "still.gif", tmp_path / "empty"
    film.write_bytes(b"no film at all" + bytes(100))
    shade(3).save(still)
    empty.mkdir()
    with pytest.raises(UsageError, match=r"no film that is read(.|\n)*film\.mp4(.|\n)*ffmpeg -i .*film\.mp4"):
        open_video(film)
    with pytest.raises(UsageError, match=r"a still picture(.|\n)*pass it as a picture"):
        open_video(still)
    with pytest.raises(UsageError, match=r"the folder holds no pictures(.|\n)*ffmpeg"):
        open_video(empty)
    with pytest.raises(UsageError, match="there is no such video"):
        open_video(tmp_path / "gone")
    with pytest.raises(UsageError, match="frames per second"):
        open_video(empty, fps=0)
    with pytest.raises(UsageError, match="a video needs frames"):
        open_video(empty, 0)


def test_damaged_videos_are_named(folder: Path, tmp_path: Path) -> None:
    (folder / "frame3.png").write_bytes((folder / "frame3.png").read_bytes()[:40])
    with pytest.raises(UsageError, match=r"frame3\.png"):
        open_video(folder, 12)
    path = tmp_path / "film.webp"
    random = np.random.default_rng(0)
    frames = [Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(4)]
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    path.write_bytes(path.read_bytes()[:-9000])
    with pytest.raises(UsageError, match=r"film\.webp"):
        open_video(path, 4)


def test_large_videos_are_refused_before_they_are_decompressed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "film.gif"
    shade(0).save(path, save_all=True, append_images=[shade(200), shade(90)])
    data = path.read_bytes()
    assert animation.read_header(data, "film.gif").size == (8, 6)
    monkeypatch.setattr(video, "MAX_FRAMES", 2)
    monkeypatch.setattr(animation, "MAX_FRAMES", 2)
    with pytest.raises(UsageError, match="more than 2 frames"):
        open_video(folder)
    with pytest.raises(UsageError, match="more than 2 frames"):
        animation.read_header(data, "film.gif")
    monkeypatch.setattr(animation, "MAX_FRAMES", 100)
    monkeypatch.setattr(animation, "MAX_FILE_PIXELS", 100)
    with pytest.raises(UsageError, match=r"3 frames of 8x6(.|\n)*at most 100 pixels in all"):
        animation.read_header(data, "film.gif")
    monkeypatch.setattr(animation, "MAX_FRAME_PIXELS", 47)
    with pytest.raises(UsageError, match="frames of 8x6"):
        animation.read_header(data, "film.gif")
