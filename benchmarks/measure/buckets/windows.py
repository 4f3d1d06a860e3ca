"""Kept units in windows with gaps, or cut into runs: `python benchmarks/measure/buckets/windows.py BUNDLE`.

BUNDLE is examples/glyph_deep's checkpoint at 728x448 with `--plan none --unit-buckets 50,75`. Questions about pages of
`wide-bare` are answered with the encoder in torch: of the whole page, of the units of `none@50` alone with windows that
have gaps (what is exported), and of the same units in window order, cut into runs as long as a window, PixelPrune's way
where a tower has windows. Shown are answers that stay the same, and the mean cosine of embeddings to the whole page's.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from luvc_export.bundle.folder import load
from luvc_export.calibration.runners.compressed import load_model
from luvc_export.core import graph_io
from luvc_export.export.checkpoint import open_checkpoint
from luvc_export.export.processor import normalise
from luvc_export.export.towers import pruned_windows
from luvc_export.export.towers.pruned_windows import EncoderState, PrunedState, Window
from luvc_export.runtime.session import Session

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
RUN = 16
GAPS = pruned_windows.of_units


def runs(stage: EncoderState, raster: Tensor, chosen: Tensor, patches: int) -> PrunedState:
    """In place of `pruned_windows.of_units`: units that stand in window order already, cut every 16."""
    state, windows = GAPS(stage, raster, chosen, patches), list[Window]()
    (whole,) = state.whole
    for begin in range(0, whole.length, RUN * patches):
        end = min(begin + RUN * patches, whole.length)
        windows.append(Window(begin, end, end - begin, whole.cos[:, begin:end], whole.sin[:, begin:end], None))
    return state._replace(windows=windows, place=None)


class Encoder:
    """The vision half of a plan in torch, as `Backend.vision`; `cut` takes runs in place of windows with gaps."""

    def __init__(self, checkpoint: Any, model: Any, session: Session, cut: bool = False) -> None:
        self.module, self.cut = checkpoint.family.vision(model, session.plan, normalise(checkpoint)), cut
        self.embeds = np.zeros(0)

    def __call__(self, images: Any, beside: Any = None) -> dict[str, Any]:
        """See `Backend.vision`."""
        order, back = beside, None
        if self.cut:
            stage = self.module._enter(nothing(self.module))
            place = stage.raster.numpy()[beside[0]].argsort()
            order, back = beside[:, place], place.argsort()
        pruned_windows.of_units = runs if self.cut else GAPS
        with torch.no_grad():
            outputs = self.module(torch.tensor(images), *([] if beside is None else [torch.tensor(order)]))
        embeds, positions, merged = (value.numpy() for value in outputs)
        if back is not None:
            embeds, positions, merged = embeds[:, back], positions[:, back], merged
        self.embeds = embeds
        names = (graph_io.VISUAL_EMBEDS, graph_io.VISUAL_POSITIONS, graph_io.MERGED_INTO)
        return dict(zip(names, (embeds, positions, merged), strict=True))


def nothing(module: Any) -> Any:
    """Units of nothing, on the module's grid: what its windows are made of."""
    from luvc_export.export.compression import oim

    return oim.start(torch.zeros(1, *module.plan.grid, module.patches * module.hidden))


def main(folder: str, count: int = 96) -> None:
    """Print the table."""
    sys.path.insert(0, str(EXAMPLES))
    from glyph_deep.data.cases import LONGEST, cases

    bundle, checkpoint = load(folder), open_checkpoint(str(EXAMPLES / "glyph_deep" / "checkpoint"))
    model = load_model(checkpoint)
    ways: dict[str, tuple[Session, Encoder]] = {}
    for name, plan in (("whole", "none"), ("gaps", "none@50"), ("runs", "none@50")):
        session = Session(bundle, "cpu", plan=plan, threads=1)
        encoder = Encoder(checkpoint, model, session, name == "runs")
        session.plans._another = None  # as asked, whatever the picture
        session.backend.vision = encoder  # type: ignore[method-assign]
        ways[name] = session, encoder
    same, alike, asked = dict.fromkeys(ways, 0), {name: list[float]() for name in ways}, 0
    for case in cases("wide-bare", count):
        answers = {}
        for name, (session, encoder) in ways.items():
            answer = session.generate(list(case.images), case.prompt, max_new_tokens=LONGEST)
            answers[name] = answer.text
            merged = answer.selection.merged_into
            whole = ways["whole"][1].embeds[0]
            kept = np.arange(len(whole)) if merged is None or name == "whole" else np.flatnonzero(merged[0] >= 0)
            one, other = whole[kept], encoder.embeds[0]
            cosine = (one * other).sum(-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(other, axis=-1)
            alike[name].append(float(cosine.mean()))
        asked += 1
        for name in ways:
            same[name] += answers[name] == answers["whole"]
    print("| kept units | same answer | cosine of embeddings |\n| --- | --- | --- |")
    for name in ("gaps", "runs"):
        print(f"| {name} | {same[name]} of {asked} | {np.mean(alike[name]):.4f} |")


if __name__ == "__main__":
    main(sys.argv[1], *(int(number) for number in sys.argv[2:]))
