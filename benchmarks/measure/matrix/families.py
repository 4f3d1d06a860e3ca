"""Run every family through every verb, and write docs/results/families.json, from which docs/families.md has its table.

Run: python benchmarks/measure/matrix/families.py FOLDER [--refused] [FAMILY ...]. Small checkpoints of random weights
are written into FOLDER with the processor's settings, tokenizer and chat template of their family, and given to the
command line: export, run, parity against transformers and against torch, calibrate, plan --data, build. Pictures are
padded. A cell is "yes" if every command of it ended well; else it says which one did not. What a family has none of,
tiles or videos, is asked for too, and the cell is the refusal (--refused: that alone, beside what stands there). A
family named alone keeps the others.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from PIL import Image

HERE = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(HERE / "tests" / "export" / "families"), str(HERE / "tests")]
import family_chat  # noqa: E402
from family_questions import TILED, questions, small  # noqa: E402

from luvc_export.cli import main  # noqa: E402
from luvc_export.export import families  # noqa: E402

OUTPUT = HERE / "docs" / "results" / "families.json"
#: Frames that share a budget in a joint plan.
FRAMES = 4
TOKENS = 24


class FailedError(Exception):
    """A command that did not end with 0; its text is the last line that says why."""


def command(*words: object) -> str:
    """Run the command line in this process; what it printed.

    Raises:
        FailedError: It ended with another code than 0.
    """
    printed, blamed = io.StringIO(), io.StringIO()
    sys.argv = ["luvc-export", *map(str, words)]
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(blamed):
        try:
            main()
        except SystemExit as stop:
            if stop.code not in (0, None):
                raise FailedError(f"{words[0]}: {_why(blamed.getvalue()) or stop.code}") from stop
    return printed.getvalue()


def _why(blamed: str) -> str | None:
    """What an error says it is, on a line of its own or in the JSON that ``--json`` makes of it."""
    for line in reversed(blamed.splitlines()):
        if line.startswith('{"error"'):
            return str(json.loads(line)["error"]["what"])
        if line.startswith(("error", "internal")):
            return line
    return None


def write_cases(folder: Path, name: str, kind: str) -> Path:
    """Cases of ``family_questions`` as files; a question without media is left out of sets that are calibrated on."""
    lines = []
    for number, case in enumerate(questions(name, kind)):
        line: dict[str, Any] = {"prompt": case.prompt}
        if case.images:
            line["image"] = [f"{kind}{number}-{index}.png" for index in range(len(case.images))]
            for file, pixels in zip(line["image"], case.images, strict=True):
                Image.fromarray(pixels).save(folder / file)
        if case.video:
            line |= {"video": f"{kind}{number}", "fps": case.fps}
            (folder / line["video"]).mkdir()
            for index, frame in enumerate(case.video):
                Image.fromarray(frame).save(folder / line["video"] / f"{index}.png")
        lines += [line | {"prompt": case.prompt + "?" * turn} for turn in range(2)]
    path = folder / f"{kind}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def checked(
    model: Path, bundle: Path, cases: Path, plan: str = "even", none: str = "none"
) -> Iterator[tuple[str, str]]:
    """Both parities and calibrate of a bundle; (cell, what it shows)."""
    common = ("--cases", cases, "--max-new-tokens", TOKENS, "--json")
    compressed = ("--retention", 0) if none != "none" else ()
    report = json.loads(command("parity", f"hf:{model}", f"{bundle}#{none}", *common, *compressed))
    worst = max((step["rel_l2"] for step in report["tensors"]), default=0.0) if not compressed else None
    yield "parity hf", "yes" if worst is None else f"{worst:.0e}"
    command("parity", f"torch:{model}", f"{bundle}#{plan}", *common)
    yield "parity torch", "yes"
    output = bundle.with_name(f"{cases.stem}-{plan.replace('@', '-')}-q8")
    command(
        "calibrate", bundle, "--precision", "q8", "--data", cases, "--plan", plan, "--min-agreement", 0, "-o", output,
        "--max-new-tokens", 4, "--json",
    )  # fmt: skip
    yield "calibrate", "yes"


def searched(model: Path, cases: Path, size: str, *media: object) -> None:
    """A search whose bar few questions can hold, without merging; weights are random, so either verdict is one."""
    try:
        command(
            "plan", model, "--data", cases, "--image-size", size, "--retention", 0.05, "--merge-keep", 1,
            "--max-new-tokens", 3, "--json", *media,
        )  # fmt: skip
    except FailedError as error:
        if "the searched plan does not hold on the held-out part" not in str(error):
            raise


def has_video(name: str) -> bool:
    """Whether the family takes videos."""
    return small(name).family.video(small(name).config) is not None


def plain(name: str, folder: Path, model: Path, size: str) -> Iterator[tuple[str, str]]:
    """The cells about pictures; the bundle takes tiles and videos too, where the family has them."""
    bundle, cases = folder / "bundle", write_cases(folder, name, "pictures")
    media: list[object] = ["--tiles", "1x1", "--tiles", "1x2"] if name in TILED else []
    media += ["--joint-frames", FRAMES] if has_video(name) else []
    shape = ("--image-size", size, "--text-capacity", 256, *media)
    command("export", model, "-o", bundle, "--plan", "even", "--plan", "none", *shape)
    yield "export", "yes"
    command("run", bundle, "--image", folder / "pictures0-0.png", "--prompt", "Hi", "--max-new-tokens", 4, "--json")
    yield "run", "yes"
    yield from checked(model, bundle, cases)
    searched(model, cases, size)
    yield "plan --data", "yes"
    if find_spec("tensorrt_rtx"):
        command("build", bundle, "--target", "rtx-ada", "--plan", "even", "--precision", "fp16", "--json")
        yield "build rtx", "yes"


def tiles(name: str, folder: Path, model: Path, size: str) -> Iterator[tuple[str, str]]:
    """One cell: all of it with tiles."""
    bundle, cases, grids = folder / "bundle", write_cases(folder, name, "tiles"), ("--tiles", "1x2")
    command("run", bundle, "--image", folder / "tiles0-0.png", "--prompt", "Hi", "--max-new-tokens", 4, "--json")
    [*checked(model, bundle, cases)]
    searched(model, cases, size, *grids)
    yield "tiles", "yes"


def videos(name: str, folder: Path, model: Path, size: str) -> Iterator[tuple[str, str]]:
    """Two cells: videos with a budget for each image, and with one for all; pooled frames have the second alone."""
    bundle, cases = folder / "bundle", write_cases(folder, name, "videos")
    pooled = small(name).family.video(small(name).config).pooled  # type: ignore[union-attr]
    if not pooled:
        [*checked(model, bundle, cases)]
        searched(model, cases, size, "--video")
        yield "video", "yes"
    command("run", bundle, "--video", folder / "videos0", "--prompt", "Hi", "--max-new-tokens", 4, "--json")
    if pooled:
        command("parity", f"hf:{model}", f"{bundle}#none@video", "--cases", cases, "--max-new-tokens", TOKENS, "--json")
    [*checked(model, bundle, cases, "even@video", "even@video")]
    if not pooled:
        searched(model, cases, size, "--joint-frames", FRAMES)
    yield "joint", "yes"


def shared(name: str, folder: Path, model: Path, size: str) -> Iterator[tuple[str, str]]:
    """One cell: tiles of a picture with one budget for all; no search has it."""
    bundle, media = folder / "shared", ("--joint-tiles", "1x2", "--image-size", size, "--text-capacity", 256)
    command("export", model, "-o", bundle, "--plan", "even", *media)
    command("run", bundle, "--image", folder / "tiles0-0.png", "--prompt", "Hi", "--max-new-tokens", 4, "--json")
    [*checked(model, bundle, folder / "tiles.jsonl", "even@tiles", "even@tiles")]
    yield "joint", "yes"


def absent(name: str, folder: Path, model: Path, size: str) -> Iterator[tuple[str, str]]:
    """Cells of what the family has none of: the error of the export that asks for it.

    Raises:
        FailedError: It is exported.
    """
    ways: dict[str, tuple[object, ...]] = {} if name in TILED else {"tiles": ("--tiles", "1x2")}
    clips = small(name).family.video(small(name).config)
    ways |= {"video": ("--video",)} if clips is None or clips.pooled else {}
    ways |= {"joint": ("--joint-frames", FRAMES)} if clips is None and name not in TILED else {}
    for cell, media in ways.items():
        try:
            command("export", model, "-o", folder / "absent", "--plan", "even", "--image-size", size, *media)
        except FailedError as error:
            yield cell, f"refused: {str(error).removeprefix('export: error: ').replace(name, 'this family')}"
        else:
            raise FailedError(f"export {cell}: it was not refused")


def row(name: str, folder: Path, standing: dict[str, str] | None = None) -> dict[str, str]:
    """Every cell of a family; of one that has those of ``standing``, the refused ones."""
    tiny = small(name)
    folder.mkdir(parents=True)
    model, size = family_chat.save(tiny, folder / "model"), f"{tiny.size[0]}x{tiny.size[1]}"
    media = [videos] if has_video(name) else [shared] if name in TILED else []
    parts = [plain, *([tiles] if name in TILED else []), *media, absent] if standing is None else [absent]
    cells = dict(standing or {})
    for part in parts:
        try:
            for cell, shown in part(name, folder, model, size):
                cells[cell] = shown
                print(f"{name:16} {cell:14} {shown}", flush=True)
        except FailedError as error:
            cells[f"failed in {part.__name__}"] = str(error)
            print(f"{name:16} {part.__name__:14} FAILED {error}", flush=True)
    return cells


if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("families", nargs="*", default=families.built_in())
    parser.add_argument("--refused", action="store_true", help="only what a family has none of")
    options = parser.parse_intermixed_args()
    kept = json.loads(OUTPUT.read_text(encoding="utf-8")) if OUTPUT.is_file() else {}
    for each in options.families:
        kept[each] = row(each, options.folder / each, kept[each] if options.refused else None)
        kept = {name: kept[name] for name in families.built_in() if name in kept}
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(cells)}" for name, cells in kept.items())
        OUTPUT.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
