"""Verbs that write: their words, what makes them quick, and what says that a thing they wrote is whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from luvc_export.bundle import folder as bundles
from luvc_export.bundle.replacing import strangers
from luvc_export.core.files import safe_files
from luvc_export.demo import CHECKPOINT, IMAGE_SIZE

#: Pictures that are searched.
PAGES = Path(__file__).parents[1] / "docs" / "results"
SIZE = f"{IMAGE_SIZE[0]}x{IMAGE_SIZE[1]}"


@dataclass(frozen=True)
class Verb:
    """A verb that writes: its words, what it writes, and who says whether that is whole.

    Args:
        words: For ``luvc-export``; ``BUNDLE``, ``OUT`` and ``CASES``, a file of six questions, stand for paths.
        check: Raises where what lies at OUT is neither the old nor the new one; missing is looked at before.
        over: Whether an old one lies there.
        patches: Keeps a long computation out of it, given a bundle to take graphs from.
    """

    words: tuple[str, ...]
    check: Callable[[Path], None]
    over: bool = True
    patches: Callable[[Path], None] = lambda base: None


def whole_bundle(path: Path) -> None:
    """Loads, every hash right, holds nothing but its own."""
    bundle = bundles.load(path, full=True)
    if left := strangers(path, bundle.manifest):
        raise AssertionError(f"unlisted: {left}")


def whole_json(path: Path) -> None:
    json.loads(path.read_text())


def whole_page(path: Path) -> None:
    if not path.read_text().rstrip().endswith("</html>"):
        raise AssertionError("half a page")


def whole_folder(path: Path) -> None:
    """JSON files are JSON, pictures end as PNG do, pages hold something."""
    for file in path.iterdir():
        if safe_files.is_scratch(file.name):
            continue
        data = file.read_bytes()
        if file.suffix == ".json":
            json.loads(data)
        elif file.suffix == ".png" and not data.endswith(b"IEND\xaeB`\x82"):
            raise AssertionError(f"half of {file.name}")
        elif not data:
            raise AssertionError(f"nothing in {file.name}")


def whole_checkpoint(path: Path) -> None:
    from luvc_export.export.checkpoint import open_checkpoint

    open_checkpoint(str(path))


def _no_tracing(base: Path) -> None:
    """Graphs are those of ``base``: an export then takes a second, as long as what writes."""
    from luvc_export.bundle.manifest import PlanEntry
    from luvc_export.export import bundling

    def write(self: bundling._GraphWriter, plan: Any, name: str, size: tuple[int, int], *_: object) -> PlanEntry:
        self.used |= set(self.places)
        for file in ("vision.none.onnx", "decoder.none.onnx"):
            safe_files.write_new(self.folder / file, (base / file).read_bytes())
        return PlanEntry(plan, "vision.none.onnx", "decoder.none.onnx", size=size, precision=self.options.dtype)

    bundling._GraphWriter.write = write  # type: ignore[method-assign]


def _no_answers(base: Path) -> None:
    from luvc_export.calibration.ablation import study as timing
    from luvc_export.calibration.ablation.evaluator import PlanEvaluator

    PlanEvaluator.right = lambda self, plan: [True] * len(self.cases)  # type: ignore[method-assign]
    timing.measure = lambda engine, plans, text: [timing.Times(1.0, 1.0, 1.0)] * len(plans)


def _no_workers(base: Path) -> None:
    """A batch is answered in its own process."""
    from luvc_export.batch import pool
    from luvc_export.batch.answerer import Answer

    def answered(job: Any, source: Any, shards: list[int], *arguments: object) -> Iterator[Any]:
        for index in shards:
            for row in source.read(index):
                yield pool.Answered(row.number, None, Answer(f"to {row.line}"))

    pool.answered = answered  # type: ignore[assignment]


def whole_shards(path: Path) -> None:
    """Each has its rows, in order."""
    for file in path.glob("part-*"):
        if [json.loads(line)["row"] // 2 for line in file.read_text().splitlines()] != [int(file.stem[5:])] * 2:
            raise AssertionError(f"half of {file.name}")


def _no_model(base: Path) -> None:
    """Every page has the same vector, without a model."""
    import numpy as np

    from luvc_export import pipeline
    from luvc_export.core import tasks

    facts = {"embedding": tasks.Embedding(), "row_width": 4, "source": SimpleNamespace(model="none")}
    manifest = SimpleNamespace(does=tasks.find("embed"), **facts)
    session = SimpleNamespace(bundle=SimpleNamespace(folder=base, manifest=manifest), plan_name="none")
    session.embed = lambda images=(), texts=(), **more: np.ones((len([*images, *texts]), 4), np.float32)
    session.backend = SimpleNamespace(name="none")
    pipeline.load_bundle = lambda *arguments, **options: session  # type: ignore[assignment]


def whole_index(path: Path) -> None:
    """What it names is there, as long as it says."""
    if (path / "index.json").exists():
        for name, record in json.loads((path / "index.json").read_text())["vectors"]:
            if (path / name).stat().st_size != record["bytes"]:
                raise AssertionError(f"half of {name}")


def whole_trial(path: Path) -> None:
    """The journal is JSON, and so is every line of the cases."""
    for file in (path / "journal.json", path / "report.json"):
        if file.is_file():
            json.loads(file.read_text())
    listed = path / "cases" / "cases.jsonl"
    for line in listed.read_text().splitlines() if listed.is_file() else ():
        json.loads(line)


def whole_models(path: Path) -> None:
    """Each has its configuration, program and bundle."""
    for place in path.iterdir():
        if not safe_files.is_scratch(place.name):
            whole_bundle(place / "bundle")
            if not all((place / name).stat().st_size for name in ("config.pbtxt", "1/model.py", "warmup/image")):
                raise AssertionError(f"half of {place.name}")


_ASKED = ("--task", "glyph", "--count", "2")
VERBS: dict[str, Verb] = {
    "export": Verb(
        ("export", str(CHECKPOINT), "-o", "OUT", "--image-size", SIZE, "--plan", "none", "--overwrite"),
        whole_bundle,
        patches=_no_tracing,
    ),
    "calibrate": Verb(
        (
            "calibrate",
            "OUT",
            "--precision",
            "q8",
            "--data",
            "glyph",
            "--count",
            "28",
            "--min-agreement",
            "0",
            "--overwrite",
            "--max-new-tokens",
            "1",
        ),
        whole_bundle,
    ),
    "build": Verb(("build", "OUT", "--target", "rtx-ada", "--plan", "none", "--text-capacity", "32"), whole_bundle),
    "pack": Verb(
        (
            "pack",
            "BUNDLE",
            "--target",
            "jetson-agx-orin-jp62",
            "-o",
            "OUT",
            "--count",
            "1",
            "--text-capacity",
            "96",
            "--overwrite",
        ),
        whole_bundle,
        over=False,
    ),
    "plan": Verb(("plan", str(CHECKPOINT), "--image-size", SIZE, "-o", "OUT"), whole_json, over=False),
    "make-random": Verb(
        ("make-random", "smolvlm-256m", "-o", "OUT", "--layers", "1", "--encoder-blocks", "1"),
        whole_checkpoint,
        over=False,
    ),
    "parity": Verb(("parity", "BUNDLE", "BUNDLE", *_ASKED, "--observe", "1", "--report", "OUT"), whole_page, False),
    "ablate": Verb(
        ("ablate", "-o", "OUT", "--count", "14", "--side", "14", "--search", "14", "--json"),
        whole_folder,
        over=False,
        patches=_no_answers,
    ),
    "batch": Verb(
        ("batch", "BUNDLE", "--input", "CASES", "-o", "OUT", "--shard", "2"),
        whole_shards,
        over=False,
        patches=_no_workers,
    ),
    "search": Verb(
        ("search", str(PAGES), "what?", "--bundle", "BUNDLE", "--index", "OUT"), whole_index, False, _no_model
    ),
    "triton": Verb(("triton", "BUNDLE", "-o", "OUT", "--copy", "--overwrite"), whole_models, over=False),
    "trial": Verb(("trial", "demo", "--only", "plan", "--minutes", "2", "--out", "OUT"), whole_trial, over=False),
    "inspect": Verb(("inspect", "BUNDLE", "--surgery", "--html", "OUT"), whole_page, over=False),
}
