"""Parity and budget search of every family: the reference encodes text, tiles and videos as its processor does."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import family_chat
import pytest
from family_checkpoints import quick
from family_harness import MADE_HERE
from family_questions import SLIDING, TILED, exportable, few, questions, small
from slow_cases import slow_but

from luvc_export.calibration import runners
from luvc_export.calibration.budgets.run import budgets
from luvc_export.calibration.parity.run import parity
from luvc_export.calibration.runners.canvas import canvas, uncompressed
from luvc_export.core.plan import Sharing
from luvc_export.errors import UsageError
from luvc_export.export import families
from luvc_export.export.checkpoint import Checkpoint, open_checkpoint

FAMILIES = MADE_HERE
FOUND = {name: families.find(name, "test") for name in FAMILIES}
VIDEO = [
    name for name, family in FOUND.items() if (own := family.video(family.tiny_config())) is not None and not own.pooled
]
#: One way to rank tokens, and no layer frozen.
RANKED: dict[str, Any] = {"score": "residual", "rho": 0.25, "freeze": False}
#: Images that share a budget in a joint plan, two frames each.
MOMENTS = 2
#: A search for each kind of question, and for each kind of model whose plans it makes otherwise: no block that merges,
#: caches that layers share, layers without keys, a prompt seen both ways. What it runs is equal for all (the test of
#: the uncompressed plan).
SEARCHED = (
    ("qwen2_5_vl", "pictures"),
    ("fast_vlm", "pictures"),
    ("gemma4", "pictures"),
    ("paligemma", "pictures"),
    ("qwen3_5", "pictures"),
    ("llava_onevision", "tiles"),
    ("qwen3_vl", "videos"),
    ("internvl", "joint"),
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Small checkpoints by family, each written once."""

    @cache
    def save(name: str) -> Checkpoint:
        folder = family_chat.save(small(name), tmp_path_factory.mktemp(name))
        return open_checkpoint(str(folder))

    return save


#: Single pictures of all others: test_family_odd.py.
KINDS = [("qwen3_vl", "pictures"), *((name, "tiles") for name in TILED), *((name, "videos") for name in VIDEO)]


def seen(checkpoint: Checkpoint, kind: str) -> Any:
    tiles = {"tiles": ((1, 2),), "whole": ((1, 1), (1, 2))}.get(kind, ((1, 1),))
    size = small(checkpoint.family.model_type).size
    return canvas(checkpoint, size, tiles=tiles, video=kind in ("videos", "joint"))


def shared(kind: str) -> Sharing:
    return Sharing(MOMENTS if kind == "joint" else 1)


#: Frames alone and in pairs, timed by text, pooled.
JOINT = ("gemma4", "qwen2_vl", "qwen3_vl", "llava_onevision")
ALL = [*KINDS, *((name, "joint") for name in JOINT), ("llava_onevision", "whole")]


@pytest.mark.parametrize(("name", "kind"), slow_but(quick(), ALL))
def test_the_uncompressed_plan_is_transformers(name: str, kind: str, saved: Any) -> None:
    """Every tensor that enters a layer, caches, logits and answers; also where one budget is of a whole video."""
    checkpoint = saved(name)
    image, sharing = seen(checkpoint, kind), shared(kind)
    left = runners.open_huggingface(checkpoint, image, sharing=sharing)
    right = runners.open_torch(checkpoint, uncompressed(checkpoint, image.image.size, sharing), image)
    asked = questions(name, {"joint": "videos", "whole": "pictures"}.get(kind, kind))
    report = parity(left, right, asked, observe=len(asked), longest=8)
    assert report.passed, "\n".join(report.lines(True))
    names = {step.tensor for step in report.steps}
    assert {"vision", "layer 0 in", "layer 1 in", "layer 1 key", "logits"} <= names
    tiny = small(name)
    assert ("vision plane 1" in names) == bool(tiny.family.decoder(tiny.model, tiny.plan).planes)


@pytest.mark.parametrize("name", SLIDING)
def test_prompts_longer_than_a_window_are_compared(name: str, tmp_path: Path) -> None:
    """Transformers' cache of such a layer holds the window alone: its keys are left out, all else is compared."""
    checkpoint = open_checkpoint(str(family_chat.save(exportable(name), tmp_path)))
    image = canvas(checkpoint, exportable(name).size)
    left = runners.open_huggingface(checkpoint, image)
    right = runners.open_torch(checkpoint, uncompressed(checkpoint, image.image.size), image)
    report = parity(left, right, questions(name, "stills"), observe=1, longest=2)
    assert report.passed, "\n".join(report.lines(True))
    names = {step.tensor for step in report.steps}
    assert {"layer 0 in", "layer 1 in", "logits"} <= names and "layer 0 key" not in names


@pytest.mark.parametrize(
    ("name", "kind"), [("qwen3_vl", "pictures"), ("llava_onevision", "tiles"), ("qwen2_vl", "videos")]
)
def test_a_reference_that_reads_otherwise_is_told(
    name: str, kind: str, saved: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage of the reference's own reading: pixels, places."""
    checkpoint = saved(name)
    image = seen(checkpoint, kind)
    left = runners.open_huggingface(checkpoint, image)
    right = runners.open_torch(checkpoint, uncompressed(checkpoint, image.image.size), image)
    asked = [one for one in questions(name, kind) if one.images or one.video][:1]
    pixels, places = left._pixels, left._places
    monkeypatch.setattr(left, "_pixels", lambda images: pixels(images[..., ::-1].copy()))
    assert not parity(left, right, asked, observe=1, longest=1).passed
    monkeypatch.setattr(left, "_pixels", pixels)
    monkeypatch.setattr(left, "_places", lambda request: tuple(part.flip(0) for part in places(request)))
    assert not parity(left, right, asked, observe=1, longest=1).passed


@pytest.mark.parametrize(("name", "kind"), slow_but(["qwen2_5_vl"], [cell for cell in SEARCHED if cell[0] in FAMILIES]))
def test_budgets_are_searched(name: str, kind: str, saved: Any) -> None:
    """The uncompressed model repeats its answers (else the search refuses), and the plan has the right span.

    What ranks the tokens is searched for one family: that knows of none.
    """
    checkpoint = saved(name)
    data = few(questions(name, "videos" if kind == "joint" else kind))
    tiles = ((1, 2),) if kind == "tiles" else ((1, 1),)
    sharing = shared(kind)
    plans = budgets(
        checkpoint,
        data,
        small(name).size,
        tiles=tiles,
        video=kind in ("videos", "joint"),
        sharing=sharing,
        retention=0.05,
        merge_keep=1.0,
        **({} if name == "qwen2_5_vl" else RANKED),
    )
    assert plans.none.keep[0] == small(name).plan.units * sharing.images
    assert plans.chosen.plan.sharing == sharing
    assert plans.chosen.flops < plans.flops


def test_no_plan_is_searched_for_pooled_frames(saved: Any) -> None:
    checkpoint, data = saved("llava_onevision"), few(questions("llava_onevision", "videos"))
    with pytest.raises(UsageError, match=r"frames that the model pools(.|\n)*--plan film"):
        budgets(checkpoint, data, small("llava_onevision").size, video=True, sharing=shared("joint"), retention=0.05)
