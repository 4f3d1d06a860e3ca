"""Bundles of every type, family and kind of plan, in everything that opens them: equal to the model in that type?

    python benchmarks/measure/matrix/sixteen_bits.py FOLDER [--family NAME ...] [--dtype NAME ...] [--kind NAME ...]
        [--seconds N] [--again]

Tiny checkpoints of random weights are exported in fp16 and bf16 (fp32 beside them) with one kind of plan, and each
bundle is held to the checker with full types, to ONNX Runtime, to OpenVINO in fp32 and in bf16, to a build for
TensorRT-RTX and to the lint of a pack. Answers are held to transformers' own model in that type (``none``) or to the
compressed modules in it, within the tolerances of ``parity``. Types, families and precisions are those of the code's
own registries. A cell is a line of docs/results/sixteen-bits.json once it is done, and is not run again; docs/results/
sixteen-bits.md is written from the lines. Where a CPU lists no bf16, OpenVINO is told that it does: the plug-in then
widens what the graph says in bf16, so that types are tested and rounding in part. Exit code 1 where anything differs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

HERE = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(HERE / "tests" / "export" / "families"), str(HERE / "tests")]
import family_chat  # noqa: E402
import onnx  # noqa: E402
import torch  # noqa: E402
from family_harness import MADE_HERE, Case  # noqa: E402
from family_questions import SLIDING, exportable, few, questions  # noqa: E402
from quick_tracing import quicken  # noqa: E402

from luvc_export import build_engine, export_bundle, make_plan  # noqa: E402
from luvc_export.bundle.folder import Bundle, load  # noqa: E402
from luvc_export.calibration.parity.run import open_pair, parity  # noqa: E402
from luvc_export.calibration.quantise.cache_calibration import calibrate_caches  # noqa: E402
from luvc_export.calibration.quantise.calibrate import calibrate  # noqa: E402
from luvc_export.calibration.quantise.recipe import Recipe  # noqa: E402
from luvc_export.core.plan.plan_set import with_buckets  # noqa: E402
from luvc_export.core.precision import CACHES, PRECISIONS  # noqa: E402
from luvc_export.errors import LuvcError  # noqa: E402
from luvc_export.export.weights import DTYPES  # noqa: E402
from luvc_export.pipeline import make_plans, prepare_build  # noqa: E402
from luvc_export.runtime.openvino import device as devices  # noqa: E402

LINES, PAGE = (HERE / "docs" / "results" / f"sixteen-bits.{ending}" for ending in ("json", "md"))
PLAN, RTX, JETSON, FRAMES, RANK = "safe", "rtx-ada", "jetson-agx-orin-jp72", 4, 4
#: Named plans, precisions of weights and of caches, and what else a bundle may have beside its plans.
NAMED = ("none", PLAN, "luvc")
CODES = {"int8": "int8", "q8": "q8", "q4": "q4", **{f"kv{kind.removeprefix('int')}": kind for kind in CACHES}}
KINDS = (*NAMED, *CODES, "states", "windows", "slots", "buckets", "clips")
CHECKS = ("checker", "onnx runtime", "openvino fp32", "openvino bf16", "rtx build", "pack lint")
Record = dict[str, Any]


class Without(Exception):  # noqa: N818
    """A family has nothing of a kind."""


def exported(tiny: Case, kind: str, dtype: str, checkpoint: Path, folder: Path) -> tuple[Bundle, str]:
    """A bundle with a plan of a kind, and that plan's name.

    Raises:
        Without: The family has no such layers or films.
        LuvcError: A refusal.
    """
    shape = tiny.family.decoder_shape(tiny.config)
    if kind == "states" and not any(state.axis is None for state in shape.kept):
        raise Without("no layer keeps a state")
    if kind == "windows" and str(tiny) not in SLIDING:
        raise Without("no layer has a window")
    if kind == "clips" and tiny.family.video(tiny.config) is None:
        raise Without("the family takes no films")
    name = kind if kind in NAMED else "none" if kind in ("states", "windows") else PLAN
    options: dict[str, Any] = {"image_size": tiny.size, "text_capacity": 256, "dtype": dtype, "overwrite": True}
    plans: Any = {name: make_plan(str(checkpoint), name, image_size=tiny.size)}
    if kind == "buckets":
        plans, name = {**with_buckets(plans, [50, 100])}, f"{name}@50"
    elif kind == "clips":
        plans, name = make_plans(str(checkpoint), [name], image_size=[tiny.size], joint_frames=FRAMES), f"{name}@video"
        options |= {"video": True}
    elif kind == "slots":
        options |= {"lora_slots": RANK}
    bundle = export_bundle(str(checkpoint), folder, plans, **options)
    if kind in CODES:
        data, how = few(questions(str(tiny), "stills")), CODES[kind]
        if how in CACHES and kind != how:
            coded = calibrate_caches(bundle, data, how, plan=name, min_agreement=0, threads=1)
        else:
            how = "q4f16" if how == "q4" and dtype == "fp16" else how
            coded = calibrate(bundle, data, Recipe(PRECISIONS[how], aware=False), plan=name, min_agreement=0, threads=1)
        bundle, name = coded.bundle, coded.plan
    return bundle, name


def same(bundle: Bundle, plan: str, tiny: Case, checkpoint: Path, dtype: str, runner: str, arithmetic: str) -> str:
    """What parity says of a bundle in one engine and the model in a type."""
    reference = f"hf:{checkpoint}" if plan == "none" else f"torch:{checkpoint}"
    pair = open_pair(reference, f"{runner}:{bundle.folder}#{plan}", dtype=dtype, threads=1, arithmetic=arithmetic)
    asked = questions(str(tiny), "videos" if plan.endswith("@video") else "stills")
    result = parity(*pair, asked, observe=len(asked), longest=8)
    failed = [gate.name for gate in result.gates if not gate.passed]
    return f"differs: {', '.join(failed)}" if failed else "equal"


def checked(bundle: Bundle) -> str:
    """Every graph's types, by the checker's own inference."""
    for path in sorted(bundle.folder.glob("*.onnx")):
        onnx.checker.check_model(str(path), full_check=True)
    return "typed"


def cells(bundle: Bundle, plan: str, tiny: Case, checkpoint: Path, dtype: str) -> dict[str, Callable[[], str]]:
    """What each check does."""

    def built() -> str:
        build_engine(bundle, RTX, plan)
        return "built"

    def packed() -> str:
        prepare_build(bundle, JETSON, plan)
        return "passed"

    compared: dict[str, Callable[[], str]] = {
        "onnx runtime": lambda: same(bundle, plan, tiny, checkpoint, dtype, "onnx", "fp32"),
        "openvino fp32": lambda: same(bundle, plan, tiny, checkpoint, dtype, "openvino", "fp32"),
        "openvino bf16": lambda: same(bundle, plan, tiny, checkpoint, dtype, "openvino", "bf16"),
    }
    return {"checker": lambda: checked(bundle), **compared, "rtx build": built, "pack lint": packed}


def tried(name: str, kind: str, dtype: str, folder: Path) -> Record:
    """One line: what every check says, or why there is no bundle."""
    tiny, checkpoint = exportable(name), folder / name
    if not checkpoint.is_dir():
        checkpoint.mkdir(parents=True)
        family_chat.save(tiny, checkpoint)
    record: Record = {"family": name, "kind": kind, "dtype": dtype, "cpu": devices.find().title or platform.machine()}
    try:
        bundle, plan = exported(tiny, kind, dtype, checkpoint, folder / "bundle")
    except Without as without:
        return record | {"none": str(without)}
    except LuvcError as error:
        return record | {"refused at export": error.what}
    checks = {}
    for check, run in cells(load(bundle.folder), plan, tiny, checkpoint, dtype).items():
        try:
            checks[check] = run()
        except LuvcError as error:
            checks[check] = f"refused: {error.what}"
        except Exception as error:
            traceback.print_exc()
            checks[check] = f"differs: {type(error).__name__}: {' '.join(str(error).split())[:160]}"
    return record | {"checks": checks}


def read() -> list[Record]:
    """What was run before."""
    records: list[Record] = json.loads(LINES.read_text(encoding="utf-8")) if LINES.is_file() else []
    return records


def key(record: Record) -> tuple[str, str, str]:
    """What a cell is."""
    return record["family"], record["kind"], record["dtype"]


def page(records: list[Record]) -> str:
    """The matrix as a page: a row for each cell of type, family and kind."""
    total = len(MADE_HERE) * len(KINDS) * len(DTYPES)
    cpus = ", ".join(sorted({record["cpu"] for record in records}))
    heads = ("family", "plan", "type", *CHECKS)
    rows = [" | ".join(heads), " | ".join("---" for _ in heads)]
    for record in records:
        why = record.get("none") or f"refused at export: {record.get('refused at export')}"
        results = [record["checks"].get(check, "") for check in CHECKS] if "checks" in record else [why, *[""] * 5]
        rows.append(" | ".join((*key(record), *results)))
    table = "\n".join(f"| {row} |" for row in rows)
    return f"""# Bundles in 16 bits, in what opens them

Written by `python benchmarks/measure/matrix/sixteen_bits.py FOLDER`, which goes on where it stopped: {len(records)} of
{total} cells have run. Answers are held to the model in the same type, within parity's tolerances.
CPU: {cpus}. Where it has no bf16, OpenVINO's bf16 cells show types and what is stored, not the products' rounding.

{table}
"""


def write(records: list[Record]) -> None:
    """One record a line, and the page."""
    lines = ",\n".join(json.dumps(record) for record in records)
    LINES.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    PAGE.write_text(page(records), encoding="utf-8")


def wanted(options: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    """Cells that were asked for and stand in no line yet."""
    done = set() if options.again else {key(record) for record in read()}
    for name in options.family or MADE_HERE:
        for kind in options.kind or KINDS:
            for dtype in options.dtype or DTYPES:
                if (name, kind, dtype) not in done:
                    yield name, kind, dtype


def main() -> int:
    """Run what was asked for; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--family", action="append", choices=MADE_HERE)
    parser.add_argument("--kind", action="append", choices=KINDS)
    parser.add_argument("--dtype", action="append", choices=[*DTYPES])
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no cell after so many")
    parser.add_argument("--again", action="store_true", help="also those that stand there")
    options, begin = parser.parse_args(), monotonic()
    torch.set_num_threads(1)
    quicken()
    cpu = devices.find()
    both = tuple(dict.fromkeys((*cpu.arithmetics, "bf16")))
    devices.describe = lambda name: dataclasses.replace(cpu, arithmetics=both)  # see above
    for cell in wanted(options):
        if monotonic() - begin > options.seconds:
            break
        record = tried(*cell, options.folder)
        print(json.dumps(record), flush=True)
        write(sorted([one for one in read() if key(one) != cell] + [record], key=key))
    return int(any(str(result).startswith("differs") for one in read() for result in one.get("checks", {}).values()))


if __name__ == "__main__":
    sys.exit(main())
