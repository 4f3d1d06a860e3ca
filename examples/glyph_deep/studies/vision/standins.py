"""Two ways to compute fewer rows in the encoder: `python -m glyph_deep.studies.vision.standins -o ../docs/results`.

**Stand-ins**: after a block, units of least contrast to their window leave, a fixed number of every window, and one row
a window stays for them: their mean, at their mean place, the log of their number added where it is a key. At the end
a unit that left is its state then plus what its stand-in has changed since. **Coarse**: before the first block, the
flattest groups of 2 x 2 units, a fixed number of the picture, become one unit of as many patches: each the mean of a
unit's patches, at their mean place, with the log of their number as a key; at the end each patch gets its row's change.

Held-out pages, nothing trained, the LLM prunes nothing. Rows: of all blocks, uncompressed by computed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from glyph_deep.data.cases import SIZES, cases
from luvc_export.calibration import intervals
from luvc_export.calibration.ablation.evaluator import PlanEvaluator
from luvc_export.calibration.runners.compressed import TorchCalls, load_model
from luvc_export.core.planning import LlmRequest, PlanRequest, solve
from luvc_export.export.checkpoint import open_checkpoint
from luvc_export.export.compression import oim
from luvc_export.export.layers import norm, rotate, split_heads
from luvc_export.runtime.state import VisualFeatures

CHECKPOINT = Path(__file__).parents[2] / "checkpoint"
#: Share of a window's units that stay, and after which block; share of 2 x 2 groups that become one unit.
STAND_INS = ((0.75, 1), (0.6, 1), (0.55, 1), (0.5, 3))
COARSE = (0.1, 0.3, 0.45)
FEWER = 1.5
COMMAND = "python -m glyph_deep.studies.vision.standins -o ../docs/results"


class Rows:
    """Rows that one picture is computed in: patches in window order at first.

    Attributes:
        x: fp32 [L, C].
        cos: fp32 [L, half a head].
        sin: The same.
        window: Window of each row, int64 [L].
        log: What is added to attention where a row is a key, fp32 [L].
    """

    def __init__(self, x: Tensor, cos: Tensor, sin: Tensor, window: Tensor, log: Tensor) -> None:
        self.x, self.cos, self.sin, self.window, self.log = x, cos, sin, window, log

    def some(self, index: Tensor) -> Rows:
        """Return rows at `index`."""
        return Rows(self.x[index], self.cos[index], self.sin[index], self.window[index], self.log[index])

    def with_means(self, tower: Any, place: Tensor, members: list[Tensor], kept: Tensor) -> Rows:
        """Return rows `kept`, then one for each of `members`: its mean at its mean place [L, 2]."""
        if not members:
            return self.some(kept)
        x = torch.stack([self.x[one].mean(0) for one in members])
        cos, sin = tower.rope(torch.stack([place[one].mean(0) for one in members])[None].permute(2, 0, 1))
        window = torch.stack([self.window[one[0]] for one in members])
        log = torch.tensor([float(len(one)) for one in members]).log()
        own = self.some(kept)
        parts = ((own.x, x), (own.cos, cos[0]), (own.sin, sin[0]), (own.window, window), (own.log, log))
        return Rows(*(torch.cat(pair) for pair in parts))


def run_block(tower: Any, number: int, rows: Rows) -> Rows:
    """Return the rows after one block, attention as one product with a mask."""
    block = tower.parts(tower.layers(tower.visual)[number])
    parts = block.qkv(norm(block.before, rows.x[None])).chunk(3, -1)
    query, key, value = (split_heads(part, tower.head_dim) for part in parts)
    query, key = rotate(query, rows.cos[None], rows.sin[None]), rotate(key, rows.cos[None], rows.sin[None])
    mask = rows.log.expand(len(rows.log), -1)
    if number not in tower.full:
        mask = mask.masked_fill(rows.window[:, None] != rows.window[None], float("-inf"))
    out = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask[None, None])
    x = rows.x + block.out(out.transpose(1, 2).reshape(1, -1, tower.hidden))[0]
    x = x + block.mlp(norm(block.after, x[None]))[0]
    return Rows(x, rows.cos, rows.sin, rows.window, rows.log)


class Pictures:
    """Encodes pictures of one size in fewer rows; counts the rows computed."""

    def __init__(self, tower: Any) -> None:
        self.tower, self.computed, self.whole = tower, 0, 0

    def start(self, picture: np.ndarray[Any, Any]) -> tuple[Rows, Tensor, Any]:
        """Return rows in window order, the place of each [L, 2] in patches, and the tower's stage."""
        tower = self.tower
        units = oim.start(tower._embed(tower._patches(torch.tensor(picture[None]))), tower.copies, None)
        stage = tower.arrange(units)
        sizes = [members for count, members in stage.batches for _ in range(count)]
        window = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes) * tower.patches)
        place = units.positions.flatten(1, 2).index_select(1, stage.order)[0]
        place = (place[:, None] * tower.sizes.side + tower.inner).reshape(-1, 2)
        whole = stage.whole[0]
        return Rows(stage.x[0], whole.cos[0], whole.sin[0], window, torch.zeros(len(window))), place, stage

    def blocks(self, rows: Rows, some: range) -> Rows:
        """Return the rows after `some` blocks, counted."""
        for number in some:
            rows = run_block(self.tower, number, rows)
            self.computed += len(rows.x)
        return rows

    def finish(self, x: Tensor, stage: Any) -> Tensor:
        """Return embeddings [1, U, D] of all patches in window order."""
        self.whole += self.tower.blocks * len(x)
        embeds: Tensor = self.tower.finish(x[None]).index_select(1, stage.raster)
        return embeds

    def plain(self, picture: np.ndarray[Any, Any]) -> Tensor:
        """Return the uncompressed embeddings: what every other way is held against."""
        rows, _, stage = self.start(picture)
        return self.finish(self.blocks(rows, range(self.tower.blocks)).x, stage)

    def stand_ins(self, picture: np.ndarray[Any, Any], keep: float, block: int, mean: bool = True) -> Tensor:
        """Return embeddings with one row for the units that left of each window; without it where not `mean`."""
        tower, (rows, place, stage) = self.tower, self.start(picture)
        rows = self.blocks(rows, range(block + 1))
        patches = tower.patches
        unit_window = rows.window[::patches]
        state = rows.x.reshape(-1, patches * tower.hidden)
        stay, leave = [], []
        for window in unit_window.unique():
            inside = (unit_window == window).nonzero()[:, 0]
            contrast = (state[inside] - state[inside].mean(0)).square().sum(-1)
            order = inside[contrast.argsort(descending=True)]
            count = max(1, round(keep * len(inside)))
            stay.append(order[:count])
            leave.append(order[count:])
        kept = per_patch(torch.cat(stay).sort().values, patches)
        members = [per_patch(some, patches) for some in leave if len(some)]
        before = rows.with_means(tower, place, members if mean else [], kept)
        after = self.blocks(before, range(block + 1, tower.blocks))
        change, x = after.x - before.x, rows.x.clone()
        x[kept] = after.x[: len(kept)]
        for number, some in enumerate(members):
            x[some] += change[len(kept) + number] if mean else change.mean(0)
        return self.finish(x, stage)

    def coarse(self, picture: np.ndarray[Any, Any], share: float) -> Tensor:
        """Return embeddings with the flattest groups of 2 x 2 units computed as one unit each."""
        tower, (rows, place, stage) = self.tower, self.start(picture)
        height, width = tower.plan.grid
        grey = torch.tensor(picture[0]).float().mean(-1)
        side = grey.shape[0] // height
        pairs = grey[: height // 2 * 2 * side, : width // 2 * 2 * side]
        groups = pairs.reshape(height // 2, 2 * side, width // 2, 2 * side).permute(0, 2, 1, 3).flatten(2)
        flat = (groups.amax(-1) - groups.amin(-1)).flatten().argsort()[: round(share * (height // 2) * (width // 2))]
        at, members, left = stage.raster, list[Tensor](), torch.ones(len(rows.x), dtype=torch.bool)
        for group in flat.tolist():
            row, column = divmod(group, width // 2)
            units = [at[(2 * row + i) * width + 2 * column + j] for i in (0, 1) for j in (0, 1)]
            some = [per_patch(unit[None], tower.patches) for unit in units]
            if len({int(rows.window[one[0]]) for one in some}) == 1:
                members += some
                left[torch.cat(some)] = False
        kept = left.nonzero()[:, 0]
        before = rows.with_means(tower, place, members, kept)
        after = self.blocks(before, range(tower.blocks))
        change, x = after.x - before.x, rows.x.clone()
        x[kept] = after.x[: len(kept)]
        for number, one in enumerate(members):
            x[one] += change[len(kept) + number]
        return self.finish(x, stage)


def per_patch(units: Tensor, patches: int) -> Tensor:
    """Return the rows of units, `patches` of each."""
    return (units[:, None] * patches + torch.arange(patches)).flatten()


def ways() -> dict[str, Callable[[Pictures, Any], Tensor]]:
    """Return every way by name, the uncompressed one first."""
    ways_of: dict[str, Callable[[Pictures, Any], Tensor]] = {"none": lambda how, shown: how.plain(shown)}
    for keep, block in STAND_INS:
        for mean, name in ((True, "one mean a window"), (False, "no stand-in")):
            ways_of[f"{keep:.0%} of every window after block {block}, {name}"] = (
                lambda how, shown, keep=keep, block=block, mean=mean: how.stand_ins(shown, keep, block, mean)
            )
    for share in COARSE:
        ways_of[f"{share:.0%} of the 2 x 2 groups coarse"] = lambda how, shown, share=share: how.coarse(shown, share)
    return ways_of


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the page and its figures")
    parser.add_argument("--ground", default="pages")
    parser.add_argument("--count", type=int, default=300, help="questions")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    opened = open_checkpoint(str(CHECKPOINT))
    unit = opened.family.unit_pixels(opened.config)
    height, width = SIZES[args.ground]
    llm, encoder = opened.family.decoder_shape(opened.config), opened.family.encoder_shape(opened.config)
    plan = solve(PlanRequest(LlmRequest("none")), (height // unit, width // unit), llm, encoder)
    asked = list(cases(args.ground, args.count, 0))
    engine = PlanEvaluator(opened, load_model(opened), asked, True)
    calls = TorchCalls(opened, engine.model, plan)
    own = engine.encode_images(calls)
    whole = np.array(engine.right(plan))
    clusters = [case.picture for case in asked]
    rows: list[dict[str, Any]] = []
    for name, way in ways().items():
        pictures = Pictures(calls.encoder)
        with torch.no_grad():
            embeds = np.concatenate([way(pictures, shown).numpy() for shown, _ in engine._ready(plan)[1]])
        if name == "none":
            np.testing.assert_allclose(embeds, own.embeds, atol=2e-3)
        engine._seen[plan.encoder, plan.sharing.without_quota()] = VisualFeatures(
            embeds, own.positions, own.merged_into, own.padding
        )
        right = np.array(engine.right(plan))
        kept = intervals.retention(right.tolist(), whole.tolist(), clusters)
        spread = [round(value, 4) for value in (kept.value, kept.low, kept.high)]
        fewer = round(pictures.whole / pictures.computed, 3)
        rows.append({"way": name, "rows": fewer, "accuracy": round(float(right.mean()), 4), "retention": spread})
        print(json.dumps(rows[-1]), flush=True)
    about = {"ground": args.ground, "questions": len(asked), "pictures": len(set(clusters))}
    text = ",\n".join(json.dumps(row) for row in rows)
    (args.output / "standins.json").write_text(
        f'{{"about": {json.dumps(about)}, "rows": [\n{text}\n]}}\n', encoding="utf-8"
    )
    (args.output / "standins.md").write_text(page(about, rows), encoding="utf-8")


def page(about: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Return the document."""
    best = max((row["retention"][0] for row in rows if row["rows"] >= FEWER), default=0.0)
    lines = [
        "# Stand-ins and coarse units in the encoder: measured, not shipped",
        "",
        f"Written by `{COMMAND}` in `examples`. Do not edit: run it again.",
        "",
        f"{about['questions']} held-out questions about {about['pictures']} pictures of `{about['ground']}`; retention "
        "with 95 % intervals clustered by picture. Rows are those of all encoder blocks, uncompressed by computed; "
        "what each way does stands in examples/glyph_deep/studies/vision/standins.py. The bar was 0.99 with "
        f"{FEWER} times fewer; the best there kept {best:.3f}.",
        "",
        "| way | rows | accuracy | retention |",
        "|---|---:|---:|---:|",
    ]
    for row in rows:
        spread = "{:.3f} ({:.3f} to {:.3f})".format(*row["retention"])
        lines.append(f"| {row['way']} | {row['rows']:.2f}x | {row['accuracy']:.3f} | {spread} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
