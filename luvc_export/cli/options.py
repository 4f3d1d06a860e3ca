"""Options and small helpers that several verbs share."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from luvc_export.core.files.json_file import read_json
from luvc_export.core.named_plans import NAMED
from luvc_export.core.plan import MAX_PLAN_BYTES, Plan
from luvc_export.core.plan.request import EncoderPruneRequest
from luvc_export.errors import PlanError, UsageError, did_you_mean, shown

ImageSize = Annotated[
    str | None, typer.Option("--image-size", metavar="HxW", help="Image input; default: the family's, or 672x672.")
]
Verify = Annotated[
    bool, typer.Option("--verify", help="Hash a bundle's large files again, weights in a checkpoint too.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Revision = Annotated[str | None, typer.Option("--revision", help="Hub branch, tag or commit.")]
PlanName = Annotated[
    str,
    typer.Option("--plan", help=f"{', '.join(NAMED)}, none, a schedule, a plan's JSON file, or budgets: 64,32,0."),
]
MergeSchedule = Annotated[
    str,
    typer.Option(
        "--merge-schedule",
        help="Where the encoder merges: late, gradual, early, every (block), or windows: inside them.",
    ),
]
EncoderKeep = Annotated[
    str | None,
    typer.Option(
        "--encoder-keep",
        metavar="SHARE[@BLOCK]",
        help="Share of units that goes on after an encoder block, such as 0.5@7; default block: a third of the depth.",
    ),
]
EncoderRestore = Annotated[
    str, typer.Option("--encoder-restore", help="Of units --encoder-keep left out, the LLM sees: all, or none.")
]
Speedup = Annotated[float | None, typer.Option("--speedup", help="Solve budgets for this factor on prefill FLOPs.")]
KvMib = Annotated[float | None, typer.Option("--kv-mib", help="Solve budgets for a KV cache of this many MiB.")]
Scorer = Annotated[
    Path | None,
    typer.Option("--scorer", metavar="FILE", help="Learned scorer, .safetensors; the score is then learned."),
]
Quota = Annotated[
    str,
    typer.Option(
        "--quota",
        help="How images divide a shared budget: none (by score alone), uniform, spread: more where tokens differ; of "
        "clips v-cast: more where they turn, dycoke: a frame of four whole, or vidcom2: more for unusual frames.",
    ),
]
Split = Annotated[str | None, typer.Option("--split", help="Split of the task, such as harder; default: its own.")]
Axis = Annotated[str | None, typer.Option("--axis", help="Filter along token or channel.")]
Spectrum = Annotated[str | None, typer.Option("--spectrum", help="1d over the span, or 2d over the grid.")]
LastLayer = Annotated[
    str | None, typer.Option("--last-layer", help="drop, kv_only or full; default: drop; for none, full.")
]
KvOnly = Annotated[
    str | None,
    typer.Option(
        "--kv-only",
        metavar="LAYERS",
        help="LLM layers in which visual tokens give keys and values and nothing else, such as 8-20,24.",
    ),
]
Text = Annotated[int, typer.Option("--text", min=1, help="Text tokens counted in costs.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, max=1024, help="CPU threads; default: all cores.")]
Longest = Annotated[
    int | None, typer.Option("--max-new-tokens", min=1, help="Longest answer; default: the task's own, or 32 tokens.")
]
Backend = Annotated[
    str,
    typer.Option(
        "--backend",
        help="auto (what runs the plan here), cpu, cuda, openvino, openvino:DEVICE, openvino+cpu or openvino+openvino "
        "(prompts on the first, tokens after them on the second), tensorrt, or tensorrt:TARGET.",
    ),
]
Arithmetic = Annotated[
    str,
    typer.Option("--arithmetic", help="Of products: fp32, bf16, fp16, or auto for what the device is best at."),
]
Speculate = Annotated[
    str | None,
    typer.Option(
        "--speculate",
        metavar="lookup[:N]|draft:BUNDLE[:N]",
        help="Draft up to N tokens a step of what prompt and answer repeat, or by a smaller model; the same answers.",
    ),
]
Adapters = Annotated[
    list[str] | None,
    typer.Option(
        "--lora", metavar="NAME=FOLDER", help="A peft adapter for a bundle exported with --lora-slots; repeat."
    ),
]
BundlePlan = Annotated[str | None, typer.Option("--plan", help="Plan of the bundle; default: its default.")]
Data = Annotated[
    str | None,
    typer.Option("--data", metavar="SET", help="Calibration set: a folder of pictures, a JSON Lines file, or a task."),
]

#: Budgets of a plan; those below 0 are refused as budgets, not as an unknown name.
_BUDGETS = re.compile(r"[\s,]*-?\d+(?:[\s,]+-?\d+)*[\s,]*")


def size(text: str | None) -> tuple[int, int] | None:
    """Parse ``HxW``, or one number for a square; None stays None.

    Raises:
        UsageError: It is neither.
    """
    return None if text is None else _pair(text, "the image size", "--image-size", "HxW, such as 672x672")


Tiles = Annotated[
    list[str] | None,
    typer.Option("--tiles", metavar="RxC", help="Rows x columns of tiles a picture may be cut to; repeat."),
]

JointTiles = Annotated[
    str | None,
    typer.Option(
        "--joint-tiles", metavar="RxC", help="Budgets that so many tiles of a picture share, the whole among them."
    ),
]


def joint_tiles(text: str | None) -> tuple[int, int] | None:
    """Parse ``RxC`` of ``--joint-tiles``.

    Raises:
        UsageError: It is no such pair.
    """
    return None if text is None else _pair(text, "the tiles", "--joint-tiles", "RxC, such as 2x3")


def grids(texts: list[str] | None) -> tuple[tuple[int, int], ...]:
    """Parse every ``RxC`` of ``--tiles``; no tiles where there is none.

    Raises:
        UsageError: One is no such pair.
    """
    return tuple(grid(text) for text in texts or ()) or ((1, 1),)


def grid(text: str) -> tuple[int, int]:
    """Parse ``RxC``, rows and columns of tiles.

    Raises:
        UsageError: It is no such pair.
    """
    return _pair(text, "the tiles", "--tiles", "RxC, such as 2x3")


def layers(text: str | None) -> tuple[int, ...]:
    """Parse numbers of layers and runs of them, ``8-20,24``, into ascending ones; None is no layer.

    Raises:
        UsageError: It is no such list, or so long that no model has these layers.
    """
    numbers = set[int]()
    for part in [] if text is None else re.split(r"[\s,]+", text.strip()):
        match = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise UsageError("cannot read the layers", where="--kv-only", got=text, expected="such as 8-20,24")
        numbers.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(sorted(numbers))


def _pair(text: str, what: str, where: str, expected: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d*)(?:[xX]([1-9]\d*))?", text.strip())
    if not match:
        raise UsageError(f"cannot read {what}", where=where, got=text, expected=expected)
    return int(match[1]), int(match[2] or match[1])


def encoder_prune(keep: str | None, restore: str) -> EncoderPruneRequest | None:
    """What ``--encoder-keep`` and ``--encoder-restore`` ask; None where nothing.

    Raises:
        UsageError: It cannot be read, or units are to come back that never left.
    """
    choice("--encoder-restore", restore, ("all", "none"))
    if keep is None:
        if restore != "all":
            raise UsageError(
                "all units stay, so none can come back", where="--encoder-restore", fix="give --encoder-keep too"
            )
        return None
    return EncoderPruneRequest(*share_at(keep, "--encoder-keep"), restore)  # type: ignore[arg-type]


def share_at(text: str, flag: str) -> tuple[float, int | None]:
    """Parse ``SHARE@BLOCK``; None for the block where it is not said.

    Raises:
        UsageError: It is neither that nor a share.
    """
    match = re.fullmatch(r"(\d*\.?\d+)(?:@(\d+))?", text.strip())
    if not match:
        raise UsageError("cannot read the share", where=flag, got=text, expected="SHARE or SHARE@BLOCK, such as 0.5@7")
    return float(match[1]), None if match[2] is None else int(match[2])


UnitBuckets = Annotated[
    str | None,
    typer.Option(
        "--unit-buckets",
        metavar="25,50,..",
        help="Percent of units: also graphs of fewer, for pictures whose other units neighbours foretell; no merging.",
    ),
]
UnitTolerance = Annotated[
    int,
    typer.Option("--unit-tolerance", metavar="LEVELS", help="Pixel levels up to which a unit is foretold; 0: exactly."),
]


def percentages(text: str | None) -> tuple[int, ...]:
    """Parse ``25,50,75,100``; none where there is nothing.

    Raises:
        UsageError: It is no such list.
    """
    parts = [] if text is None else re.split(r"[\s,]+", text.strip())
    if not all(re.fullmatch(r"\d{1,4}", part) for part in parts):
        expected = "ascending percentages such as 25,50,75,100"
        raise UsageError("cannot read the buckets", where="--unit-buckets", got=text, expected=expected)
    return tuple(int(part) for part in parts)


def aspect(text: str) -> float:
    """Parse ``W:H``: how many times as wide as high.

    Raises:
        UsageError: It is no such pair.
    """
    match = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", text.strip())
    if not match:
        raise UsageError("cannot read the shape", where="--aspect", got=text, expected="W:H, such as 16:9")
    return int(match[1]) / int(match[2])


def learned(score: str | None, file: Path) -> tuple[str, str]:
    """The score that ``--scorer`` asks for, and the sha256 of its file, which is read and checked.

    Args:
        score: Of ``--score``.
        file: Of ``--scorer``.

    Raises:
        UsageError: Another score is asked for.
        PlanError: The file is no scorer.
    """
    if score not in (None, "learned"):
        raise UsageError(
            "a scorer is for the score 'learned'", where="--scorer", got=f"--score {score}", fix="leave --score out"
        )
    from luvc_export.export.compression.scorer_file import open_scorer

    return "learned", open_scorer(file).sha256


def plan_source(plan: str) -> str | list[int] | Plan:
    """What a user named with ``--plan``: a schedule, budgets, or the plan in a file.

    Raises:
        PlanError: There is no such file, or it holds no plan.
    """
    if plan.endswith(".json"):
        path = Path(plan)
        if not path.is_file():
            raise PlanError("there is no such plan file", where="--plan", got=plan, fix="luvc-export plan ... -o FILE")
        return Plan.from_json(read_json(path, MAX_PLAN_BYTES, PlanError, "the plan file"), str(path))
    return [int(part) for part in re.split(r"[\s,]+", plan) if part] if _BUDGETS.fullmatch(plan) else plan


@contextmanager
def progress(quiet: bool) -> Iterator[Any]:
    """A progress callback (stage, fraction) drawn on stderr, or one that does nothing."""
    if quiet:
        yield lambda stage, done: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from luvc_export.cli.tables import console as consoles

    columns = (TextColumn("{task.description:<34}", markup=False), BarColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=consoles.console(stderr=True))
    tasks: dict[str, Any] = {}

    def tell(stage: str, done: float) -> None:
        if stage not in tasks:
            bar.start()  # here and not before: an empty bar leaves an empty line
            tasks[stage] = bar.add_task(shown(stage), total=1.0)
        bar.update(tasks[stage], completed=done)

    try:
        yield tell
    finally:
        if tasks:
            bar.stop()


def choice(flag: str, value: str, known: tuple[str, ...]) -> None:
    """Check one of a few words.

    Raises:
        UsageError: ``value`` is not among ``known``.
    """
    if value not in known:
        raise UsageError("unknown choice", where=flag, got=repr(value), expected=did_you_mean(value, known))


def given(context: typer.Context) -> list[str]:
    """Names of the parameters that the command line says."""
    return [name for name in context.params if context.get_parameter_source(name).name == "COMMANDLINE"]  # type: ignore[union-attr]


def flag(name: str) -> str:
    """The option of parameter ``name``."""
    return "--" + name.replace("_", "-")


def plan_name(plan: str) -> str:
    """Name of a plan in the bundle: the schedule, the file's stem, or ``list``."""
    if plan.endswith(".json"):
        return re.sub(r"[^\w.-]", "-", Path(plan).stem)
    return "list" if _BUDGETS.fullmatch(plan) else plan
