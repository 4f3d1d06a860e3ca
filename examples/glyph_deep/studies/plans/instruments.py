"""Models that plans are measured on, and the grounds each is asked about: held out, or to search on.

A ground counts where the uncompressed model answers 85 %: `glyph_shallow` does so on plain digits alone
(docs/results/glyph-shallow.md), and the bundled model never learned pages.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from pretrained import questions as english

from glyph_deep.data.cases import SIZES, cases
from glyph_deep.studies.methods.compare import say
from luvc_export.calibration import tasks
from luvc_export.calibration.ablation.evaluator import PlanEvaluator
from luvc_export.calibration.ablation.store import Store, weights_hash
from luvc_export.calibration.ablation.study import Study
from luvc_export.calibration.ablation.variants import Shapes
from luvc_export.calibration.cases import Case
from luvc_export.calibration.runners.compressed import load_model
from luvc_export.demo import CHECKPOINT as BUNDLED
from luvc_export.demo import IMAGE_SIZE
from luvc_export.demo.questions import GlyphCase
from luvc_export.export.checkpoint import open_checkpoint

_EXAMPLES = Path(__file__).parents[3]
#: Folders of weights by model; those of `pretrained` are the small ones: `pretrained.merge` makes its checkpoint.
MODELS = {
    "glyph_deep": _EXAMPLES / "glyph_deep" / "checkpoint",
    "glyph_shallow": _EXAMPLES / "glyph_shallow" / "checkpoint",
    "bundled": BUNDLED,
    "pretrained": _EXAMPLES / "pretrained",
}
_DIGITS = ("plain", "textured")
GROUNDS = {
    "glyph_deep": (*_DIGITS, "pages", "fonts", "photographs"),
    "glyph_shallow": ("plain",),
    "bundled": ("heldout", "harder", "photographs"),
    "pretrained": (*_DIGITS, "photographs"),
}
#: Grounds that have a split to search on, by model.
SEARCHED = {"glyph_deep": (*_DIGITS, "pages"), "glyph_shallow": ("plain",), "pretrained": _DIGITS}
TEXT = 64  # tokens that costs count, as `luvc-export plan` does


def asked(model: str, ground: str, count: int, search: bool) -> list[Case]:
    """Return `count` questions of a ground; of `pretrained` four a picture."""
    if model == "pretrained":
        kinds, split = list(english.KINDS), "search" if search else "heldout"
        every = english.cases(split, ground, 2 * count + len(kinds))
        some = [case for case in every if (case.picture + kinds.index(case.kind)) % 2]
        return [GlyphCase((case.image,), case.prompt, case.answer, case.kind, case.picture) for case in some[:count]]
    if model == "bundled" and ground in ("heldout", "harder"):
        return list(tasks.find("glyph").cases(ground, count, 0))
    return list(cases(f"search-{ground}" if search else ground, count, 0))


def studies(
    name: str,
    count: int,
    folder: Path,
    search: bool = False,
    pretrained: Path | None = None,
    device: str = "cpu",
    grounds: Collection[str] = (),
) -> Iterator[tuple[str, Study]]:
    """Yield (ground, study) of a model.

    Args:
        name: Of `MODELS`.
        count: Questions a ground.
        folder: Measurements are kept there, so that a killed run goes on.
        search: Ask the splits to search on.
        pretrained: Checkpoint of that model.
        device: Where torch asks: `cpu` or `cuda`.
        grounds: Those alone, where some are named.
    """
    weights = weights_hash(pretrained if name == "pretrained" and pretrained else MODELS[name])
    opened = open_checkpoint(str(pretrained if name == "pretrained" else MODELS[name]))
    model = load_model(opened, device=device)
    unit = opened.family.unit_pixels(opened.config)
    llm, encoder = opened.family.decoder_shape(opened.config), opened.family.encoder_shape(opened.config)
    for ground in (SEARCHED if search else GROUNDS)[name]:
        if grounds and ground not in grounds:
            continue
        own = name == "bundled" and ground != "photographs"
        height, width = IMAGE_SIZE if own else SIZES[ground]
        engine = PlanEvaluator(opened, model, asked(name, ground, count, search), True)
        split = f"search-{ground}" if search else ground
        about = {"model": name, "ground": split, "weights": weights}
        store = Store(folder / f"{name}-{split}-measurements.json", about)
        shapes = Shapes((height // unit, width // unit), llm, encoder)
        title = f"{name}, {split}"
        yield ground, Study({"report": engine}, shapes, store, TEXT, lambda stage, done, of=title: say(of, done))
