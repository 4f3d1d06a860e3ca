"""Films: the frames that are taken and their times, what is refused before it is decoded, and what nobody opens."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import film_files
import fuzz_films
import numpy as np
import pytest
from PIL import Image

from luvc_export.errors import MachineError, UsageError
from luvc_export.runtime.confined.helpers import Helpers
from luvc_export.runtime.media import film
from luvc_export.runtime.media.film import container_of, decode_film
from luvc_export.runtime.media.video import open_video

pytest.importorskip("av")
SHOWN = film_files.noise(20)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty frames at 8 a second, without loss, key frames every 5."""
    options = {"qp": "0", "g": "5", "bf": "2"}
    return film_files.write_film(tmp_path_factory.mktemp("film") / "clip.mp4", SHOWN, options=options)


def pixels(film: object) -> list[np.ndarray]:
    return [np.asarray(frame) for frame in film.frames]  # type: ignore[attr-defined]


@pytest.mark.parametrize("count", [1, 7, 20, 50])
def test_a_film_gives_the_frames_of_its_folder_of_pictures(clip: Path, count: int, tmp_path: Path) -> None:
    for index, frame in enumerate(SHOWN):
        Image.fromarray(frame).save(tmp_path / f"{index}.png")
    ours, folder = open_video(clip, count), open_video(tmp_path, count, fps=8)
    assert np.array_equal(pixels(ours), pixels(folder))
    assert (ours.fps, ours.of) == (pytest.approx(folder.fps), folder.of)
    assert ours.times == tuple(index * 20 // min(count, 20) / 8 for index in range(min(count, 20)))
    assert np.array_equal(pixels(open_video(clip.read_bytes(), count)), pixels(ours))


def test_seeking_skips_what_nobody_looks_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 400 frames in groups of 10, four are looked at: far fewer are decoded."""
    import av

    from luvc_export.runtime.media import film_task

    shown = [np.full((32, 32, 3), index % 250, np.uint8) for index in range(400)]
    path = film_files.write_film(tmp_path / "long.mp4", shown, options={"qp": "0", "g": "10", "preset": "ultrafast"})
    decoded = list[int]()
    reader = film_task._Reader._decoded

    def counted(self: film_task._Reader) -> object:
        for one in reader(self):
            decoded.append(1)
            yield one

    monkeypatch.setattr(film_task._Reader, "_decoded", counted)
    header, data = film_task.task({"container": "mov", "frames": 4, "where": "long.mp4"}, path.read_bytes())
    values = np.frombuffer(data, np.uint8).reshape(4, 32, 32, 3)[:, 0, 0, 0]
    assert (values.tolist(), header["times"]) == ([0, 100, 200, 50], [0.0, 12.5, 25.0, 37.5])
    assert len(decoded) < 60
    assert av.__version__


def test_a_variable_rate_is_sampled_in_time(tmp_path: Path) -> None:
    """The second frame stays for two of three seconds."""
    times = [0.0, 0.5, 2.5, 2.75]
    path = film_files.write_film(tmp_path / "clip.mkv", SHOWN[:4], times=times)
    film = open_video(path, 3)
    assert film.times is not None
    assert film.times == pytest.approx((0.0, 0.5, 0.5), abs=0.002)
    assert np.array_equal(pixels(film), [SHOWN[0], SHOWN[1], SHOWN[1]])


def test_films_are_turned_upright(tmp_path: Path) -> None:
    path = film_files.write_film(tmp_path / "clip.mp4", SHOWN[:4], rotate=90)
    assert np.array_equal(pixels(open_video(path, 4)), [np.rot90(frame) for frame in SHOWN[:4]])


@pytest.mark.parametrize(("aspect", "size"), [((2, 1), (128, 48)), ((1, 2), (64, 96)), ((9, 1), (64, 48))])
def test_pixels_that_are_not_square_are_stretched(
    aspect: tuple[int, int], size: tuple[int, int], tmp_path: Path
) -> None:
    """What they say is looked at, unless no film has it."""
    path = film_files.write_film(tmp_path / "clip.mp4", film_files.noise(2), aspect=Fraction(*aspect))
    assert {frame.size for frame in open_video(path).frames} == {size}


def test_a_rate_that_is_said_replaces_the_files(clip: Path) -> None:
    film = open_video(clip, 10, fps=4)
    assert (film.fps, film.times) == (2.0, None)


@pytest.mark.parametrize(
    ("name", "codec", "layout"),
    [("c.mkv", "libx264", "yuv420p"), ("c.webm", "libvpx", "yuv420p"), ("c.avi", "mpeg4", "yuv420p"),
     ("c.ts", "libx264", "yuv420p"), ("c.mov", "mjpeg", "yuvj420p")],
)  # fmt: skip
def test_containers(name: str, codec: str, layout: str, tmp_path: Path) -> None:
    shown = [np.full((48, 64, 3), 12 * index, np.uint8) for index in range(20)]
    path = film_files.write_film(tmp_path / name, shown, codec=codec, pixels=layout, options={})
    film = open_video(path, 5)
    assert [int(frame[20, 20, 1]) for frame in pixels(film)] == pytest.approx([0, 48, 96, 144, 192], abs=3)
    assert film.fps == pytest.approx(2, rel=0.02)


def test_what_only_names_other_files_is_no_film(tmp_path: Path) -> None:
    for text in (b"#EXTM3U\nfile:///etc/passwd\n", b"ffconcat version 1.0\nfile a.mp4\n", b"v=0\no=- 0 0 IN IP4\n"):
        assert container_of(text) is None
        (tmp_path / "list.mp4").write_bytes(text)
        with pytest.raises(UsageError, match=r"no film that is read(.|\n)*list\.mp4"):
            open_video(tmp_path / "list.mp4")
    assert container_of(b"\x00\x00\x00\x18ftypavif") is None


@pytest.mark.parametrize("container", ["hls", "concat"])
def test_no_other_file_is_opened(container: str, clip: Path) -> None:
    """Even where the first bytes deceived: a list of files gets none of them opened. Without the list it is read."""
    from luvc_export.runtime.media import film_task

    lists = {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:2.5,\nfile://{clip}\n#EXT-X-ENDLIST\n",
        "concat": f"ffconcat version 1.0\nfile '{clip}'\n",
    }
    header, data = film_task.task({"container": container, "frames": 2, "where": "list"}, lists[container].encode())
    assert (header["kind"], data) == ("UsageError", b"")
    assert "sizes" in film_task.task({"container": "mov", "frames": 2, "where": "clip"}, clip.read_bytes())[0]


def test_what_a_header_says_is_checked_before_decoding(tmp_path: Path) -> None:
    data = film_files.write_film(tmp_path / "clip.mkv", SHOWN).read_bytes()
    at = data.index(b"\x44\x89\x88") + 3  # Matroska's duration in milliseconds
    assert struct.unpack(">d", data[at : at + 8])[0] == 2500

    def lasting(seconds: float) -> bytes:
        return data[:at] + struct.pack(">d", 1000 * seconds) + data[at + 8 :]

    with pytest.raises(UsageError, match=r"the film is too long(.|\n)*60 hours(.|\n)*at most 12 hours"):
        decode_film(lasting(60 * 3600), "matroska", 16, "clip.mkv")
    with pytest.raises(UsageError, match=r"damaged or truncated(.|\n)*last frame is at 2\.4 s(.|\n)*due by its header"):
        decode_film(lasting(3600), "matroska", 16, "clip.mkv")
    assert len(decode_film(lasting(2.5), "matroska", 16, "clip.mkv").frames) == 16
    wide = film_files.write_film(
        tmp_path / "wide.mp4", [np.zeros((4320, 7680, 3), np.uint8)], codec="mjpeg", pixels="yuvj420p", options={}
    )
    with pytest.raises(UsageError, match=r"frames are too large(.|\n)*7680x4320(.|\n)*at most 9,437,184"):
        open_video(wide)


def _sixty_hours(path: Path) -> Path:
    return film_files.write_film(path, SHOWN[:3], times=[0.0, 30 * 3600.0, 60 * 3600.0])


def _8k(path: Path) -> Path:
    shown = [np.zeros((4320, 7680, 3), np.uint8)]
    return film_files.write_film(path, shown, codec="mjpeg", pixels="yuvj420p", options={})


@pytest.mark.parametrize(
    ("name", "write", "what", "got"),
    [
        ("sound.mp4", film_files.write_sound, "there are no pictures in this film", "audio"),
        ("sound.mkv", film_files.write_sound, "there are no pictures in this film", "audio"),
        ("header.mkv", film_files.write_nothing, "the film is damaged or truncated", "EOFError: End of file"),
        ("header.avi", film_files.write_nothing, "the film has no frames", "0 seconds"),
        ("header.mp4", film_files.write_nothing, "there are no pictures in this film", "nothing"),
        ("long.mp4", _sixty_hours, "the film is too long", "60 hours"),
        ("long.mkv", _sixty_hours, "the film is too long", "60 hours"),
        ("8k.mp4", _8k, "the film's frames are too large", "7680x4320 = 33,177,600 pixels"),
    ],
)
def test_what_is_wrong_is_said_before_a_frame_is_decoded(
    name: str, write: Any, what: str, got: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Films made with PyAV; a good one, which is decoded, would be an error here."""
    from luvc_export.runtime.media import film_task

    def never(reader: object) -> Any:
        raise AssertionError("a frame is decoded")

    monkeypatch.setattr(film_task._Reader, "_decoded", never)

    def reply_of(path: Path) -> dict[str, Any]:
        data = path.read_bytes()
        return film_task.task({"container": container_of(data[:1024]), "frames": 16, "where": path.name}, data)[0]

    refusal = reply_of(write(tmp_path / name))
    assert (refusal["what"], refusal["where"]) == (what, name) and refusal["got"].startswith(got)
    assert "a frame is decoded" in reply_of(film_files.write_film(tmp_path / "good.mp4", SHOWN[:2]))["got"]


def test_films_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there are no pictures in this film(.|\n)*audio"):
        open_video(film_files.write_sound(tmp_path / "sound.mp4"))
    empty = tmp_path / "empty.mkv"
    empty.write_bytes(film_files.write_film(tmp_path / "one.mkv", SHOWN[:1]).read_bytes()[:300])
    with pytest.raises(UsageError, match=r"empty\.mkv"):
        open_video(empty)
    png = film_files.write_film(tmp_path / "png.mov", SHOWN[:1], codec="png", options={})
    with pytest.raises(UsageError, match=r"films of this codec are not read(.|\n)*png(.|\n)*h264"):
        open_video(png)


def test_limits(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flat = [np.zeros((720, 1280, 3), np.uint8)] * 2
    large = film_files.write_film(tmp_path / "large.mp4", flat, codec="mpeg4", pixels="yuv420p", options={})
    data = large.read_bytes()
    small = Helpers("luvc_export.runtime.media.film_task", 2**22, 16.0)
    monkeypatch.setattr(film, "_helpers", small)
    with pytest.raises(UsageError, match=r"too much time or memory(.|\n)*take fewer frames"):
        decode_film(data, "mov", 4, "clip.mp4")
    small.close()
    monkeypatch.undo()
    assert len(decode_film(data, "mov", 4, "clip.mp4").frames) == 2
    monkeypatch.setattr(film, "MAX_BYTES", 100)
    with pytest.raises(UsageError, match="file is too large"):
        decode_film(data, "mov", 4, "clip.mp4")
    monkeypatch.setattr("luvc_export.runtime.media.video.MAX_BYTES", 100)
    with pytest.raises(UsageError, match="file is too large"):
        open_video(clip)


def test_many_large_frames_are_reduced(monkeypatch: pytest.MonkeyPatch, clip: Path) -> None:
    from luvc_export.runtime.media import film_task

    monkeypatch.setattr(film_task, "MAX_TAKEN_PIXELS", 64 * 48)
    header, _ = film_task.task({"container": "mov", "frames": 4, "where": "clip.mp4"}, clip.read_bytes())
    assert header["sizes"] == [(32, 24)] * 4


def test_without_pyav_films_say_how_to_get_it(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film, "find_spec", lambda name: None)
    with pytest.raises(MachineError, match=r"PyAV, which is not installed(.|\n)*luvc-export\[video\](.|\n)*ffmpeg -i"):
        open_video(clip)


def test_corrupted_films_give_frames_or_a_clear_error(tmp_path: Path) -> None:
    """A few of ``fuzz_films.py --count 300``; an error that is not ours would end this."""
    outcomes = fuzz_films.run(24, 5, fuzz_films.originals(tmp_path))
    assert sum(outcomes["what"].values()) == 24  # type: ignore[attr-defined]
    assert len(outcomes["what"]) > 1  # type: ignore[arg-type]
