"""A live source, by stand-ins: a film in time, a pipe that stalls, ends, changes size and comes back, a device."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from film_files import noise, write_film, write_sound

from luvc_export.errors import MachineError, UsageError
from luvc_export.runtime.media import camera as cameras
from luvc_export.runtime.media.camera import Camera, Event, Frame, source_of

pytest.importorskip("av", reason="pip install 'luvc-export[video]'")
PATIENCE = 60.0


@pytest.fixture
def opened() -> Iterator[Callable[..., Camera]]:
    cameras: list[Camera] = []

    def of(path: Path | str, **options: Any) -> Camera:
        cameras.append(Camera(source_of(str(path)), **options))
        return cameras[-1]

    yield of
    for one in cameras:
        one.close()


def stream(path: Path, count: int = 12, size: tuple[int, int] = (48, 64)) -> bytes:
    """MPEG-TS, as cameras send."""
    options: dict[str, Any] = {"codec": "mpeg2video", "pixels": "yuv420p", "options": {}}
    return write_film(path, noise(count, *size), 25, **options).read_bytes()


def seen(camera: Camera, until: Callable[[list[Event], list[Frame]], bool]) -> tuple[list[Event], list[Frame]]:
    """What came of a camera until it was enough."""
    events, frames, end = list[Event](), list[Frame](), time.monotonic() + PATIENCE
    while not until(events, frames):
        assert time.monotonic() < end, (events, len(frames))
        some, frame = camera.poll()
        events += some
        frames += [] if frame is None else [frame]
        time.sleep(0.02)
    return events, frames


def writes(pipe: Path, *parts: bytes, rest: float = 0.0) -> threading.Thread:
    """Every part by a writer of its own, which ends."""

    def write() -> None:
        for part in parts:
            with pipe.open("wb") as file:
                file.write(part)
                file.flush()
                time.sleep(rest)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    return thread


def test_a_film_is_played_in_time_and_the_newest_frame_wins(tmp_path: Path, opened: Callable[..., Camera]) -> None:
    camera = opened(write_film(tmp_path / "film.mp4", noise(10), 10))
    begun, numbers = time.monotonic(), list[int]()
    while not camera.ended:
        events, frame = camera.poll()
        numbers += [] if frame is None else [frame.number]
        time.sleep(0.25)
    assert [event.kind for event in events] == ["end"] and time.monotonic() - begun > 0.8
    assert numbers == sorted(set(numbers)) and numbers[-1] == camera.decoded == 10
    assert camera.given == len(numbers) and camera.dropped == 10 - len(numbers) > 0
    assert camera.poll() == ([], None)


def test_a_pipe_that_ends_and_comes_back_larger_is_survived(
    tmp_path: Path, opened: Callable[..., Camera], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cameras, "BACK_OFF", (0.05, 0.2))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    small, large = stream(tmp_path / "a.ts"), stream(tmp_path / "b.ts", size=(64, 96))
    camera = opened(pipe)
    writes(pipe, small)
    events, frames = seen(camera, lambda events, frames: any(event.kind == "lost" for event in events))
    assert [event.kind for event in events] == ["lost"] and events[0].retry == 0.05 and frames
    assert {frame.picture.size for frame in frames} == {(64, 48)}
    writes(pipe, large)
    events, frames = seen(camera, lambda events, frames: bool(frames))
    assert [event.kind for event in events if event.kind != "lost"] == ["back", "size"]
    assert events[-1].why == "64x48 to 96x64" and frames[0].picture.size == (96, 64)
    assert camera.reopened == 1 and not camera.ended and camera.decoded > 12


def test_a_pipe_that_stalls_is_lost_and_tried_ever_later(
    tmp_path: Path, opened: Callable[..., Camera], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cameras, "BACK_OFF", (0.05, 0.15))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    camera, data = opened(pipe, stall=0.4), stream(tmp_path / "a.ts", 60)
    stalled = writes(pipe, data, rest=3.0)
    events, frames = seen(camera, lambda events, frames: bool(events))
    assert frames and [event.kind for event in events] == ["lost"] and "no frame for 0." in events[0].why
    stalled.join()
    for retry in (0.1, 0.15, 0.15):  # what comes then is no film
        writes(pipe, b"?" * 4096)
        events, _ = seen(camera, lambda events, frames: bool(events))
        assert [(event.kind, event.retry) for event in events] == [("lost", retry)] and "no film" in events[0].why
    writes(pipe, data, rest=1.0)
    events, _ = seen(camera, lambda events, frames: bool(frames))
    assert events[0].kind == "back" and camera.reopened == 1


def test_a_decoder_that_dies_is_started_again(
    tmp_path: Path, opened: Callable[..., Camera], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that takes too much memory, or crashes on what it gets."""
    monkeypatch.setattr(cameras, "BACK_OFF", (0.05, 0.2))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    camera, data = opened(pipe), stream(tmp_path / "a.ts", 60)
    writes(pipe, data, rest=1.0)
    seen(camera, lambda events, frames: bool(frames))
    (helper,) = camera._opening._helpers._idle  # type: ignore[union-attr]
    helper._child.process.kill()
    helper._child.process.wait()
    events, _ = seen(camera, lambda events, frames: bool(events))
    assert events[0].kind == "lost" and events[0].why == "its decoder was ended"
    writes(pipe, data)
    assert seen(camera, lambda events, frames: bool(frames))[1] and camera.reopened == 1


def test_damage_in_a_stream_costs_frames_and_no_more(tmp_path: Path, opened: Callable[..., Camera]) -> None:
    data = bytearray(stream(tmp_path / "a.ts", 40))
    for place in range(5000, len(data), 1777):
        data[place] ^= 0xFF
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    camera = opened(pipe)
    writes(pipe, bytes(data))
    _, frames = seen(camera, lambda events, frames: any(event.kind == "lost" for event in events))
    assert frames and camera.decoded > 1


def test_large_frames_are_brought_to_their_share(
    tmp_path: Path, opened: Callable[..., Camera], monkeypatch: pytest.MonkeyPatch
) -> None:
    camera = opened(write_film(tmp_path / "film.mp4", noise(2, 1024, 1024), 2), share=512)
    _, frames = seen(camera, lambda events, frames: bool(frames))
    assert frames[0].picture.size == (256, 256)


@pytest.mark.parametrize("address", ["rtsp://user:secret@10.0.0.1/live", "http://camera/mjpeg", "tcp://10.0.0.1:80"])
def test_networks_are_refused_with_what_to_do(address: str) -> None:
    with pytest.raises(UsageError, match="never gets one") as refused:
        source_of(address)
    assert "ffmpeg" in str(refused.value) and "--camera -" in str(refused.value) and "secret" not in str(refused.value)


def test_what_is_no_camera_says_so(tmp_path: Path, opened: Callable[..., Camera]) -> None:
    with pytest.raises(UsageError, match="there is no such camera"):
        source_of(str(tmp_path / "video9"))
    with pytest.raises(UsageError, match="this is no camera"):
        source_of(str(tmp_path))
    (tmp_path / "text.txt").write_text("not a film" * 200)
    with pytest.raises(UsageError, match="no film and no stream"):
        opened(tmp_path / "text.txt").poll()
    with pytest.raises(UsageError, match="no pictures in this film"):
        seen(opened(write_sound(tmp_path / "sound.mp4")), lambda events, frames: False)
    assert source_of("/dev/null").kind == "device"
    with pytest.raises(UsageError, match="gives no frames"):
        seen(opened("/dev/null"), lambda events, frames: False)
    damaged = write_film(tmp_path / "film.mp4", noise(4)).read_bytes()
    (tmp_path / "half.mp4").write_bytes(damaged[: len(damaged) // 3])
    with pytest.raises(UsageError, match="gives no frames"):
        seen(opened(tmp_path / "half.mp4"), lambda events, frames: False)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cameras, "find_spec", lambda name: None)
    with pytest.raises(MachineError, match=r"luvc-export\[video\]"):
        Camera(source_of("-"))
