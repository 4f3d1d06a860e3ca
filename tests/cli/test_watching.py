"""``run --camera``: one question again and again, by a session and a camera that are stand-ins, and once for real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from film_files import noise, write_film
from PIL import Image

from luvc_export.bundle.folder import Bundle
from luvc_export.cli import main
from luvc_export.cli.watching import Watch, watch
from luvc_export.errors import UsageError
from luvc_export.runtime.media.camera import Event, Frame


class Clock:
    """Time that passes only when somebody waits."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Stand:
    """A camera of ten frames a second that is asked for the newest, and ends or fails after some seconds."""

    def __init__(self, clock: Clock, seconds: float, error: Exception | None = None) -> None:
        self.clock, self.ended, self.closed = clock, False, False
        self.decoded = self.given = self.reopened = 0
        self._begun, self._seconds, self._error = clock(), seconds, error

    @property
    def dropped(self) -> int:
        return self.decoded - self.given

    def poll(self) -> tuple[list[Event], Frame | None]:
        passed = self.clock() - self._begun
        if passed > self._seconds:
            if self._error is not None:
                raise self._error
            self.ended = True
            return [Event("end", "it ended")], None
        number = 1 + int(10 * passed + 1e-6)
        if number == self.decoded:
            return [], None
        events = [Event("size", "1x1 to 2x2")] if self.decoded == 0 and self.given else []
        self.decoded, self.given = number, self.given + 1
        return events, Frame(Image.new("RGB", (8, 8)), self.clock(), number)

    def close(self) -> None:
        self.closed = True


class Answers:
    """A session that takes a while and says what it was shown."""

    def __init__(self, clock: Clock, seconds: float = 0.0, ends: int = 0) -> None:
        self.clock, self.seconds, self.asked, self._ends = clock, seconds, list[dict[str, Any]](), ends

    def generate(self, **asked: Any) -> Any:
        if len(self.asked) == self._ends > 0:
            raise KeyboardInterrupt
        self.asked.append(asked)
        self.clock.now += self.seconds
        return SimpleNamespace(
            text=f"answer {len(self.asked)}", finish_reason="stop", timings=SimpleNamespace(to_json=lambda: {})
        )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    own = Clock()

    def rest(self: Any, seconds: float) -> None:
        own.now += max(seconds, 1e-4)

    monkeypatch.setattr("luvc_export.cli.watching._Collector.rest", rest)
    return own


def watched(session: Answers, camera: Stand, wanted: Watch) -> list[dict[str, Any]]:
    lines = list[dict[str, Any]]()
    watch(session, camera, wanted, {"max_new_tokens": 4}, lines.append)  # type: ignore[arg-type]
    assert camera.closed
    return lines


def test_the_newest_frame_is_asked_about_at_equal_times(clock: Clock) -> None:
    session, camera = Answers(clock, 0.1), Stand(clock, 3.5)
    *lines, last = watched(session, camera, Watch("what?", 1.0))
    assert [line["text"] for line in lines] == ["answer 1", "answer 2", "answer 3", "answer 4"]
    assert [line["frames"] for line in lines] == [[1], [11], [21], [31]]
    assert [line["dropped"] for line in lines] == [0, 9, 18, 27]
    assert all(asked["prompt"] == "what?" and asked["max_new_tokens"] == 4 for asked in session.asked)
    assert last == {"event": "end", "why": "it ended", "answers": 4, "frames": 31, "dropped": 27, "reopened": 0,
                    "seconds": last["seconds"]}  # fmt: skip


def test_a_slow_model_sees_the_newest_frame_and_nothing_waits(clock: Clock) -> None:
    lines = watched(Answers(clock, 2.5), Stand(clock, 9.0), Watch("what?", 1.0))[:-1]
    numbers = [line["frames"][0] for line in lines]
    assert numbers == [1, 26, 51, 76] and all(abs(line["late"] - 2.5) < 0.01 for line in lines)


def test_it_ends_after_so_many_answers_or_when_told(clock: Clock) -> None:
    assert len(watched(Answers(clock), Stand(clock, 99), Watch("what?", 1.0, answers=2))) == 3
    *lines, last = watched(Answers(clock, ends=1), Stand(clock, 99), Watch("what?", 1.0))
    assert len(lines) == 1 and last["why"] == "interrupted"
    camera = Stand(clock, 0.5, UsageError("the film's frames become too large"))
    with pytest.raises(UsageError, match="too large"):
        watched(Answers(clock), camera, Watch("what?", 1.0))
    assert camera.closed


def test_a_window_is_shown_as_a_video_with_the_times_of_its_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    session, camera = Answers(Clock()), Stand(time.monotonic, 99)  # type: ignore[arg-type]
    lines = watched(session, camera, Watch("what?", 0.5, window=0.4, frames=4, answers=3))[:-1]
    film = session.asked[-1]["video"]
    assert 2 <= len(film.frames) <= 4 and film.times[0] == 0 and film.times[-1] <= 0.4 + 1e-6
    assert list(film.times) == sorted(film.times) and lines[-1]["frames"][-1] > lines[0]["frames"][-1]


def test_what_contradicts_a_camera_is_said_before_loading(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for argv, refusal in (
        (["--every", "2s"], "pass --camera"),
        (["--camera", "-", "--image", "a.png"], "a camera is all that is looked at"),
        (["--camera", "-", "--every", "soon"], "--every"),
        (["--camera", "-", "--json", "--logprobs", "0"], "a camera is all that is looked at"),
        (["--camera", "-", "--window", "2s", "--frames", "-1"], "a video needs frames"),
        (["--camera", "-", "--prompt", "-"], "one standard input"),
        (["--camera", "rtsp://here/live"], "-rtsp_transport tcp"),
        (["--camera", "/dev/video77"], "there is no such camera"),
    ):
        monkeypatch.setattr("sys.argv", ["luvc-export", "run", "nowhere", "--prompt", "what?", *argv])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 2 and refusal in capsys.readouterr().err


def test_a_film_as_a_camera_and_ctrl_c(demo_bundle: Bundle, tmp_path: Path) -> None:
    """A process of its own: lines come while it runs, and Ctrl-C ends it with its counts."""
    pytest.importorskip("av", reason="pip install 'luvc-export[video]'")
    film = write_film(tmp_path / "film.mp4", noise(80), 4)
    command = [sys.executable, "-m", "luvc_export", "run", str(demo_bundle.folder), "--camera", str(film)]
    options = ["--every", "200ms", "--prompt", "how many?", "--max-new-tokens", "2", "--backend", "cpu"]
    with subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    ) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert first["text"] and first["frames"] == [1]
        process.send_signal(signal.SIGINT)
        rest = [json.loads(line) for line in process.stdout]
        assert process.wait(60) == 0, process.stderr and process.stderr.read()
    assert rest[-1]["event"] == "end" and rest[-1]["why"] == "interrupted" and rest[-1]["answers"] >= 1
