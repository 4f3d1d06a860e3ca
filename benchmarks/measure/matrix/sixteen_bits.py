"""Bundles of every type, family and kind of plan, in everything that opens them: equal to the model in that type?

    python benchmarks/measure/matrix/sixteen_bits.py FOLDER [--family NAME ...] [--dtype NAME ...] [--kind NAME ...]
        [--seconds N] [--again]

Tiny checkpoints of random weights are exported in fp16 and bf16 with one kind of plan, and each bundle is held to the
checker with full types, to ONNX Runtime, to OpenVINO in fp32 and in bf16, to a build for TensorRT-RTX and to the lint
of a pack. Answers are held to transformers' own model in that type (``none``) or to the compressed modules in it,
within the tolerances of ``parity``. Types, families and precisions are those of the code's own registries. A cell is a
line of docs/results/sixteen-bits.json once it is done, and is not run again; docs/results/sixteen-bits.md is written
from the lines. Every kind of one family comes first, then every family's plain plans, then the rest as a seed mixes it.
Cells in fp32 run where ``--dtype`` asks for them, to tell what 16 bits change from what a plan does. Where a CPU lists
no bf16, OpenVINO is told that it does: the plug-in then widens what the graph says in bf16, so that types are tested
and rounding in part. Exit code 1 where anything differs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

from sixteen_bits_cells import CHECKS, FAMILIES, HERE, KINDS, LAYERS, NAMED, PLAN, Cell, Cells

from luvc_export.export.weights import DTYPES
from luvc_export.runtime.openvino import device as devices

LINES, PAGE = (HERE / "docs" / "results" / f"sixteen-bits.{ending}" for ending in ("json", "md"))
SEED = 56
#: The family that shows a kind first, and those of kinds that it has not.
BROAD, OTHERS = "qwen2_vl", {"states": "lfm2_vl", "windows": "gemma3"}
#: Families whose towers or layers compute in other types than they store: these before the others.
ODD = ("fast_vlm", "gemma3", "gemma4")
#: Of two families whose tiny towers are the same.
PIXTRAL = """FP8 has three bits of fraction, and the input of every product of the tower is rounded to them: a small
difference changes some codes, and behind each product more of them. Seen on mistral3, with the same codes in fp32: ONNX
Runtime and OpenVINO part in the first rounding, of pixels (100 of 18,432 get another code), by 0.006, and are 0.17
apart at the end of the tower in one picture. Those codes in fp32 are 0.27 from the model there (relative L2, 0.2 is
allowed), in bf16 0.28 to 0.30."""
FAR = """what is chosen as far apart (`maxmin`) follows cosines that 16 bits move by 0.004 in this model
of random weights: of 48 tokens that torch keeps in the same type 44 to 46 are kept, and torch in bf16 keeps 46 of those
that it keeps in fp32. In fp32 they keep the same."""
#: Why a cell differs, as far as that is known.
REASONS: dict[Cell, str] = {
    **dict.fromkeys((("gemma4", "safe", "bf16"), ("gemma4", "safe", "fp16")), FAR),
    ("gemma4", "luvc", "fp16"): """OpenVINO computing in bf16 merges other units of two pictures. Their similarities are
nearer to each other than bf16 moves them in torch, which merges one unit otherwise than in fp32 too; a swap changes
three units and more of the 24 that these pictures have. Its visual tokens are nearer to those of fp32 than torch's in
bf16 are, in every picture, so it rounds no worse.""",
    ("lighton_ocr", "fp8", "bf16"): PIXTRAL,
    ("mistral3", "fp8", "bf16"): PIXTRAL,
}
Record = dict[str, Any]


def read() -> list[Record]:
    """What was run before."""
    records: list[Record] = json.loads(LINES.read_text(encoding="utf-8")) if LINES.is_file() else []
    return records


def key(record: Record) -> Cell:
    """What a cell is."""
    return record["family"], record["kind"], record["dtype"]


def order() -> list[Cell]:
    """All cells, those first that show most."""
    sixteen = [name for name in DTYPES if name != "fp32"]
    broad = [(OTHERS.get(kind, BROAD), kind, dtype) for dtype in sixteen for kind in KINDS]
    names = sorted(FAMILIES, key=lambda name: name not in ODD)
    plain = [(name, kind, dtype) for name in names for dtype in sixteen for kind in ("none", PLAN)]
    rest = [(name, kind, dtype) for name in FAMILIES for kind in KINDS for dtype in sixteen]
    random.Random(SEED).shuffle(rest)
    return [*dict.fromkeys((*broad, *plain, *rest))]


def wanted(options: argparse.Namespace) -> Iterator[Cell]:
    """Cells that were asked for and stand in no line yet."""
    done = set() if options.again else {key(record) for record in read()}
    compared = [(name, kind, "fp32") for name, kind, _ in order() if "fp32" in (options.dtype or ())]
    for name, kind, dtype in dict.fromkeys((*order(), *compared)):
        asked = name in (options.family or FAMILIES) and kind in (options.kind or KINDS)
        if asked and dtype in (options.dtype or DTYPES) and (name, kind, dtype) not in done:
            yield name, kind, dtype


def kinds_of(result: str) -> str:
    """A verdict without its reason."""
    return result.split(":")[0].split(",")[0]


def page(records: list[Record]) -> str:
    """The matrix as a page: a row for each cell of type, family and kind, those that have not run named in words."""
    cells = order()
    by_cell = {key(record): record for record in records if key(record) in cells}
    cpus = ", ".join(sorted({record["cpu"] for record in by_cell.values()}))
    results = [(check, kinds_of(text)) for one in by_cell.values() for check, text in one.get("checks", {}).items()]
    verdicts = Counter(verdict for _, verdict in results)
    verdicts.update("no bundle, refused" for one in by_cell.values() if "refused at export" in one)
    verdicts.update("nothing of the kind" for one in by_cell.values() if "none" in one)
    counts = ", ".join(f"{verdict} {count}" for verdict, count in verdicts.most_common())
    heads = ("family", "plan", "type", *CHECKS)
    rows = [" | ".join(heads), " | ".join("---" for _ in heads)]
    for cell in sorted(by_cell):
        record = by_cell[cell]
        why = record["none"] if "none" in record else f"refused at export: {record.get('refused at export')}"
        shown = [record["checks"][check] for check in CHECKS] if "checks" in record else [why] * len(CHECKS)
        rows.append(" | ".join(" ".join(text.split()) for text in (*cell, *shown)))
    table = "\n".join(f"| {row} |" for row in rows)
    apart = [cell for cell in sorted(by_cell) if differs(by_cell[cell])]
    reasons = "\n".join(f"- {', '.join(cell)}: {REASONS.get(cell, 'not known')}" for cell in apart) or "- nothing"
    return f"""# Bundles in 16 bits, in what opens them

Written by `python benchmarks/measure/matrix/sixteen_bits.py FOLDER`, which goes on where it stopped: {len(by_cell)} of
{len(cells)} cells of family, plan and type have run, each in {len(CHECKS)} checks. Answers are held to the model in the
same type, within parity's tolerances, or as near to the model in fp32 as that model is; one that goes another way at a
tie of the model's own logits counts as equal and is counted; codes of weights that answer as ONNX Runtime does with the
same codes in fp32, or as the same engine in the same arithmetic does with them, are equal to those. Codes that rounding
the weights to bf16 made others must be as near to the model, and answer as they do in fp32. CPU: {cpus}. Where
it has no bf16, OpenVINO's bf16 cells show types and what is stored, not the products' rounding.

Verdicts: {counts}.

{table}

What differs, and why:

{reasons}

Not run yet:

{missing([cell for cell in cells if cell not in by_cell])}
"""


def differs(record: Record) -> bool:
    """Whether a check of a cell is not as it must be."""
    return any(result.startswith("differs") for result in record.get("checks", {}).values())


def missing(cells: list[Cell]) -> str:
    """Cells that have not run, in words: a line a family and type."""
    lines: dict[tuple[str, str], list[str]] = {}
    for name, kind, dtype in cells:
        lines.setdefault((name, dtype), []).append(kind)
    texts = {
        pair: "every plan" if len(some) == len(KINDS) else ", ".join(kind for kind in KINDS if kind in some)
        for pair, some in lines.items()
    }
    return "\n".join(f"- {name}, {dtype}: {texts[name, dtype]}" for name, dtype in sorted(texts)) or "- nothing"


def write(records: list[Record]) -> None:
    """The records of a family on one line, and the page."""
    alike: dict[str, list[str]] = {}
    for record in records:
        alike.setdefault(record["family"], []).append(json.dumps(record))
    lines = ",\n".join(", ".join(some) for some in alike.values())
    LINES.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    PAGE.write_text(page(records), encoding="utf-8")


def believe_bf16() -> str:
    """Let OpenVINO take this CPU for one with bf16; its name."""
    cpu = devices.find()
    both = tuple(dict.fromkeys((*cpu.arithmetics, "bf16")))
    devices.describe = lambda name: dataclasses.replace(cpu, arithmetics=both)  # see above
    return cpu.title or platform.machine()


def main() -> int:
    """Run what was asked for; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--family", action="append", choices=FAMILIES)
    parser.add_argument("--kind", action="append", choices=KINDS)
    parser.add_argument("--dtype", action="append", choices=[*DTYPES])
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no cell after so many")
    parser.add_argument("--again", action="store_true", help="also those that stand there")
    options, begin = parser.parse_args(), monotonic()
    shown = {"none" if kind in LAYERS else kind for kind in options.kind or KINDS}
    named = [name for name in NAMED if name in shown or name == PLAN]
    cpu, run = believe_bf16(), Cells(options.folder, named)
    for cell in wanted(options):
        if monotonic() - begin > options.seconds:
            break
        start = monotonic()
        record = {**dict(zip(("family", "kind", "dtype"), cell, strict=True)), "cpu": cpu, **run(*cell)}
        print(f"{monotonic() - start:.0f} s", json.dumps(record), flush=True)
        write(sorted([one for one in read() if key(one) != cell] + [record], key=key))
    return int(any(map(differs, read())))


if __name__ == "__main__":
    sys.exit(main())
