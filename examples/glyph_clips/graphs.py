"""Plans for clips as graphs: `python -m glyph_clips.graphs OUT`.

Exports every plan of `named_plans.CLIPS` for films, compares each graph with torch, lints it for a target of every
dialect, builds an engine for one of TensorRT-RTX's, and draws what one film keeps, frame by frame. Writes
`docs/results/clip-graphs.json`, a record a line; records of other plans stay. The drawing,
`docs/results/clip-plans.png`, is of all plans.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from luvc_export.bundle import folder as bundles
from luvc_export.calibration import tasks
from luvc_export.calibration.parity.run import open_pair, parity
from luvc_export.core.named_plans import CLIPS
from luvc_export.engines import targets
from luvc_export.pipeline import build_engine, export_bundle, make_plan
from luvc_export.pipeline.engines import prepare_build
from luvc_export.runtime.session import Session

from .cases import CHECKPOINT, SIZE
from .films import GRID, MOMENTS

RESULTS = Path(__file__).parents[2] / "docs" / "results"
#: A target whose engines are built on any machine.
BUILT = "rtx-ada"
TOKEN = SIZE[0] // GRID[0]


def exported(out: Path, name: str) -> bundles.Bundle:
    """Return the bundle of a plan in `out`, exported unless it is there."""
    folder = out / name
    if not folder.is_dir():
        plan = make_plan(str(CHECKPOINT), name, image_size=SIZE, joint_images=MOMENTS)
        out.mkdir(parents=True, exist_ok=True)
        export_bundle(str(CHECKPOINT), folder, {name: plan}, image_size=SIZE, text_capacity=64, video=True)
    return bundles.load(folder)


def record(bundle: bundles.Bundle, name: str, count: int) -> dict[str, Any]:
    """Return what a plan's graphs passed."""
    task = tasks.find("glyph-clips")
    asked = list(islice(task.cases(task.report[0], count, task.report[1]), count))
    pair = open_pair(f"torch:{CHECKPOINT}", f"{bundle.folder}#{name}", threads=1)
    result = parity(*pair, asked, observe=1, longest=task.longest, stops=task.stops)
    linted = {}
    for dialect, target in sorted(one_of_each_dialect().items()):
        linted[dialect] = [target, len(prepare_build(bundle, target, name, precision="fp32").graphs)]
    entry = build_engine(bundle.folder, BUILT, name, precision="fp32").engine(name, BUILT)
    return {
        "plan": name,
        "parity": result.passed,
        "questions": len(asked),
        "gates": {f"{gate.level}, {gate.name}": gate.got for gate in result.gates},
        "linted": linted,
        "built": [BUILT, len(entry.decoder.inputs)],
    }


def one_of_each_dialect() -> dict[str, str]:
    """Return a target for every dialect of graphs, by dialect."""
    return {targets.find(name).spec.dialect: name for name in reversed(targets.names())}


def strip(some: Mapping[str, bundles.Bundle]) -> Image.Image:
    """Draw a film and what each plan keeps of it before its last layer: a row a plan, a column a moment."""
    case = next(iter(tasks.find("glyph-clips").cases("search", 1, 0)))
    side, left = SIZE[0], 90
    sheet = Image.new("RGB", (left + MOMENTS * (side + 4), (len(some) + 1) * (side + 4)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, name in enumerate(["none", *some]):
        draw.text((6, row * (side + 4) + side // 2), name, fill="black", font=ImageFont.load_default(20))
        kept = None if name == "none" else seen(some[name], name, case)
        for moment in range(MOMENTS):
            picture = np.array(case.video[2 * moment])
            if kept is not None:
                shade = np.kron(kept[moment], np.ones((TOKEN, TOKEN), bool))
                pale = 235 - (235 - picture.astype(int)) // 8
                picture = np.where(shade[..., None], picture, pale).astype(np.uint8)
            sheet.paste(Image.fromarray(picture), (left + moment * (side + 4), row * (side + 4)))
    smaller = sheet.resize((sheet.width // 2, sheet.height // 2), Image.Resampling.LANCZOS)
    return smaller.quantize(256, Image.Quantize.FASTOCTREE)


def seen(bundle: bundles.Bundle, name: str, case: Any) -> np.ndarray:
    """Units of every moment that a plan's last prune keeps, bool [moments, rows, columns]; of none, all."""
    session = Session(bundle, "cpu", name, threads=1)
    request = session.prepare(prompt=case.prompt, video=list(case.video), fps=case.fps)
    step = session.default.run(request.token_ids, session.default.encode_images(request.images), blocks=request.blocks)
    if not step.kept:
        return np.ones((MOMENTS, *GRID), bool)
    units = np.zeros(MOMENTS * GRID[0] * GRID[1], bool)
    units[step.kept[max(step.kept)].reshape(-1)] = True
    return units.reshape(MOMENTS, *GRID)


def main() -> None:
    """Export, compare, build, draw and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the bundles")
    parser.add_argument("--count", type=int, default=6, help="questions that both answer")
    parser.add_argument("--draw", action="store_true", help="draw alone")
    parser.add_argument("--plans", nargs="+", choices=list(CLIPS), default=list(CLIPS))
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    some = {name: exported(args.out, name) for name in args.plans}
    if set(some) == set(CLIPS):
        strip(some).save(args.output / "clip-plans.png", optimize=True)
    file = args.output / "clip-graphs.json"
    rows = {row["plan"]: row for row in json.loads(file.read_text(encoding="utf-8"))["rows"]} if file.is_file() else {}
    for name in [] if args.draw else some:
        rows[name] = record(some[name], name, args.count)
        lines = ",\n".join(json.dumps(rows[one]) for one in CLIPS if one in rows)
        file.write_text(f'{{"rows": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
