"""Options of a live source: ``run --camera``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from luvc_export.errors import UsageError

#: What ``--every`` is where nothing is said.
EVERY = "2s"


@dataclass(frozen=True)
class CameraOptions:
    """A camera, and how often it is asked about."""

    camera: Annotated[
        str | None,
        typer.Option(
            "--camera",
            metavar="SOURCE",
            help="Ask again and again about /dev/video0, a film played in time, a named pipe, or - for a stream on "
            "standard input.",
        ),
    ] = None
    every: Annotated[
        str | None, typer.Option("--every", metavar="2s", help="With --camera: from one question to the next; 2s.")
    ] = None
    window: Annotated[
        str | None,
        typer.Option("--window", metavar="30s", help="With --camera: ask about so many last seconds as a video."),
    ] = None
    answers: Annotated[
        int | None, typer.Option("--answers", min=1, help="With --camera: end after so many; default: at Ctrl-C.")
    ] = None

    def check(self, prompt: str | None, frames: int | None, others: bool) -> None:
        """Refuse what contradicts a camera, before anything is loaded.

        Args:
            prompt: The question, None for a chat, ``-`` for standard input.
            frames: Most of a window.
            others: Whether anything else is to be looked at or made.

        Raises:
            UsageError: As said, or there is no such camera.
        """
        from luvc_export.runtime.media.camera import source_of

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
        from luvc_export.cli.watching import Watch, watch
        from luvc_export.runtime.media.camera import Camera, source_of

        assert self.camera is not None
        window = 0.0 if self.window is None else _seconds("--window", self.window)
        count = (frames or session.video_frames()) if window else 1
        wanted = Watch(prompt, _seconds("--every", self.every or EVERY), window, count, self.answers or 0)
        watch(session, Camera(source_of(self.camera), share=count), wanted, sampling)


def _seconds(flag: str, text: str) -> float:
    from luvc_export.runtime.speed_probe.first_token import seconds

    try:
        return seconds(text)
    except UsageError as error:
        raise UsageError(error.what, where=flag, got=error.got, expected="a time such as 500ms or 2s") from error
