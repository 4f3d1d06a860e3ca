"""Beside an answer: lines on its times, pictures and video, and a drawing of what its pictures merged to and kept."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from luvc_export.cli.files import check_writable, write_whole
from luvc_export.core.files.safe_files import whole
from luvc_export.errors import LuvcError, UsageError


def check_picture_file(path: Path | None, flag: str) -> None:
    """Refuse a file that a PNG cannot be written to, before the work; None is fine.

    Raises:
        UsageError: Its name says something else, or see ``check_writable``.
    """
    if path is not None and path.suffix.lower() != ".png":
        raise UsageError("a PNG is drawn", where=f"{flag} {path}", expected="a name that ends in .png")
    check_writable(path, flag)


def save_survival(generation: Any, path: Path) -> None:
    """Draw merges and survivors of every image of the answer to ``path``: pictures, tiles, moments of a video.

    Raises:
        UsageError: Nothing was seen, or the graphs do not say what merged.
    """
    from PIL import Image

    if not len(generation.past.images) or generation.selection.merged_into is None:
        raise UsageError("no picture was seen in this answer", where=str(path), fix="ask about a picture")
    sheets = list(_sheets(generation))
    whole = Image.new("RGB", (sheets[0].width, sum(sheet.height for sheet in sheets)))
    top = 0
    for sheet in sheets:
        whole.paste(sheet, (0, top))
        top += sheet.height
    drawn = io.BytesIO()
    whole.save(drawn, format="PNG")
    write_whole(path, drawn.getvalue())


def _sheets(generation: Any) -> Iterator[Any]:
    from luvc_export.runtime.generation.result import kept_of
    from luvc_export.runtime.media.token_visualisation import draw

    plan, selection = generation.past.loaded.plan, generation.selection
    means = [layer for layer, _, _ in plan.chooses] if plan.llm.aggregate else []
    images = generation.past.images[-len(selection.merged_into) :]  # of a later turn, those it brought
    for number, merged in enumerate(selection.merged_into):
        kept = {layer: kept_of(groups, number, plan) for layer, groups in selection.kept.items()}
        kept |= {layer: np.zeros(0, np.int64) for layer, _, keep in plan.prunes if keep == 0}
        padding = None if selection.padding is None else selection.padding[number]
        facts = {"padding": padding, "means": means, "foretold": plan.encoder.takes_units}
        yield draw(images[number][0], plan.grid, merged, kept, **facts)


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


def film_line(film: Any) -> str:
    """How much of a video is looked at, and what has a say in it where that is not all."""
    taken = film.taken()
    more = "" if taken.frames == taken.of else " (--frames N; a plan for clips has its own number)"
    return f"{taken.line()}{more}"


def fit_line(selection: Any, known: int) -> str | None:
    """What the pictures were brought to, where the bundle had a choice (``known`` image sizes and grids of tiles)."""
    if known < 2 or not selection.placements:
        return None
    tiles = "".join(f", {rows}x{columns} tiles" for rows, columns in selection.tiles if (rows, columns) != (1, 1))
    return f"images of {selection.size[0]}x{selection.size[1]}{tiles}, of {known} ways to fit a picture"


def bucket_counts(selection: Any) -> dict[str, int] | None:
    """Units of all pictures: ``all``, ``computed``, ``novel`` and ``lost`` (novel, but not computed).

    None where the bundle has no buckets, or nothing was seen.
    """
    if selection.novel is None or not len(selection.novel):
        return None
    novel = selection.novel.reshape(len(selection.novel), -1)
    seen = np.ones_like(novel) if selection.merged_into is None else selection.merged_into >= 0
    masks = {"all": novel, "computed": seen, "novel": novel, "lost": novel & ~seen}
    return {"all": novel.size} | {name: int(masks[name].sum()) for name in ("computed", "novel", "lost")}


def bucket_line(selection: Any) -> str | None:
    """``bucket_counts`` for people."""
    if (counts := bucket_counts(selection)) is None:
        return None
    lost = f"; {counts['lost']} of those are left out: too many for this bucket" if counts["lost"] else ""
    return f"{counts['computed']} of {counts['all']} units computed; neighbours do not foretell {counts['novel']}{lost}"


def verbose_lines(session: Any, answer: Any) -> Iterator[str]:
    """Lines for people; what ``Session.notes`` says already is not among them."""
    from luvc_export.runtime.backend_choice import step_times
    from luvc_export.runtime.prompt.template import described

    bundle, manifest = session.bundle, session.bundle.manifest
    entry = bundle.entry(session.default.plan_name)
    yield f"model {manifest.source.model} ({manifest.source.model_type}), exported in {manifest.dtype}"
    height, width = answer.selection.size
    yield f"plan {session.default.plan_name}, products in {entry.precision}, images of {height}x{width}"
    yield f"chat template {described(bundle)}"
    if manifest.vocabulary is None:
        yield f"answers are written with all {manifest.decoder.vocab:,} tokens"
    if products := session.backend.in_place:
        yield f"{products} products of the LLM read weights where the file lies, packed where answers share steps"
    times = step_times(bundle, session.default.plan_name)
    if times:
        yield "products of a step, tried here: " + ", ".join(
            f"{way} {1000 * spent:.2f} ms" for way, spent in sorted(times.items(), key=lambda item: item[1])
        )


def answer_facts(session: Any, answer: Any, film: Any) -> dict[str, Any]:
    """An answer as ``run --json`` prints it; ``film`` is what was taken of a video, None without one."""
    return {
        "text": answer.text,
        "token_ids": answer.token_ids,
        "finish_reason": answer.finish_reason,
        "timings": answer.timings.to_json(),
        "image_size": answer.selection.size,
        "tiles": answer.selection.tiles,
        "units": bucket_counts(answer.selection),
        "video": None if film is None else film.taken().to_json(),
        "backend": answer.backend,
        "arithmetic": answer.arithmetic,
        "choice": session.choice,
        "notes": session.notes,
        "logprobs": None if answer.logprobs is None else [asdict(one) for one in answer.logprobs],
    }


def answer_lines(session: Any, answer: Any, plan: str | None, warmed: float | None) -> Iterator[str]:
    """What stands below an answer but its times; ``warmed`` is what warming up took, in ms."""
    ways = len(session.bundle.sizes_of(plan)) * max(1, len(session.bundle.manifest.prompt.cuts))
    yield from filter(None, (fit_line(answer.selection, ways), bucket_line(answer.selection)))
    ready = "" if warmed is None else f", warmed up in {warmed:.0f} ms"
    yield f"{session.choice or f'backend {answer.backend}'}, {answer.arithmetic}{ready}"
    if answer.finish_reason == "length":
        yield f"cut after {len(answer.token_ids)} tokens, the answer goes on: --max-new-tokens"
    yield from session.notes


def write_answer(pieces: Iterable[str], path: Path) -> None:
    """Write an answer to a file that is there once it ends; one that is stopped stays as far as it came.

    Raises:
        OSError: The system refuses, with the path.
    """
    stopped: BaseException | None = None
    with whole(path) as file:
        try:
            for piece in pieces:
                file.write(piece.encode())
        except (KeyboardInterrupt, LuvcError) as error:
            stopped = error
    if stopped is not None:
        raise stopped
