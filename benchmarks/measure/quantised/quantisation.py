"""Measure what docs/results/quantisation.md says, and write it.

Run: python benchmarks/measure/quantised/quantisation.py FOLDER [QUESTIONS]. Exports the bundled checkpoint with plans
``even`` (the default), ``thirds`` (score residual, rho 0.1) and ``none`` into FOLDER, adds every precision on the
task's search part with nothing kept high but the defaults (``--min-agreement 0``), asks all of them the same held-out
questions, and times one question on one thread (CPU time of the thread, median). Answers and times are kept in FOLDER:
a run that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from luvc_export import export_bundle, make_plan
from luvc_export.bundle import folder as bundles
from luvc_export.calibration import datasets, intervals
from luvc_export.calibration.ablation.store import Store, pack, unpack
from luvc_export.calibration.quantise import ranges
from luvc_export.calibration.quantise.calibrate import calibrate
from luvc_export.calibration.quantise.quantiser import Quantiser
from luvc_export.calibration.quantise.recipe import Recipe
from luvc_export.calibration.runners import open_bundle
from luvc_export.calibration.tasks import find
from luvc_export.core.precision import PRECISIONS

TASK = find("glyph")
OUTPUT = Path(__file__).resolve().parents[3] / "docs" / "results" / "quantisation.md"
MEASURED = {"even": ("int8", "int4", "fp8", "q8", "q4"), "thirds": ("int8", "int4"), "none": ("int8", "int4")}
#: Also measured, on stand-ins: ONNX Runtime has no FP4.
SIMULATED = {"even": ("nvfp4", "nvfp4a16")}
RUNS = 30


def exported(folder: Path) -> Path:
    """The bundle with every precision."""
    target, checkpoint = folder / "bundle", str(TASK.checkpoint)
    if not (target / bundles.MANIFEST).is_file():
        size = TASK.image_size
        plans = {
            "even": make_plan(checkpoint, "even", image_size=size),
            "thirds": make_plan(checkpoint, "thirds", image_size=size, score="residual", rho=0.1),
            "none": make_plan(checkpoint, "none", image_size=size),
        }
        export_bundle(checkpoint, target, plans, image_size=size, text_capacity=256)
    data = datasets.load(TASK.name)
    for plan, names in MEASURED.items():
        for name in names:
            loaded = bundles.load(target)
            if f"{plan}{PRECISIONS[name].suffix}" not in loaded.manifest.plans:
                recipe, file = Recipe(PRECISIONS[name]), folder / f"ranges.{plan}.npz"
                calibrate(loaded, data, recipe, plan=plan, min_agreement=0, ranges_file=file, threads=1)
                print(f"made {plan} in {name}", flush=True)
    return target


def stand_in(folder: Path, bundle: bundles.Bundle, plan: str, name: str) -> bundles.Bundle:
    """A bundle with the numbers of a precision that ONNX Runtime cannot run."""
    target = folder / f"{plan}.{name}"
    if not (target / bundles.MANIFEST).is_file():
        target.mkdir(exist_ok=True)
        data = datasets.load(TASK.name)
        seen = ranges.load_ranges(folder / f"ranges.{plan}.npz", ranges.description(bundle, plan, data.split()[0]))
        Quantiser(bundle, plan, Recipe(PRECISIONS[name]), seen, target).trial((), data.record)
    return bundles.load(target)


def right(folder: Path, plan: str, cases: list[Any]) -> list[bool]:
    """Whether each case is answered right, greedily."""
    runner, answers = open_bundle(str(folder), plan, 1), []
    for first in range(0, len(cases), 16):
        some = cases[first : first + 16]
        for case, answer in zip(some, runner.answer(some, TASK.longest), strict=True):
            answers.append(answer.text.strip() == case.answer and answer.ended)
    return answers


def times(folder: Path, plan: str, cases: list[Any]) -> dict[str, float]:
    """Milliseconds of one thread for the encoder, the prefill and a decoded token, median over cases."""
    from luvc_export.runtime.session import Session

    session = Session(bundles.load(folder), "cpu", plan, 1)
    rows = []
    for case in cases:
        request = session.prepare(case.images, case.prompt)
        marks = [time.thread_time()]
        seen = session.default.encode_images(request.images)
        marks.append(time.thread_time())
        step = session.default.run(request.token_ids, seen)
        marks.append(time.thread_time())
        session.default.run([1], state=step.state)
        marks.append(time.thread_time())
        rows.append([1000 * (after - before) for before, after in pairwise(marks)])
    return dict(zip(("vision", "prefill", "token"), np.median(rows[5:], 0).tolist(), strict=True))


def size(bundle: bundles.Bundle, plan: str) -> float:
    """MiB of the weights that the two graphs of a plan read."""
    from luvc_export.bundle.graphs import read_graph

    entry = bundle.entry(plan)
    read: dict[str, int] = {}
    for file in (entry.vision, entry.decoder):
        read |= {tensor.name: tensor.bytes or 0 for tensor in read_graph(bundle, file).outside}
    return (bundle.manifest.files[entry.quantised.weights].bytes if entry.quantised else sum(read.values())) / 2**20


def main(folder: Path, count: int) -> None:
    """Measure and write the page."""
    target = exported(folder)
    bundle = bundles.load(target)
    cases = list(TASK.cases(TASK.report[0], count, TASK.report[1]))
    single = [case for case in cases if len(case.images) == 1][: RUNS + 5]
    pictures = [case.picture for case in cases]
    store = Store(folder / "measured.json", {"model": bundle.manifest.source.sha256, "count": count})
    lines = []
    rows = [
        (bundle, plan, name) for plan, names in MEASURED.items() for name in (None, *names, *SIMULATED.get(plan, ()))
    ]
    full: list[bool] = []
    for made_of, plan, name in rows:
        item = stand_in(folder, made_of, plan, name) if name in SIMULATED.get(plan, ()) else made_of
        which = plan if name is None else f"{plan}{PRECISIONS[name].suffix}"
        key = _hashes(item, which)
        packed = store.of(["right", *key], lambda item=item, which=which: pack(right(item.folder, which, cases)))
        answers = unpack(packed, count)
        full = answers if name is None else full
        took = (
            {}
            if item is not bundle
            else store.of(["times", *key], lambda item=item, which=which: times(item.folder, which, single))
        )
        lost = intervals.difference(full, answers, pictures)
        entry = item.entry(which).quantised
        kept = sum(kind != entry.precision for kind in entry.layers.values()) if entry else 0
        cells = [plan, name or bundle.manifest.dtype, f"{kept}" if entry else ""]
        cells += ["" if item is not bundle else f"{size(item, which):.2f}", f"{np.mean(answers):.4f}"]
        cells += [f"{100 * lost.value:+.2f} ({100 * lost.low:+.2f} to {100 * lost.high:+.2f})" if name else ""]
        cells += ["" if name is None else "yes" if lost.value <= 0.01 and lost.high <= 0.015 else "**no**"]
        cells += ["" if item is not bundle else f"{took[part]:.2f}" for part in ("vision", "prefill", "token")]
        lines.append("| " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    OUTPUT.write_text(page(bundle, lines, count), encoding="utf-8")


def _hashes(bundle: bundles.Bundle, plan: str) -> list[str]:
    entry = bundle.entry(plan)
    weights = entry.quantised.weights if entry.quantised else "weights"
    return [bundle.manifest.files[name].sha256 for name in (entry.vision, entry.decoder, weights)]


def page(bundle: bundles.Bundle, lines: list[str], count: int) -> str:
    """The page around the table."""
    import onnxruntime

    entry = next(item for item in bundle.manifest.plans.values() if item.quantised)
    assert entry.quantised is not None
    data = entry.quantised.data
    return f"""# Quantised plans of the bundled model

Written by `python benchmarks/measure/quantised/quantisation.py FOLDER`; do not edit.

{count} held-out questions of the task `{TASK.name}` (split `{TASK.report[0]}`, seed {TASK.report[1]}), the same for
every row. Ranges and scales come from {data.cases} cases of the search part ({data.pictures} pictures, sha256
`{data.sha256[:16]}`), half of them.
Nothing is kept high but the patch embedding, the token embedding and lm_head (column "high": products).
Lost points are paired against the same plan unquantised, with a 95 % interval that takes questions about one picture
as a cluster; "within" means at most 1 point lost and an upper bound of at most 1.5.
Rows of nvfp4 and nvfp4a16 are stand-ins, the same numbers computed in fp32: ONNX Runtime has no FP4.
Times are CPU milliseconds of one thread on the machine that ran the command (onnxruntime {onnxruntime.__version__}),
median of {RUNS} questions; the model has 3.7 M parameters, so they say little about large ones. No GPU was used.

| plan | precision | high | weights MiB | accuracy | points lost (95 %) | within | vision ms | prefill ms | token ms |
|---|---|---:|---:|---:|---:|---|---:|---:|---:|
{chr(10).join(lines)}

What the precisions are: `luvc-export calibrate --help` and [calibration.md](../calibration.md).
"""


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 2002)
