"""``luvc-export run``."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from luvc_export.cli import options
from luvc_export.cli.options import grouped
from luvc_export.cli.tables.console import answer_text
from luvc_export.cli.watching import CameraOptions
from luvc_export.core.files.text import decoded
from luvc_export.core.options import option
from luvc_export.errors import UsageError
from luvc_export.runtime.generation.sampling import AnswerOptions
from luvc_export.runtime.session_options import SessionOptions

if TYPE_CHECKING:
    from luvc_export.runtime.session import Session

#: Characters of a prompt from standard input: more is a mistake.
_PROMPT_LIMIT = 10**6


@dataclass(frozen=True)
class RunOptions:
    """What a question is about, and what is said beside its answer."""

    image: tuple[Path, ...] = option((), "Picture; repeat for several.")
    video: Path | None = option(None, "Film (mp4, mkv, ...), folder of frames, or animated picture.")
    frames: int | None = option(None, "Frames to look at; default: what the bundle takes, at most 16.")
    fps: float | None = option(None, "Frames a second of --video; default: what it says, else 2.")

    lora: str | None = option(None, "Answer with a peft adapter; see export --lora-slots.", metavar="NAME=FOLDER")
    output: Path | None = option(None, "Write the answer to a file as it comes, unchanged.", metavar="FILE")
    warm_up: bool = option(False, "Load and run once before the answer, so that its times are a server's.")
    show_kept: Path | None = option(None, "Draw what merged and what survives, by layer.", metavar="PNG")
    verbose: bool = option(False, "Also say which plan answers, in what, and what the engine was chosen by.")

    def film(self, session: Session, quiet: bool) -> Any:
        """The frames of ``--video``; None without one."""
        if self.video is None:
            return None
        from luvc_export.runtime.media.video import open_video

        with options.progress(quiet) as tell:
            wanted = session.video_frames() if self.frames is None else self.frames
            return open_video(self.video, wanted, self.fps, lambda done: tell("reading frames", done))


@grouped
def run(
    *,
    bundle: options.Bundle,
    prompt: str | None = option(None, "The question; - reads it from standard input. Without it: a chat."),
    wanted: RunOptions,
    live: CameraOptions,
    opening: SessionOptions,
    sampling: Annotated[dict[str, Any], AnswerOptions],
    as_json: options.Json = False,
) -> None:
    """Ask a bundle a question about pictures or a video.

    Without --prompt, a chat begins on the terminal: /image PATH shows a picture, /kept draws what was kept of it,
    /clear forgets, /help says more. Each turn goes on from the caches of the one before.

    [dim]luvc-export run qwen-bundle --image cat.jpg --prompt "What is on the sofa?" --show-kept kept.png[/dim]

    With --camera the same question is asked again and again, about the newest frame or the last --window of them; a
    JSON object a line comes out until Ctrl-C.

    [dim]luvc-export run qwen-bundle --camera /dev/video0 --every 2s --prompt "Is anybody at the door?"[/dim]
    """
    from luvc_export.bundle.adapters.peft_folder import named_folders
    from luvc_export.cli.answer_lines import (
        answer_facts,
        answer_lines,
        film_line,
        save_survival,
        timing_line,
        verbose_lines,
        write_answer,
    )
    from luvc_export.cli.chat import Chat, line_editing
    from luvc_export.pipeline import load_bundle

    shown = bool(wanted.image or wanted.video)
    _check(wanted, live, prompt, sampling.get("logprobs"), as_json)
    asked = read_prompt(prompt, as_json)
    if wanted.show_kept is not None and not shown and asked is not None:
        raise UsageError("--show-kept draws on a picture", where="--show-kept", fix="pass --image or --video")
    folders = named_folders([wanted.lora] if wanted.lora else [])
    with options.progress(as_json) as tell:
        session = load_bundle(bundle, options=replace(opening, lora=folders), progress=tell)
    warmed = 1000 * session.warm_up(images=int(shown or live.camera is not None)) if wanted.warm_up else None
    if folders:
        sampling["adapter"] = next(iter(folders))
    if live.camera is not None:
        live.watch(session, str(asked), wanted.frames, sampling)
        return
    film = wanted.film(session, as_json)
    if film is not None and not as_json:
        print(film_line(film), file=sys.stderr)
    video = {"video": film} if film else {}
    if asked is None:
        line_editing()
        say = partial(_say_times, session if wanted.verbose else None)
        Chat(session, sampling, list(wanted.image), video, wanted.show_kept or Path("kept.png"), say).run()
        return
    stream = session.generate(list(wanted.image), asked, stream=True, **video, **sampling)
    if wanted.output is not None:
        write_answer(stream, wanted.output)  # the loop below finds nothing left
    for piece in stream:
        if not as_json:
            print(answer_text(piece, sys.stdout), end="", flush=True)
    result = stream.result
    if wanted.show_kept is not None:
        save_survival(result, wanted.show_kept)
    if as_json:
        picture = None if wanted.show_kept is None else str(wanted.show_kept)
        print(json.dumps(answer_facts(session, result, film) | {"show_kept": picture, "warm_up_ms": warmed}))
    else:
        print(end="\n" * (wanted.output is None))
        print("\n".join(answer_lines(session, result, opening.plan, warmed)), file=sys.stderr)
    if wanted.verbose:
        print("\n".join(verbose_lines(session, result)), file=sys.stderr)
    if not as_json:
        print(timing_line(result.timings), file=sys.stderr)


def _check(wanted: RunOptions, live: CameraOptions, prompt: str | None, logprobs: int | None, as_json: bool) -> None:
    """Refuse options that contradict each other, before anything is opened."""
    from luvc_export.cli.answer_lines import check_picture_file
    from luvc_export.cli.files import check_writable

    check_writable(wanted.output, "--output")
    if wanted.output is not None and (prompt is None or live.camera is not None):
        raise UsageError("one answer is written to a file", where="--output", fix="pass --prompt, and no --camera")
    others = bool(wanted.image or wanted.video) or wanted.show_kept is not None or logprobs is not None
    live.check(prompt, wanted.frames, others)
    if logprobs is not None and not as_json:
        raise UsageError("log probabilities are printed as JSON", where="--logprobs", fix="pass --json")
    if wanted.video is None and (wanted.fps, None if live.window else wanted.frames) != (None, None):
        raise UsageError("--frames and --fps are about a video", where="--frames, --fps", fix="pass --video")
    check_picture_file(wanted.show_kept, "--show-kept")


def _say_times(explained: Any, answer: Any) -> None:
    """Of a chat's turn; ``explained`` is the session of ``--verbose``."""
    from luvc_export.cli.answer_lines import bucket_line, timing_line, verbose_lines

    more = [] if explained is None else verbose_lines(explained, answer)
    for line in (bucket_line(answer.selection), *more, timing_line(answer.timings)):
        if line:
            print(line, file=sys.stderr)


def read_prompt(prompt: str | None, as_json: bool) -> str | None:
    """The prompt: as given, from standard input for ``-``, or None for a chat on the terminal.

    Raises:
        UsageError: There is none and no terminal, or standard input is empty, too long or not text.
    """
    if prompt is None:
        if sys.stdin is None or not sys.stdin.isatty() or as_json:
            raise UsageError(
                "there is no prompt",
                where="--prompt",
                got="--json" if as_json else "standard input that is no terminal",
                expected="--prompt TEXT, or --prompt - to read it; without, a chat begins on a terminal",
            )
        return None
    if prompt != "-":
        return prompt
    if sys.stdin is None:
        raise UsageError(
            "standard input is closed", where="--prompt -", got="<&-", expected="text on it", fix="--prompt TEXT"
        )
    try:
        data = sys.stdin.buffer.read(4 * _PROMPT_LIMIT + 4)  # four bytes a character at most, and a mark
        text = decoded(data, plain=sys.stdin.encoding).replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise UsageError("standard input is not text", where="--prompt -", got=str(error)) from error
    if not text.strip() or len(text) > _PROMPT_LIMIT:
        got = "more than a million characters" if text.strip() else "nothing"
        raise UsageError("this is no prompt", where="--prompt -", got=got, expected="text on standard input")
    return text.strip()
