"""Plans in fewer bits: `python -m glyph_deep.studies.precision.fewer_bits FOLDER -o ../docs/results`.

Held-out questions answered greedily by ONNX Runtime: a plan in fp32, and after `calibrate --precision int8`, whole and
with `--keep-high language_model` for the encoder alone, `--precision q8`, `q4` or `--kv int8`, or of a checkpoint whose
text layers are in AWQ's layout; ranges come from the search splits. Bundles and answers stay in FOLDER: a killed run
goes on where it stopped. `pretrained` is asked where `--merged` says its checkpoint; rows not asked stay in the file.
`--figures` puts named plans whose every ground was asked into `luvc_export/core/named_plans.json`, which `luvc-export
plan` prints and docs/plans.md shows.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glyph_deep.data.cases import SIZES
from glyph_deep.studies.plans.instruments import MODELS, asked
from luvc_export import export_bundle, make_plan
from luvc_export.bundle import folder as bundles
from luvc_export.calibration import intervals
from luvc_export.calibration.ablation.store import Store, pack, unpack
from luvc_export.calibration.quantise.cache_calibration import calibrate_caches
from luvc_export.calibration.quantise.calibrate import calibrate
from luvc_export.calibration.quantise.recipe import Recipe
from luvc_export.calibration.runners import open_bundle, open_openvino
from luvc_export.core.named_plans import FIGURES, NAMED
from luvc_export.core.plan import figures as plan_figures
from luvc_export.core.precision import PRECISIONS
from luvc_export.demo.questions import GlyphCase

from .quantised import CALIBRATION, Opened, calibration_set, machine, right, written

COMMAND = "python -m glyph_deep.studies.precision.fewer_bits FOLDER -o ../docs/results --merged CHECKPOINT"
FILE = "glyph-deep-int8.json"
#: By what has fewer bits: what ends the plan's name after `calibrate`, and the weights that stay as they are.
PARTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "encoder": ("int8", ("language_model",)),
    "whole": ("int8", ()),
    "weights in 8 bits": ("q8", ()),
    "weights in 8 bits, OpenVINO": ("q8", ()),
    "weights in 4 bits": ("q4", ()),
    "weights in AWQ": ("awq", ()),
    "caches in 8 bits": ("kv8", ()),
}
#: Of each bundle its model, the grounds that its size of pictures fits, and those whose search splits give ranges.
SETS = {
    "digits": ("glyph_deep", ("plain", "textured", "photographs"), ("plain", "textured")),
    "pages": ("glyph_deep", ("pages", "fonts"), ("pages",)),
    "english": ("pretrained", ("plain", "textured"), ("plain", "textured")),
}
PLANS = ("none", "safe", "staged", "lean")
GROUNDS = {model: [one for of, some, _ in SETS.values() if of == model for one in some] for model, *_ in SETS.values()}
#: What is to stay of the right answers on every ground.
BAR = 0.99


def coded_name(plan: str, kind: str) -> str:
    """Return the name of a plan in fewer bits: of a checkpoint that has them, its own."""
    if kind in PRECISIONS:
        return PRECISIONS[kind].plan_name(plan)
    return plan if kind == "awq" else f"{plan}_{kind}"


def bundle_of(which: str, part: str, folder: Path, plans: list[str], checkpoint: Path) -> Path:
    """Return the bundle for one size of pictures, `plans` of it also with `part` of the model in fewer bits."""
    kind, kept = PARTS[part]
    target = folder / f"{which}-{'encoder' if kept else 'awq' if kind == 'awq' else 'whole'}"
    model, grounds, searched = SETS[which]
    size = SIZES[grounds[0]]
    if kind == "awq":
        checkpoint = written(kind, folder / f"{model}-{kind}", checkpoint)
    if not (target / bundles.MANIFEST).is_file():
        plans_of = {name: make_plan(str(checkpoint), name, image_size=size) for name in PLANS}
        export_bundle(str(checkpoint), target, plans_of, image_size=size, text_capacity=256)
    for plan in plans if kind != "awq" else ():
        loaded = bundles.load(target)
        name = coded_name(plan, kind)
        if name in loaded.manifest.plans:
            continue
        some = [case for ground in searched for case in asked(model, ground, CALIBRATION // len(searched), True)]
        data = calibration_set("+".join(f"search-{ground}" for ground in searched), some)
        if kind == "kv8":
            calibrate_caches(loaded, data, "int8", plan=plan, min_agreement=0, threads=1)
        else:
            calibrate(
                loaded,
                data,
                Recipe(PRECISIONS[kind]),
                plan=plan,
                min_agreement=0,
                keep_high=kept,
                ranges_file=folder / f"{which}.{plan}.ranges",
                threads=1,
            )
        print(f"{name} of {which}, {part}, is there", flush=True)
    return target


def verdicts(
    store: Store, bundle: Path, ground: str, plan: str, some: list[GlyphCase], opened: Opened = open_bundle
) -> NDArray[np.bool_]:
    """Return which cases are answered right, from `store` where it has them of these graphs, weights and engine."""
    manifest = bundles.load(bundle).manifest
    entry = manifest.plans[plan]
    read = ["weights", *([entry.quantised.weights] if entry.quantised else [])]
    key = [ground, *(manifest.files[name].sha256 for name in (entry.vision, entry.decoder, *read))]
    key += [] if opened is open_bundle else [opened.__name__]
    return np.array(unpack(store.of(key, lambda: pack(right(bundle, plan, some, opened))), len(some)))


def measure(
    folder: Path,
    count: int,
    grounds: Collection[str],
    plans: list[str],
    checkpoints: Mapping[str, Path],
    parts: Collection[str],
) -> list[dict[str, Any]]:
    """Return a record for each of `parts` of the models of `checkpoints`, ground and plan."""
    records: list[dict[str, Any]] = []
    for part, (which, (model, own, _)) in product(parts, SETS.items()):
        wanted = [ground for ground in own if ground in grounds and model in checkpoints]
        if not wanted:
            continue
        kind, opened = PARTS[part][0], open_openvino if part.endswith("OpenVINO") else open_bundle
        bundle = coded_bundle = bundle_of(which, part, folder, plans, checkpoints[model])
        if kind == "awq":
            bundle = bundle_of(which, "whole", folder, [], checkpoints[model])
        store = Store(folder / f"{which}-answers.json", {"count": count})
        for ground in wanted:
            some = asked(model, ground, count, False)
            pictures = [case.picture for case in some]
            none = verdicts(store, bundle, ground, "none", some)
            for plan in plans:
                whole = verdicts(store, bundle, ground, plan, some)
                coded = verdicts(store, coded_bundle, ground, coded_name(plan, kind), some, opened)
                right = intervals.accuracy(coded.tolist(), pictures)
                record: dict[str, Any] = {"part": part, "model": model, "ground": ground, "plan": plan}
                record |= {"questions": count, "pictures": len(set(pictures)), "fp32": round(float(whole.mean()), 4)}
                record["accuracy"] = [round(value, 4) for value in (right.value, right.low, right.high)]
                for name, than in (("retention", whole), ("kept", none)):
                    share = intervals.retention(coded.tolist(), than.tolist(), pictures)
                    record[name] = [round(value, 4) for value in (share.value, share.low, share.high)]
                record["changed"] = [int((whole & ~coded).sum()), int((~whole & coded).sum())]
                records.append(record)
                print(record, flush=True)
    return records


def page(record: dict[str, Any]) -> str:
    """Return the document."""
    rows = record["rows"]
    least = min(rows, key=lambda row: row["retention"][0])
    met = all(row["retention"][0] >= BAR for row in rows)
    ran = {(row["model"], row["ground"]) for row in rows}
    missing = [f"{model}, {one}" for model, some in GROUNDS.items() for one in some if (model, one) not in ran]
    lines = [
        "# Plans in fewer bits, on glyph_deep and pretrained",
        "",
        f"Written by `{COMMAND}` in `examples`. Do not edit: run it again.",
        "",
        f"Held-out questions, on ONNX Runtime where no engine is named, {record['machine']}; INT8 products of CPUs "
        "with neither VNNI nor AMX may saturate, and were not measured here. INT8: weights and what enters them by "
        "`calibrate --precision int8`, with `--keep-high language_model` where the encoder alone is meant (the LLM is "
        "in fp32 there), ranges of search splits, no product kept high by a search. Weights in 8 bits: `--precision "
        "q8`, what enters a product rounded as it comes, each row by itself; in 4 "
        "bits: `q4`, what enters in fp32; in AWQ: a checkpoint whose text layers were rounded to nearest in groups of "
        "64 and written by its layout; caches: `--kv int8`. Retention is against the same plan in fp32, with 95 % "
        "intervals clustered by picture; kept is against the uncompressed model in fp32. Lost and won are answers that "
        "are right in fp32 alone, and in fewer bits alone.",
        "",
        f"The bar is {BAR} of the same plan in fp32 on every ground: "
        + ("met" if met else "**missed**")
        + f"; the least, `{least['plan']}` on {least['model']}, {least['ground']} ({least['part']}), keeps "
        f"{least['retention'][0]:.3f}.",
        "",
        "| in fewer bits | ground | plan | questions | pictures | fp32 | fewer bits | retention | kept | lost | won |",
        "|---|---|---|---:|---:|---:|---:|---|---|---:|---:|",
    ]
    for row in rows:
        cells = [
            row["part"],
            f"{row['model']}, {row['ground']}",
            f"`{row['plan']}`",
            f"{row['questions']:,}",
            str(row["pictures"]),
        ]
        cells += [f"{row['fp32']:.4f}", f"{row['accuracy'][0]:.4f}"]
        cells += ["{:.3f} ({:.3f} to {:.3f})".format(*row[name]) for name in ("retention", "kept")]
        lines.append("| " + " | ".join([*cells, *map(str, row["changed"])]) + " |")
    if missing:
        lines += ["", f"Not run: {'; '.join(missing)}."]
    return "\n".join(lines) + "\n"


def figured(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the record of named plans with `rows` in INT8 that have a name, where every ground of one was asked."""
    record: dict[str, Any] = json.loads(FIGURES.read_text(encoding="utf-8"))
    costs = {(row["model"], row["ground"], row["plan"]): row for row in record["rows"]}
    new: list[dict[str, Any]] = []
    for model, plan, part in dict.fromkeys((row["model"], row["plan"], row["part"]) for row in rows):
        kind = "quick" if part == "encoder" else PARTS[part][0]
        name = plan_figures.measured_as(plan, kind)
        some = [row for row in rows if (row["model"], row["plan"], row["part"]) == (model, plan, part)]
        if name is None or {row["ground"] for row in some} != {*GROUNDS[model]}:
            continue
        for row in some:
            own = {"plan": name, "key": NAMED[plan].key, "questions": row["questions"]}
            own |= {"accuracy": row["accuracy"], "retention": row["kept"]}
            new.append(costs[model, row["ground"], plan] | own)
    replaced = {(row["model"], row["plan"]) for row in new}
    record["rows"] = [row for row in record["rows"] if (row["model"], row["plan"]) not in replaced] + new
    return record


def main() -> None:
    """Measure and write."""
    every = [*dict.fromkeys(ground for some in GROUNDS.values() for ground in some)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of bundles and answers, in which a killed run goes on")
    parser.add_argument("-o", "--output", type=Path, default=Path(), help=f"folder of {FILE} and its page")
    parser.add_argument("--count", type=int, default=1000, help="questions a ground")
    parser.add_argument("--grounds", nargs="*", choices=every, default=every)
    parser.add_argument("--plans", nargs="*", choices=PLANS, default=list(PLANS), help="plans in fewer bits")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=[*PARTS], help="what has fewer bits")
    parser.add_argument("--models", nargs="*", choices=[*GROUNDS], default=[*GROUNDS], help="models to ask")
    parser.add_argument("--merged", type=Path, help="checkpoint of `pretrained`; without it that model is left out")
    parser.add_argument("--figures", action="store_true", help="put named plans beside those in fp32 too")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    places = {"glyph_deep": MODELS["glyph_deep"]} | ({"pretrained": args.merged} if args.merged else {})
    places = {name: place for name, place in places.items() if name in args.models}
    file = args.output / FILE
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"rows": []}
    new = measure(args.folder, args.count, args.grounds, args.plans, places, args.parts)
    again = {(row["part"], row["model"], row["ground"], row["plan"]) for row in new}
    kept = [row for row in before["rows"] if (row["part"], row["model"], row["ground"], row["plan"]) not in again]
    record = {"machine": machine(), "rows": kept + new}
    rows = ",\n".join(json.dumps(row) for row in record["rows"])
    file.write_text(f'{{"machine": {json.dumps(record["machine"])}, "rows": [\n{rows}\n]}}\n', encoding="utf-8")
    file.with_suffix(".md").write_text(page(record), encoding="utf-8")
    if args.figures:
        FIGURES.write_text(plan_figures.written(figured(record["rows"])), encoding="utf-8")


if __name__ == "__main__":
    main()
