"""A conversation on the terminal: what ``luvc-export run`` without ``--prompt`` is."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from luvc_export.cli.answer_lines import check_picture_file, save_survival
from luvc_export.cli.tables.console import answer_text
from luvc_export.errors import LuvcError, UsageError, did_you_mean
from luvc_export.runtime.media.pictures import open_picture

_HELP = """\
/image PATH   show a picture with the next question; again for several
/kept [PNG]   draw what merged and what was kept of the last answer's pictures
/clear        forget the conversation
/help         this
/quit         end, as Ctrl-D does; Ctrl-C stops an answer"""


class Chat:
    """Questions and answers about pictures, each turn on the caches of the one before."""

    def __init__(
        self,
        session: Any,
        sampling: dict[str, Any],
        images: list[Path],
        video: dict[str, Any],
        kept: Path,
        say: Callable[[Any], None],
    ) -> None:
        self.session, self.sampling, self.video, self.kept, self.say = session, sampling, video, kept, say
        self.waiting: list[Any] = list(images)
        self.waiting_video = bool(video)
        self.clear()

    def clear(self) -> None:
        """Forget what was said; pictures that wait for a question stay."""
        self.messages: list[dict[str, Any]] = []
        self.images: list[Any] = []
        self.seen_video = False
        self.last: Any = None
        self.shown: Any = None

    def run(self, read: Callable[[str], str] = input) -> None:
        """Read lines and answer until the input ends."""
        print("ask, or /help; Ctrl-D ends", file=sys.stderr)
        while True:
            try:
                line = read("> ").strip()
            except EOFError:
                print(file=sys.stderr)
                return
            except KeyboardInterrupt:
                print(file=sys.stderr)
                continue
            if line in ("/quit", "/exit"):
                return
            if not line:
                continue
            try:
                self.command(line) if line.startswith("/") else self.ask(line)
            except KeyboardInterrupt:
                print("\nstopped; the question is forgotten", file=sys.stderr)
            except LuvcError as error:
                print(f"error: {error}", file=sys.stderr)

    def command(self, line: str) -> None:
        """Do what a line with a slash says.

        Raises:
            UsageError: It is no command, or lacks something.
        """
        name, _, rest = line.partition(" ")
        actions = {"/image": self._image, "/kept": self._kept, "/clear": self._clear, "/help": self._help}
        if name not in actions:
            raise UsageError("there is no such command", got=name, expected=did_you_mean(name, [*actions, "/quit"]))
        actions[name](rest.strip())

    def ask(self, prompt: str) -> None:
        """Answer, streaming; the turn counts once its answer is complete.

        Raises:
            LuvcError: See ``Session.generate``; the conversation stays as it was.
        """
        images, with_video = [*self.images, *self.waiting], self.seen_video or self.waiting_video
        parts = [{"type": "image"}] * len(self.waiting) + [{"type": "video"}] * self.waiting_video
        asked = {"role": "user", "content": [*parts, {"type": "text", "text": prompt}]}
        seen = self.video if with_video else {}
        messages = [*self.messages, asked]
        stream = self.session.generate(images, messages=messages, after=self.last, stream=True, **seen, **self.sampling)
        for piece in stream:
            print(answer_text(piece, sys.stdout), end="", flush=True)
        print()
        answer = stream.result
        reply = {"role": "assistant", "content": [{"type": "text", "text": answer.text}]}
        self.messages, self.images, self.seen_video, self.last = [*messages, reply], images, with_video, answer
        self.shown = answer if parts else self.shown
        self.waiting, self.waiting_video = [], False
        self.say(answer)

    def _image(self, rest: str) -> None:
        try:
            words = shlex.split(rest)
        except ValueError:
            words = [rest]
        path = Path(rest) if Path(rest).is_file() else Path(" ".join(words))  # spaces need no quotes, but may have them
        if not rest:
            raise UsageError("no picture is named", where="/image", expected="/image PATH")
        self.waiting.append(open_picture(path.expanduser()))
        print(f"{path}: ask about it", file=sys.stderr)

    def _kept(self, rest: str) -> None:
        path = Path(rest) if rest else self.kept
        check_picture_file(path, "/kept")
        if self.shown is None:
            raise UsageError("no answer has seen a picture yet", where="/kept", fix="/image PATH, then ask")
        save_survival(self.shown, path)
        print(f"wrote {path}", file=sys.stderr)

    def _clear(self, rest: str) -> None:
        self.clear()
        print("forgotten", file=sys.stderr)

    def _help(self, rest: str) -> None:
        print(_HELP, file=sys.stderr)


def line_editing() -> None:
    """Let the arrow keys walk through what was typed, where Python can."""
    with contextlib.suppress(ImportError):  # Windows has none
        import readline  # noqa: F401
