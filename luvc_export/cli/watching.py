"""``run --camera``: the same question about what a camera shows, again and again; a JSON object a line comes out."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from luvc_export.core.options import option
from luvc_export.errors import UsageError
from luvc_export.runtime.media.camera import Camera, Frame, source_of
from luvc_export.runtime.media.video import Sampled
from luvc_export.runtime.speed_probe.first_token import seconds

#: Seconds between two looks at a camera that had nothing new.
_LOOK = 0.05

Write = Callable[[dict[str, Any]], None]


def write_line(message: dict[str, Any]) -> None:
    """One JSON object on standard output, at once."""
    print(json.dumps(message), flush=True)


@dataclass(frozen=True)
class Watch:
    """What is asked of a camera.

    Args:
        prompt: The question.
        every: Seconds from one question to the next, at least: a slower model is asked about the newest frame again,
            never about one that waited.
        window: Seconds of the camera that a question shows as a video; 0 shows the newest frame as a picture.
        frames: Of a window, at most.
        answers: After so many it ends; 0 for none.
    """

    prompt: str
    every: float
    window: float = 0.0
    frames: int = 1
    answers: int = 0

    @property
    def step(self) -> float:
        """Seconds from one frame of a window to the next."""
        return self.window / self.frames


class _Collector:
    """The frames of a window, gathered in a thread while answers are made; without one, the newest alone."""

    def __init__(self, camera: Camera, wanted: Watch, write: Write) -> None:
        self.camera, self._wanted, self._write = camera, wanted, write
        self.begun, self._held = camera.clock(), deque[Frame](maxlen=wanted.frames)
        self._lock, self._stop = threading.Lock(), threading.Event()
        self.over = ""
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._gather, daemon=True) if wanted.window else None
        if self._thread is not None:
            self._thread.start()

    def look(self) -> None:
        """Take the newest frame, and say what happened to the camera."""
        with self._lock:
            if self._error is not None:
                raise self._error
            events, frame = self.camera.poll()
            if frame is not None:
                self._held.append(frame)
        for event in events:
            if event.kind == "end":
                self.over = event.why
                continue
            facts = {"why": event.why, "retry": event.retry}
            message = {"event": event.kind} | {name: value for name, value in facts.items() if value}
            self._write(message | {"seconds": self.since(self.camera.clock())})

    def shown(self) -> list[Frame]:
        """The frames of the window that ends with the newest; the newest alone without one, and each once."""
        with self._lock:
            if self._wanted.window:
                return [one for one in self._held if self._held[-1].time - one.time <= self._wanted.window]
            frames = list(self._held)
            self._held.clear()
            return frames

    def since(self, time: float) -> float:
        """Seconds from the beginning."""
        return round(time - self.begun, 3)

    def rest(self, seconds: float) -> None:
        """Wait."""
        self._stop.wait(seconds)

    def end(self) -> None:
        """Stop gathering, and close the camera."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self.camera.close()

    def _gather(self) -> None:
        try:
            while not self._stop.wait(self._wanted.step) and not self.camera.ended:
                self.look()
        except BaseException as error:
            self._error = error


def watch(session: Any, camera: Camera, wanted: Watch, sampling: dict[str, Any], write: Write = write_line) -> None:
    """Ask until the camera ends, so many answers are there, or Ctrl-C: that is how watching ends, so it is no error."""
    collector, answered, why = _Collector(camera, wanted, write), 0, "enough answers"
    due, seen = collector.begun, 0
    try:
        while not wanted.answers or answered < wanted.answers:
            collector.rest(max(due - camera.clock(), 0.0))
            collector.look()
            if camera.ended:
                why = collector.over
                break
            shown = collector.shown()
            if not shown or shown[-1].number == seen:
                due = camera.clock() + _LOOK
                continue
            due, seen = camera.clock() + wanted.every, shown[-1].number
            answer = _answer(session, collector, wanted, shown, sampling)
            answered += 1  # whoever read it and sends Ctrl-C finds it counted
            write(answer)
    except KeyboardInterrupt:
        why = "interrupted"
    finally:
        collector.end()
    counts = {"answers": answered, "frames": camera.decoded, "dropped": camera.dropped, "reopened": camera.reopened}
    write({"event": "end", "why": why, "seconds": collector.since(camera.clock()), **counts})


def _answer(
    session: Any, collector: _Collector, wanted: Watch, shown: list[Frame], sampling: dict[str, Any]
) -> dict[str, Any]:
    """Ask about the frames; says what came, of which frames, how old the newest is by now, and how many nobody saw."""
    camera, newest = collector.camera, shown[-1]
    if wanted.window:
        times = tuple(one.time - shown[0].time for one in shown)
        film = Sampled(tuple(one.picture for one in shown), 1 / wanted.step, len(shown), times)
        result = session.generate(prompt=wanted.prompt, video=film, **sampling)
    else:
        result = session.generate(image=newest.picture, prompt=wanted.prompt, **sampling)
    return {
        "seconds": collector.since(newest.time),
        "late": round(camera.clock() - newest.time, 3),
        "frames": [one.number for one in shown],
        "dropped": camera.dropped,
        "text": result.text,
        "finish_reason": result.finish_reason,
        "timings": result.timings.to_json(),
    }


#: What ``--every`` is where nothing is said.
EVERY = "2s"


@dataclass(frozen=True)
class CameraOptions:
    """A camera, and how often it is asked about."""

    camera: str | None = option(
        None,
        "Ask again and again about /dev/video0, a film played in time, a named pipe, or - for a stream on standard "
        "input.",
        metavar="SOURCE",
    )
    every: str | None = option(None, "With --camera: from one question to the next; 2s.", metavar="2s")
    window: str | None = option(None, "With --camera: ask about so many last seconds as a video.", metavar="30s")
    answers: int | None = option(None, "With --camera: end after so many; default: at Ctrl-C.", least=1)

    def check(self, prompt: str | None, frames: int | None, others: bool) -> None:
        """Refuse what contradicts a camera, before anything is loaded.

        Args:
            prompt: The question, None for a chat, ``-`` for standard input.
            frames: Most of a window.
            others: Whether anything else is to be looked at or made.

        Raises:
            UsageError: As said, or there is no such camera.
        """
        if self.camera is None:
            if (self.every, self.window, self.answers) != (None, None, None):
                flags = "--every, --window, --answers"
                raise UsageError("these options are about a camera", where=flags, fix="pass --camera")
            return
        if prompt is None:
            raise UsageError("a camera needs a question", where="--camera", fix="pass --prompt TEXT")
        if prompt == self.camera == "-":
            raise UsageError("one standard input brings the question and the camera", where="--prompt -, --camera -")
        if frames is not None and frames < 1:
            raise UsageError("a video needs frames", where="--frames", got=frames, expected="1 or more")
        if others:
            flags = "--image, --video, --show-kept, --logprobs"
            raise UsageError("a camera is all that is looked at", where=flags, fix="leave them out, or --camera")
        _seconds("--every", self.every or EVERY)
        _seconds("--window", self.window or EVERY)
        source_of(self.camera)

    def watch(self, session: Any, prompt: str, frames: int | None, sampling: dict[str, Any]) -> None:
        """Ask until it ends: see ``cli.watching.watch``."""
        assert self.camera is not None
        window = 0.0 if self.window is None else _seconds("--window", self.window)
        count = (frames or session.video_frames()) if window else 1
        wanted = Watch(prompt, _seconds("--every", self.every or EVERY), window, count, self.answers or 0)
        watch(session, Camera(source_of(self.camera), share=count), wanted, sampling)


def _seconds(flag: str, text: str) -> float:
    try:
        return seconds(text)
    except UsageError as error:
        raise UsageError(error.what, where=flag, got=error.got, expected="a time such as 500ms or 2s") from error
