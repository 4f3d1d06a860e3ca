"""One command's worth of ablation: open, measure, write tables and plots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from luvc_export.bundle.manifest import Manifest
from luvc_export.calibration import runners
from luvc_export.calibration.ablation import encoder_section, tables
from luvc_export.calibration.ablation.evaluator import PlanEvaluator
from luvc_export.calibration.ablation.store import Store, weights_hash
from luvc_export.calibration.ablation.study import Study, from_plain, plain, run
from luvc_export.calibration.ablation.variants import Shapes
from luvc_export.calibration.tasks import Task
from luvc_export.core.files.folders import make_folder
from luvc_export.core.files.json_file import dumps, read_json
from luvc_export.core.files.safe_files import write_whole
from luvc_export.errors import Progress, UsageError
from luvc_export.export.checkpoint import Checkpoint, open_checkpoint
from luvc_export.export.compression.scorer_file import known

#: Changes when a record's meaning does, so that old measurements are not mixed in.
RECORDS = 1

#: What the page and its plots are made of.
FIGURES = "ablation.json"

#: What an interrupted run goes on with; thousands of verdicts, so not for git.
MEASUREMENTS = "ablation-measurements.json"


def ablate(
    task: Task,
    output: Path,
    command: str,
    model: str | None = None,
    count: int = 2000,
    side: int = 700,
    search: int = 420,
    text: int | None = None,
    threads: int | None = None,
    scorer: str = "",
    progress: Progress = lambda stage, done: None,
) -> dict[str, Any]:
    """Run the study; write ``ablation.md``, ``ablation.json``, its plots and measurements into ``output``.

    Args:
        task: What is asked.
        output: Folder.
        command: What the document says it was written by.
        model: Checkpoint; None for the task's own.
        count: Questions of the reported split.
        side: Questions in side sections, the first of those.
        search: Questions of the search split.
        text: Text tokens in FLOPs, KV bytes and times; None for the median of the reported prompts.
        threads: CPU threads.
        scorer: Hash of a learned scorer that was opened, to be compared too.
        progress: Told (stage, fraction).

    Raises:
        UsageError: Neither ``model`` nor the task names a checkpoint.
        PlanError: The scorer has not learned every layer, or is for another width.
    """
    checkpoint = open_model(task, model, threads)
    llm = checkpoint.family.decoder_shape(checkpoint.config)
    for layer in range(llm.layers) if scorer else ():
        known(scorer).of(layer, llm.hidden)
    reported = list(task.cases(task.report[0], count, task.report[1]))
    searched = list(task.cases(task.search[0], search, task.search[1]))
    engines = evaluators(checkpoint, task, {"report": reported, "side": reported[:side], "search": searched})
    unit = checkpoint.family.unit_pixels(checkpoint.config)
    grid = (task.image_size[0] // unit, task.image_size[1] // unit)
    shapes = Shapes(grid, llm, checkpoint.family.encoder_shape(checkpoint.config))
    depends_on = about_of(task, checkpoint, RECORDS)
    about = {"command": command, **depends_on, "side": side, "search_count": search}
    text = engines["report"].median_text(shapes.none()) if text is None else text
    store = Store(output / MEASUREMENTS, depends_on)
    about |= {"scorer": scorer} if scorer else {}
    study = Study(engines, shapes, store, text, progress, scorer)
    results = {**run(study), "cheaper": encoder_section.measure(study, "side")}
    data: dict[str, Any] = {"about": about, **plain(results)}
    write_figures(output, FIGURES, data)
    write_pages(output)
    return data


def open_model(task: Task, model: str | None, threads: int | None) -> Checkpoint:
    """The checkpoint ``model``, or the task's own; torch computes with ``threads`` from now on.

    Raises:
        UsageError: Neither names one.
    """
    where = model or (str(task.checkpoint) if task.checkpoint else None)
    if where is None:
        raise UsageError("the task has no model of its own", where=task.name, fix="--model CHECKPOINT")
    if threads is not None:
        torch.set_num_threads(threads)
    return open_checkpoint(where)


def evaluators(
    checkpoint: Checkpoint, task: Task, asked: Mapping[str, Iterable[Any]], image: Manifest | None = None
) -> dict[str, PlanEvaluator]:
    """What asks cases under plans, by name, of a checkpoint that is loaded once; ``image``: see ``PlanEvaluator``."""
    loaded = runners.load_model(checkpoint)
    return {
        name: PlanEvaluator(checkpoint, loaded, list(cases), task.stops, image=image) for name, cases in asked.items()
    }


def write_figures(folder: Path, file: str, data: dict[str, Any], pages: Mapping[str, str] | None = None) -> None:
    """Write figures, and pages by name, into a folder, which is made."""
    make_folder(folder)
    write_whole(folder / file, dumps(data) + "\n")
    for name, page in (pages or {}).items():
        write_whole(folder / name, page)


def about_of(task: Task, checkpoint: Checkpoint, records: int) -> dict[str, Any]:
    """What measurements of a task depend on: its splits, weights, and the version ``records`` of what is stored."""
    splits = {"report": task.report, "search": task.search}
    return {
        "task": task.name,
        "weights": weights_hash(checkpoint.folder),
        **{name: f"{split}, seed {seed}" for name, (split, seed) in splits.items()},
        "records": records,
    }


def write_pages(folder: Path) -> None:
    """Write ``ablation.md`` and its plots from the figures in ``ablation.json`` beside them.

    Raises:
        UsageError: There are no figures.
        MachineError: matplotlib is not installed.
    """
    file = folder / FIGURES
    if not file.is_file():
        raise UsageError("no figures to write a page from", where=str(file), fix="luvc-export ablate -o FOLDER")
    data = read_json(file, 2**28, UsageError, "the file of figures")
    about, results = data.pop("about"), from_plain(data)
    write_whole(folder / "ablation.md", tables.page(results, about))
    write_whole(folder / "ablation-horizon.png", tables.horizon(results))
    write_whole(folder / "ablation-budget.png", tables.curve(results, "tokens"))
    write_whole(folder / "ablation-time.png", tables.curve(results, "time"))
