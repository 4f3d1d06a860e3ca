"""``luvc-export run``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from luvc_export.cli import options, sampling_options
from luvc_export.cli.groups import grouped
from luvc_export.cli.groups.camera import CameraOptions
from luvc_export.cli.tables.console import answer_text
from luvc_export.errors import UsageError

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
    plan: options.BundlePlan = None,
    backend: options.Backend = "auto",
    arithmetic: options.Arithmetic = "auto",
    max_new_tokens: sampling_options.MaxNewTokens = None,
    temperature: sampling_options.Temperature = None,
    greedy: sampling_options.Greedy = False,
    top_k: sampling_options.TopK = None,
    top_p: sampling_options.TopP = None,
    min_p: Annotated[
        float | None, typer.Option("--min-p", help="Sample among tokens this many times as likely as the best.")
    ] = None,
    repetition_penalty: Annotated[
        float | None, typer.Option("--repetition-penalty", help="Above 1: less of what prompt and answer have.")
    ] = None,
    presence_penalty: Annotated[
        float | None, typer.Option("--presence-penalty", help="-2 to 2; above 0: less of what the answer has.")
    ] = None,
    frequency_penalty: Annotated[
        float | None, typer.Option("--frequency-penalty", help="-2 to 2; the same, each time it has it.")
    ] = None,
    logit_bias: Annotated[
        list[str] | None, typer.Option("--logit-bias", metavar="ID=BIAS", help="Added to a token's logit; repeat.")
    ] = None,
    logprobs: Annotated[
        int | None, typer.Option("--logprobs", help="With --json: log probabilities, and of so many best tokens.")
    ] = None,
    json_schema: sampling_options.JsonSchema = None,
    regex: sampling_options.Regex = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of sampling.")] = None,
    stop: sampling_options.Stop = None,
    threads: options.Threads = None,
    speculate: options.Speculate = None,
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
    verify: options.Verify = False,
    allow_unverified: Annotated[
        bool,
        typer.Option("--allow-unverified", help="Run engines that luvc.json does not name, graphs nobody ran here."),
    ] = False,
    image_tokens: sampling_options.ImageTokens = None,
    chat_template_kwargs: sampling_options.ChatTemplateKwargs = None,
    max_pixels: sampling_options.MaxPixels = None,
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
    from luvc_export.cli.bucket_line import bucket_counts, bucket_line
    from luvc_export.cli.chat import Chat, line_editing
    from luvc_export.cli.kept_picture import check_picture_file, save_survival
    from luvc_export.core.image_tokens import ceiling
    from luvc_export.pipeline import load_bundle
    from luvc_export.runtime.media.picture_limits import allow

    allow(max_pixels)
    most = None if image_tokens is None else ceiling(image_tokens)
    shown = bool(image or video)
    live.check(prompt, frames, shown or show_kept is not None or logprobs is not None)
    asked = read_prompt(prompt, as_json)
    folders = named_folders([lora] if lora else [])
    values = sampling_options.read_template_values(chat_template_kwargs)
    if show_kept is not None and not shown and asked is not None:
        raise UsageError("--show-kept draws on a picture", where="--show-kept", fix="pass --image or --video")
    if logprobs is not None and not as_json:
        raise UsageError("log probabilities are printed as JSON", where="--logprobs", fix="pass --json")
    if video is None and (fps, None if live.window else frames) != (None, None):
        raise UsageError("--frames and --fps are about a video", where="--frames, --fps", fix="pass --video")
    check_picture_file(show_kept, "--show-kept")
    with options.progress(quiet=as_json) as tell:
        session = load_bundle(
            bundle,
            backend,
            plan,
            threads=threads,
            verify=verify,
            allow_unverified=allow_unverified,
            arithmetic=arithmetic,
            speculate=speculate,
            progress=tell,
            image_tokens=most,
            lora=folders,
        )
    warmed = session.warm_up(images=int(shown or live.camera is not None)) if warm_up else None
    sampling: dict[str, Any] = {"max_new_tokens": max_new_tokens, "seed": seed, "stop": tuple(stop or ())}
    sampling |= {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "regex": regex}
    sampling |= {"repetition_penalty": repetition_penalty, "presence_penalty": presence_penalty}
    sampling |= {
        "frequency_penalty": frequency_penalty,
        "logit_bias": sampling_options.read_bias(logit_bias),
        "logprobs": logprobs,
    }
    sampling["json_schema"] = None if json_schema is None else sampling_options.read_schema(json_schema)
    sampling["greedy"] = greedy or None
    sampling["adapter"] = next(iter(folders), None)
    sampling["chat_template_kwargs"] = values
    sampling = {name: value for name, value in sampling.items() if value is not None}
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
    ways = len(session.bundle.sizes_of(plan)) * max(1, len(session.bundle.manifest.prompt.cuts))
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
    from luvc_export.cli.verbose_lines import verbose_lines

    for line in verbose_lines(session, answer):
        print(line, file=sys.stderr)


def film_line(film: Any) -> str:
    """How much of a video is looked at, and what has a say in it where that is not all."""
    taken = film.taken()
    more = "" if taken.frames == taken.of else " (--frames N; a plan for clips has its own number)"
    return f"{taken.line()}{more}"


def _say_times(explained: Any, answer: Any) -> None:
    """Of a chat's turn; ``explained`` is the session of ``--verbose``."""
    from luvc_export.cli.bucket_line import bucket_line

    if line := bucket_line(answer.selection):
        print(line, file=sys.stderr)
    if explained is not None:
        say_more(explained, answer)
    print(timing_line(answer.timings), file=sys.stderr)


def timing_line(timings: Any) -> str:
    """One line for people: times, speed, cache, visual tokens by layer."""
    speed = timings.tokens_per_s
    tokens = " ".join(map(str, timings.visual_tokens))
    return (
        f"vision {timings.vision_ms:.0f} ms, prefill {timings.prefill_ms:.0f} ms, first token {timings.ttft_ms:.0f} ms"
        + (f", {speed:.1f} tokens/s" if speed else "")
        + drafts_line(timings.drafts)
        + f", KV {timings.kv_mib:.2f} MiB, visual tokens by layer {tokens}"
    )


def drafts_line(drafts: Any) -> str:
    """What drafts brought; nothing where none were asked for."""
    if drafts is None or not drafts.steps:
        return ""
    accepted = f", {drafts.accepted} of {drafts.drafted} drafted accepted" if drafts.drafted else ", none drafted"
    return f", {drafts.tokens_per_step:.2f} tokens a step{accepted}"


def fit_line(selection: Any, known: int) -> str | None:
    """What the pictures were brought to, where the bundle had a choice (``known`` image sizes and grids of tiles)."""
    if known < 2 or not selection.placements:
        return None
    tiles = "".join(f", {rows}x{columns} tiles" for rows, columns in selection.tiles if (rows, columns) != (1, 1))
    return f"images of {selection.size[0]}x{selection.size[1]}{tiles}, of {known} ways to fit a picture"


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
