"""Weights in 4 bits, and caches in 8: `python -m glyph_deep.studies.precision.quantised FOLDER -o ../docs/results`.

Held-out questions of three grounds, answered by ONNX Runtime: the checkpoint as it is, checkpoints whose text layers
were rounded to nearest in groups of 64 and written by the layouts of AWQ, GPTQ and compressed-tensors (`tests/
quantised_checkpoint.py`), `calibrate --precision q4` and `calibrate --kv int8`. Bundles and answers stay in FOLDER: a
killed run goes on where it stopped. `--times` measures times alone, on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from glyph_deep.data.cases import LONGEST, SIZES, cases
from glyph_deep.studies.precision import calibrated
from luvc_export import export_bundle, make_plan
from luvc_export.bundle import folder as bundles
from luvc_export.calibration import intervals
from luvc_export.calibration.ablation.store import Store, pack, unpack
from luvc_export.calibration.datasets import CalibrationSet
from luvc_export.calibration.quantise.cache_calibration import calibrate_caches
from luvc_export.calibration.quantise.calibrate import calibrate
from luvc_export.calibration.quantise.recipe import DIVERGENCE, Recipe
from luvc_export.calibration.runners import open_bundle
from luvc_export.calibration.runners.base import Runner
from luvc_export.core.files.json_file import dumps
from luvc_export.core.precision import PRECISIONS
from luvc_export.demo.questions import GlyphCase
from luvc_export.export.packed import FILE as CODES
from luvc_export.runtime.session import Session

HERE = Path(__file__).parents[2]
CHECKPOINT = HERE / "checkpoint"
TESTS = HERE.parents[1] / "tests"
COMMAND = "python -m glyph_deep.studies.precision.quantised FOLDER -o ../docs/results"
#: The pictures that a bundle is for, the grounds asked on it, and those its scales come from (search splits).
SETS = {
    "digits": (("plain", "textured"), ("search-plain", "search-textured")),
    "pages": (("pages",), ("search-pages",)),
}
#: Opens a plan of a bundle: folder, plan, threads.
Opened = Callable[[str, str | None, int | None], Runner]
Rows = tuple[tuple[str, str, tuple[str, str] | None], ...]
#: Row by row: form of the checkpoint, plan, and what it is compared with. ``four`` is fp32 whose q4 has 4 bits alone.
ROWS: Rows = (
    ("fp32", "none", None),
    ("fp32", "none_kv8", ("fp32", "none")),
    ("fp32", "staged", None),
    ("fp32", "staged_kv8", ("fp32", "staged")),
    ("fp32", "none_q4", ("fp32", "none")),
    ("four", "none_q4", ("fp32", "none")),
    ("awq", "none", ("fp32", "none")),
    ("gptq", "none", ("fp32", "none")),
    ("compressed-tensors", "none", ("fp32", "none")),
    ("calibrated awq", "none", ("fp32", "none")),
    ("calibrated gptq", "none", ("fp32", "none")),
    ("calibrated compressed-tensors", "none", ("fp32", "none")),
)
CALIBRATION, TIMED, WARM = 256, 30, 5
#: Questions whose answers are one record of the store.
PART = 250
FILE = "glyph-deep-quantised.json"
#: Points that may be lost, and the upper end of their interval.
BAR = (0.5, 1.0)
HEAD = f"""# Weights in 4 bits and caches in 8, on glyph_deep

Written by `{COMMAND}` (answers; with `--times` times) and by
`python -m glyph_deep.studies.precision.cache_memory FOLDER -o ../docs/results` (memory), in `examples`. Do not edit.

Held-out questions on ONNX Runtime, one thread. Lost points are paired with the same plan in fp32; the interval is 95 %
with questions about one picture as a cluster. Within: at most 0.5 points lost, the upper end at most 1.0. `_kv8` is
`calibrate --kv int8`, `_q4` is `calibrate --precision q4` with nothing kept high but the defaults, and `four` the same
with `--divergence inf`: 4 bits alone, as it was before ([which products get 8](../calibration.md#ranges)). `awq`,
`gptq` and `compressed-tensors` are checkpoints whose text layers were rounded to nearest in groups of 64 and written by
each format's layout: what they lose is what such rounding costs this model, not what reading it does
([tested](../quantised-checkpoints.md)). `calibrated` ones hold what makers' tools write, from this package's own
calibration on search splits: groups of 32, codes that make up for each other, AWQ's with zeros, those of GPTQ and
compressed-tensors the same ones. The products that move predictions most are left in 16
bits by AWQ (`modules_to_not_convert`) and in 8 by the others (`dynamic`, a second config group). Rows of 3,000
questions (`--count 3000 --ground pages`) are the same 1,000 and 2,000 further ones, asked because some intervals of
1,000 reached above 1.0.

| checkpoint | plan | ground | questions | accuracy | points lost (95 %) | within |
|---|---|---|---:|---:|---|---|"""
TIMES = """
Times of a page on two threads, median of {runs} taken in turns, {machine};
the model has 8 text layers of width 192, so they say little about large ones.

| checkpoint | plan | engine | prompt ms | token ms |
|---|---|---|---:|---:|"""
MEMORY = """
A chat of 4,096 tokens on a model of random weights with the caches of Qwen2.5-VL-3B (36 layers, 2 heads of 128) in 16
bits: caches as the session counts them, as `plan` foretells them, and what the process has more.

| plan | caches MiB | foretold MiB | process MiB | of 16 bits |
|---|---:|---:|---:|---:|"""


def forms() -> dict[str, tuple[dict[str, Any], Callable[..., Any]]]:
    """Return how each form is written: its settings, and what a weight [N, K] becomes."""
    sys.path.insert(0, str(TESTS))
    import quantised_checkpoint as layouts

    return {
        "awq": (layouts.AWQ_SETTINGS, layouts.awq),
        "gptq": (layouts.gptq_settings(), layouts.gptq()),
        "compressed-tensors": (layouts.compressed_settings(), layouts.pack_quantized()),
    }


def written(form: str, folder: Path, checkpoint: Path = CHECKPOINT) -> Path:
    """Return a checkpoint with the products of its text layers in codes."""
    from safetensors.torch import load_file, save_file

    settings, quantise = forms()[form]
    if not (folder / "config.json").is_file():
        shutil.copytree(checkpoint, folder, dirs_exist_ok=True)
        tensors: dict[str, Any] = {}
        for name, tensor in load_file(checkpoint / "model.safetensors").items():
            module = name.removesuffix(".weight")
            if name.endswith("_proj.weight") and "visual" not in name:
                parts, _ = quantise(module, tensor.float())
                tensors |= {f"{module}.{tail}": part.contiguous() for tail, part in parts.items()}
            else:
                tensors[name] = tensor
        (folder / "model.safetensors").unlink()
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((checkpoint / "config.json").read_text()) | {"quantization_config": settings}
        (folder / "config.json").unlink()
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def searched(splits: tuple[str, ...]) -> CalibrationSet:
    """Return cases of the search splits, as many of each."""
    some = [case for split in splits for case in cases(split, CALIBRATION // len(splits), 0)]
    return calibration_set("+".join(splits), some)


def calibration_set(name: str, some: list[GlyphCase]) -> CalibrationSet:
    """Return cases as a set, a number for each picture."""
    numbered = [GlyphCase(one.images, one.prompt, one.answer, one.kind, at) for at, one in _by_picture(some)]
    pixels = tuple(tuple(hashlib.sha256(image.tobytes()).hexdigest() for image in one.images) for one in numbered)
    return CalibrationSet(name, tuple(numbered), pixels, LONGEST, True)


def _by_picture(some: list[GlyphCase]) -> list[tuple[int, GlyphCase]]:
    """Return cases with a number for each picture: splits count from 0, each for itself."""
    known: dict[bytes, int] = {}
    return [(known.setdefault(case.images[0].tobytes(), len(known)), case) for case in some]


def exported(form: str, which: str, folder: Path, rows: Rows = ROWS) -> Path:
    """Return the bundle of a form for one size of pictures, with the plans that ``rows`` name."""
    target, size = folder / f"{which}.{form.replace(' ', '-')}", SIZES[SETS[which][0][0]]
    if not (target / bundles.MANIFEST).is_file():
        if form.startswith("calibrated "):
            checkpoint = calibrated.written(form.removeprefix("calibrated "), folder)
        else:
            checkpoint = CHECKPOINT if form in ("fp32", "four") else written(form, folder / form)
        names = dict.fromkeys(plan.split("_")[0] for one, plan, _ in ROWS if one == form)
        plans = {name: make_plan(str(checkpoint), name, image_size=size) for name in names}
        export_bundle(str(checkpoint), target, plans, image_size=size, text_capacity=256)
        print(f"made {target.name}", flush=True)
    for plan in [plan for one, plan, _ in rows if one == form and "_" in plan]:
        loaded, (root, kind) = bundles.load(target), plan.split("_")
        if plan not in loaded.manifest.plans:
            data = searched(SETS[which][1])
            if kind == "kv8":
                calibrate_caches(loaded, data, "int8", plan=root, min_agreement=0, threads=1)
            else:
                nats = math.inf if form == "four" else DIVERGENCE
                recipe = Recipe(PRECISIONS[kind], divergence=nats)
                calibrate(loaded, data, recipe, plan=root, min_agreement=0, threads=1)
            print(f"made {plan} in {target.name}", flush=True)
    return target


def right(bundle: Path, plan: str, asked: list[GlyphCase], opened: Opened = open_bundle) -> list[bool]:
    """Return which cases are answered right, greedily, by the engine that `opened` opens."""
    runner, answers = opened(str(bundle), plan, 1), []
    for first in range(0, len(asked), 20):
        some = asked[first : first + 20]
        for case, answer in zip(some, runner.answer(some, LONGEST), strict=True):
            answers.append(answer.text.strip() == case.answer and answer.ended)
    return answers


def times(session: Session, case: GlyphCase) -> tuple[float, float]:
    """Return milliseconds of a prompt, and of a token after it as the mean of four."""
    graphs, request = session.default.graphs, session.prepare(case.images, case.prompt)
    seen = graphs.encode_images(request.images)
    begin = time.perf_counter()
    step = graphs.run(request.token_ids, seen, blocks=request.blocks)
    middle = time.perf_counter()
    for _ in range(4):
        step = graphs.run([7], state=step.state)
    return 1000 * (middle - begin), 250 * (time.perf_counter() - middle)


def accuracy(
    folder: Path, count: int, rows: Rows = ROWS, known_alone: bool = False, wanted: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Return a record for each row and ground, or with ``known_alone`` for those whose answers are there.

    With ``wanted`` of those grounds alone. Answers are kept ``PART`` by ``PART``.
    """
    records: list[dict[str, Any]] = []
    for which, (grounds, _) in SETS.items():
        held = {ground: list(cases(ground, count, 0)) for ground in grounds if not wanted or ground in wanted}
        store = Store(folder / f"{which}-measurements.json", {"questions": PART})
        known: dict[tuple[str, str, str], list[bool]] = {}
        for form, plan, beside in rows if held else ():
            bundle = exported(form, which, folder, rows)
            entry, files = bundles.load(bundle).manifest.plans[plan], bundles.load(bundle).manifest.files
            read = {entry.vision, entry.decoder, entry.quantised.weights if entry.quantised else "weights", CODES}
            key = [files[name].sha256 for name in sorted(read) if name in files]
            for ground, asked in held.items():
                answers: list[bool] = []
                try:
                    for first in range(0, count, PART):
                        some = asked[first : first + PART]
                        ask = _absent if known_alone else partial(_packed, bundle, plan, some)
                        answers += unpack(store.of([ground, first, len(some), *key], ask), len(some))
                except LookupError:
                    continue
                known[form, plan, ground] = answers
                pictures = [case.picture for case in asked]
                record: dict[str, Any] = {"ground": ground, "form": form, "plan": plan, "questions": count}
                record["accuracy"] = round(float(np.mean(answers)), 4)
                if beside is not None:
                    lost = intervals.difference(known[(*beside, ground)], answers, pictures)
                    record["points_lost"] = [round(100 * value, 2) for value in lost]
                records.append(record)
                print(record, flush=True)
    return records


def asked_for(forms: list[str]) -> Rows:
    """Return the rows of these forms, and those that they are compared with."""
    chosen = [row for row in ROWS if not forms or row[0] in forms]
    beside = {row[2] for row in chosen}
    return tuple(row for row in ROWS if row in chosen or row[:2] in beside)


def merged(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows in the order of the page: those measured now, and of others those measured before."""
    by_key = {(row["questions"], row["ground"], row["form"], row["plan"]): row for row in (*old, *new)}
    keys = [(ground, *row[:2]) for grounds, _ in SETS.values() for row in ROWS for ground in grounds]
    counts = sorted({count for count, *_ in by_key})
    return [by_key[one] for one in ((count, *key) for count in counts for key in keys) if one in by_key]


def _absent() -> Any:
    raise LookupError("not answered yet")


def _packed(bundle: Path, plan: str, asked: list[GlyphCase]) -> Any:
    return pack(right(bundle, plan, asked))


def timed(folder: Path, asked: list[str]) -> list[dict[str, Any]]:
    """Return a record of times for each row on pages, and for fp32 and bf16 on OpenVINO, all taken in turns.

    With forms ``asked`` for, of those alone and of plan `none` in fp32, and on OpenVINO of both.
    """
    chosen = [(form, plan) for form, plan, _ in asked_for(asked) if form not in forms()]
    rows = [(form, plan, "cpu", "fp32") for form, plan in chosen]
    beside = [plan for form, plan in chosen if form == "fp32" and plan in ("none", "none_kv8")]
    rows += [("fp32", plan, "openvino", kind) for plan in beside for kind in ("fp32", "bf16")]
    rows += [(form, plan, "openvino", "bf16") for form, plan in chosen if form in asked and form != "fp32"]
    needed = tuple(row for row in ROWS if row[:2] in chosen)
    opened = [
        Session(bundles.load(exported(form, "pages", folder, needed)), backend, plan, 2, arithmetic=arithmetic)
        for form, plan, backend, arithmetic in rows
    ]
    taken = np.array([[times(session, case) for session in opened] for case in cases("pages", TIMED + WARM, 0)])
    records = []
    for row, (prompt, token) in zip(rows, np.median(taken[WARM:], 0).tolist(), strict=True):
        form = dict(zip(("form", "plan", "backend", "arithmetic"), row, strict=True))
        records.append({**form, "prompt_ms": round(prompt, 2), "token_ms": round(token, 2)})
        print(records[-1], flush=True)
    return records


def with_times(record: dict[str, Any], new: list[dict[str, Any]], asked: list[str], here: str) -> dict[str, Any]:
    """Return the record with times taken on machine ``here``; rows of other forms stay beside their own machine's."""
    old = [{"machine": record["machine"], **row} for row in record.get("times_of_forms", [])]
    if not asked:
        return {**record, "times": new, "machine": here} | ({"times_of_forms": old} if old else {})
    again = {row["form"] for row in new}
    kept = [row for row in old if row["form"] not in (again if row["machine"] == here else asked)]
    return {"machine": here, **record, "times_of_forms": [*kept, *({**row, "machine": here} for row in new)]}


def machine() -> str:
    """Return what the times were taken on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    wanted = [name for name in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16") if name in facts["flags"]]
    return f"two cores of {facts['model name']} ({', '.join(wanted)})"


def page(record: dict[str, Any]) -> str:
    """Return the page around the tables."""
    lines = HEAD.split("\n")
    for row in record.get("rows", []):
        lost = row.get("points_lost")
        difference, kept = "", ""
        if lost is not None:
            difference, kept = f"{lost[0]:+.2f} ({lost[1]:+.2f} to {lost[2]:+.2f})", "yes"
            kept = "yes" if lost[0] <= BAR[0] and lost[2] <= BAR[1] else "**no**"
        cells = [
            row["form"],
            row["plan"],
            row["ground"],
            f"{row['questions']:,}",
            f"{row['accuracy']:.4f}",
            difference,
            kept,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    grounds = [ground for some, _ in SETS.values() for ground in some]
    ran = {(row["form"], row["plan"], row["ground"]) for row in record.get("rows", [])}
    missing = [(form, plan, ground) for ground in grounds for form, plan, _ in ROWS if (form, plan, ground) not in ran]
    if missing:
        lines += ["", "Not run yet: " + "; ".join(f"{form} {plan} on {ground}" for form, plan, ground in missing) + "."]
    for row in record.get("in_four", []):
        share = (
            f"{row['products']} of {row['of']} products of the text layers, {100 * row['share']:.1f} % of their weights"
        )
        lines += ["", f"In 4 bits in `calibrated {row['form']}`: {share}."]
    tables = [(record["machine"], record["times"])] if record.get("times") else []
    for where in dict.fromkeys(row.get("machine", record["machine"]) for row in record.get("times_of_forms", [])):
        rows = [row for row in record["times_of_forms"] if row.get("machine", record["machine"]) == where]
        tables.append((where, rows))
    for where, rows in tables:
        lines += TIMES.format(runs=TIMED, machine=where).split("\n")
        for row in rows:
            engine = "ONNX Runtime" if row["backend"] == "cpu" else f"OpenVINO, {row['arithmetic']}"
            lines.append(
                f"| {row['form']} | {row['plan']} | {engine} | {row['prompt_ms']:.1f} | {row['token_ms']:.2f} |"
            )
    if record.get("memory"):
        lines += MEMORY.split("\n")
        whole = record["memory"][0]["cache_bytes"]
        for row in record["memory"]:
            sizes = [f"{row[name] / 2**20:.1f}" for name in ("cache_bytes", "predicted_bytes", "process_bytes")]
            lines.append(f"| {row['plan']} | " + " | ".join(sizes) + f" | {row['cache_bytes'] / whole:.3f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of bundles and answers, in which a killed run goes on")
    parser.add_argument("-o", "--output", type=Path, default=Path(), help="folder of glyph-deep-quantised.json and .md")
    parser.add_argument("--count", type=int, default=1000, help="questions a ground")
    parser.add_argument(
        "--form", action="append", default=[], help="ask rows of this form alone, keep the file's others"
    )
    parser.add_argument("--ground", action="append", default=[], help="ask on this ground alone, keep others' rows")
    parser.add_argument("--times", action="store_true", help="measure times alone, and keep the answers of the file")
    parser.add_argument("--known", action="store_true", help="write what FOLDER has answers of, and ask nothing")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    file = args.output / FILE
    record = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if args.times:
        record = with_times(record, timed(args.folder, args.form), args.form, machine())
    else:
        measured = accuracy(args.folder, args.count, asked_for(args.form), args.known, args.ground)
        new = [form.removeprefix("calibrated ") for form, *_ in asked_for(args.form) if form.startswith("calibrated ")]
        if not args.known:
            known = {row["form"]: row for row in record.get("in_four", [])}
            record["in_four"] = list((known | {form: calibrated.in_four(form, args.folder) for form in new}).values())
        record["rows"] = merged(record.get("rows", []) if args.form or args.ground else [], measured)
    file.write_text(dumps(record) + "\n", encoding="utf-8")
    file.with_suffix(".md").write_text(page(record), encoding="utf-8")


if __name__ == "__main__":
    main()
