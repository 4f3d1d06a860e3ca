"""``luvc-export run``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from luvc_export.cli import options
from luvc_export.cli.grouped import grouped
from luvc_export.cli.tables.console import answer_text
from luvc_export.cli.watching import CameraOptions
from luvc_export.errors import UsageError
from luvc_export.runtime.generation.sampling import AnswerOptions
from luvc_export.runtime.session_options import SessionOptions

#: Characters of a prompt from standard input: more is a mistake.
_PROMPT_LIMIT = 10**6


@grouped
def run(
    *,
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", help="The question; - reads it from standard input. Without it: a chat."),
    ] = None,
    image: Annotated[list[Path] | None, typer.Option("--image", help="Picture; repeat for several.")] = None,
    video: Annotated[
        Path | None, typer.Option("--video", help="Film (mp4, mkv, ...), folder of frames, or animated picture.")
    ] = None,
    frames: Annotated[
        int | None, typer.Option("--frames", help="Frames to look at; default: what the bundle takes, at most 16.")
    ] = None,
    fps: Annotated[
        float | None, typer.Option("--fps", help="Frames a second of --video; default: what it says, else 2.")
    ] = None,
    live: CameraOptions,
    opening: SessionOptions,
    sampling: Annotated[dict[str, Any], AnswerOptions],
    lora: Annotated[
        str | None,
        typer.Option("--lora", metavar="NAME=FOLDER", help="Answer with a peft adapter; see export --lora-slots."),
    ] = None,
    warm_up: Annotated[
        bool, typer.Option("--warm-up", help="Load and run once before the answer, so that its times are a server's.")
    ] = False,
    show_kept: Annotated[
        Path | None, typer.Option("--show-kept", metavar="PNG", help="Draw what merged and what survives, by layer.")
    ] = None,
    verbose: Annotated[
        bool,
        typer.Option("--verbose", help="Also say which plan answers, in what, and what the engine was chosen by."),
    ] = False,
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
    from luvc_export.cli.answer_lines import bucket_counts, bucket_line, film_line, fit_line, timing_line
    from luvc_export.cli.chat import Chat, line_editing
    from luvc_export.cli.kept_picture import check_picture_file, save_survival
    from luvc_export.pipeline import load_bundle

    shown, logprobs = bool(image or video), sampling.get("logprobs")
    live.check(prompt, frames, shown or show_kept is not None or logprobs is not None)
    asked = read_prompt(prompt, as_json)
    folders = named_folders([lora] if lora else [])
    if show_kept is not None and not shown and asked is not None:
        raise UsageError("--show-kept draws on a picture", where="--show-kept", fix="pass --image or --video")
    if logprobs is not None and not as_json:
        raise UsageError("log probabilities are printed as JSON", where="--logprobs", fix="pass --json")
    if video is None and (fps, None if live.window else frames) != (None, None):
        raise UsageError("--frames and --fps are about a video", where="--frames, --fps", fix="pass --video")
    check_picture_file(show_kept, "--show-kept")
    with options.progress(quiet=as_json) as tell:
        session = load_bundle(bundle, options=replace(opening, lora=folders), progress=tell)
    warmed = session.warm_up(images=int(shown or live.camera is not None)) if warm_up else None
    if folders:
        sampling["adapter"] = next(iter(folders))
    if live.camera is not None:
        live.watch(session, str(asked), frames, sampling)
        return
    seen: dict[str, Any] = {"image": list(image or [])}
    film = None
    if video is not None:
        from luvc_export.runtime.media.video import open_video

        with options.progress(quiet=as_json) as tell:
            wanted = session.video_frames() if frames is None else frames
            film = open_video(video, wanted, fps, lambda done: tell("reading frames", done))
        seen["video"] = film
        if not as_json:
            print(film_line(film), file=sys.stderr)
    if asked is None:
        frames_seen = {"video": film} if film else {}
        line_editing()
        say = partial(_say_times, session if verbose else None)
        chat = Chat(session, sampling, seen["image"], frames_seen, show_kept or Path("kept.png"), say)
        chat.run()
        return
    stream = session.generate(prompt=asked, stream=True, **seen, **sampling)
    for piece in stream:
        if not as_json:
            print(answer_text(piece, sys.stdout), end="", flush=True)
    result = stream.result
    if show_kept is not None:
        save_survival(result, show_kept)
    if as_json:
        if verbose:
            say_more(session, result)
        print(
            json.dumps(
                {
                    "text": result.text,
                    "token_ids": result.token_ids,
                    "finish_reason": result.finish_reason,
                    "timings": result.timings.to_json(),
                    "image_size": result.selection.size,
                    "tiles": result.selection.tiles,
                    "units": bucket_counts(result.selection),
                    "video": None if film is None else film.taken().to_json(),
                    "show_kept": str(show_kept) if show_kept else None,
                    "backend": result.backend,
                    "arithmetic": result.arithmetic,
                    "choice": session.choice,
                    "notes": session.notes,
                    "logprobs": None if result.logprobs is None else [asdict(one) for one in result.logprobs],
                    "warm_up_ms": None if warmed is None else 1000 * warmed,
                }
            )
        )
        return
    print()
    ways = len(session.bundle.sizes_of(opening.plan)) * max(1, len(session.bundle.manifest.prompt.cuts))
    if choice := fit_line(result.selection, ways):
        print(choice, file=sys.stderr)
    if choice := bucket_line(result.selection):
        print(choice, file=sys.stderr)
    choice = session.choice or f"backend {result.backend}"
    ready = "" if warmed is None else f", warmed up in {1000 * warmed:.0f} ms"
    print(f"{choice}, {result.arithmetic}{ready}", file=sys.stderr)
    for note in session.notes:
        print(note, file=sys.stderr)
    if verbose:
        say_more(session, result)
    print(timing_line(result.timings), file=sys.stderr)


def say_more(session: Any, answer: Any) -> None:
    """The lines of ``--verbose``."""
    from luvc_export.cli.answer_lines import verbose_lines

    for line in verbose_lines(session, answer):
        print(line, file=sys.stderr)


def _say_times(explained: Any, answer: Any) -> None:
    """Of a chat's turn; ``explained`` is the session of ``--verbose``."""
    from luvc_export.cli.answer_lines import bucket_line, timing_line

    if line := bucket_line(answer.selection):
        print(line, file=sys.stderr)
    if explained is not None:
        say_more(explained, answer)
    print(timing_line(answer.timings), file=sys.stderr)


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
        text = sys.stdin.read(_PROMPT_LIMIT + 1).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UsageError("standard input is not text", where="--prompt -", got=str(error)) from error
    if not text.strip() or len(text) > _PROMPT_LIMIT:
        got = "more than a million characters" if text.strip() else "nothing"
        raise UsageError("this is no prompt", where="--prompt -", got=got, expected="text on standard input")
    return text.strip()
