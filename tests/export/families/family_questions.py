"""Smaller models of every family, and what they are asked: pictures of other shapes, tiles, videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from family_checkpoints import find, names
from family_harness import Case, build
from flat_plans import replan

from luvc_export.calibration.datasets import CalibrationSet
from luvc_export.core.plan import Plan
from luvc_export.export import families
from luvc_export.runtime.prompt.case_lines import FileCase

#: Families that cut pictures.
TILED = tuple(name for name in names() if find(name).two_tiles is not None)
#: Families whose layers have windows, and one that is shorter than any prompt here.
SLIDING, WINDOW = tuple(name for name in names() if find(name).sliding is not None), 12


@cache
def small(name: str, layers: int = 2) -> Case:
    """The tiny model with as few layers as show merges on both axes, a prune and a drop: tracing takes time by each.

    DeepStack keeps the plane from before the merge, which is pruned before the first layer and added after it. With
    one layer there is no drop.
    """
    family = families.find(name, "test")
    config = family.tiny_config()
    text, vision = config.get_text_config(), config.vision_config
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]
    if hasattr(vision, "deepstack_visual_indexes"):
        vision.depth, vision.deepstack_visual_indexes = 2, [0]
    own = find(name).small
    return _shortened(build(family, own(config) if own else config))


@cache
def exportable(name: str) -> Case:
    """``small``, with short windows where the family has them, and consumers of caches of both kinds of Gemma 4's."""
    tiny, own = small(name), find(name).sliding
    if own is None:
        return tiny
    config = tiny.config.to_dict()
    text = {**config["text_config"], "sliding_window": WINDOW, "max_position_embeddings": 2048, **own}
    text.pop("per_layer_config", None)
    return _shortened(build(tiny.family, type(tiny.config)(**{**config, "text_config": text})))


def _shortened(tiny: Case) -> Case:
    """The same model with a shorter default plan."""
    return replace(tiny, thirds=_once(tiny.thirds))


def _once(plan: Plan) -> Plan:
    """One pass of merging, in the last block that has one, and one prune, before the first of two layers."""
    rows, columns = plan.grid
    merged = [replace(step, rows=1, columns=1) for step in plan.encoder.merges[-1:]]
    keep = (*[(rows - 1) * (columns - 1) // 2] * max(1, plan.cached - 1), *[0] * (plan.layers - 1))[: plan.layers]
    return replan(plan, merges=tuple(merged), keep=keep, last_layer="drop" if len(keep) > 1 else "full")


def scenery(tiny: Case, rows: int, columns: int) -> Any:
    """A picture that is exactly so many tiles, smooth enough for resampling to be the same everywhere."""
    height, width = tiny.size
    y, x = np.mgrid[: rows * height, : columns * width]
    return np.stack([128 + 100 * np.sin(x / 9), 128 + 100 * np.cos(y / 7), (x + y) % 256], -1).astype(np.uint8)


def questions(name: str, kind: str) -> list[FileCase]:
    """Two about single pictures of other shapes (padded), one without any; or tiled pictures; or videos."""
    tiny = small(name)
    still: list[Any] = [image[0].numpy() for image in tiny.images(8)]
    if kind == "videos":
        clips = tuple(still[:4]), tuple(still[4:7])
        return [FileCase((), "What then?", video=clip, fps=0.8, picture=i) for i, clip in enumerate(clips)]
    if kind == "tiles":
        shown = [scenery(tiny, 1, 2), 255 - scenery(tiny, 1, 2)]
        return [FileCase((picture,), "Hi", picture=i) for i, picture in enumerate(shown)]
    narrow = [still[0][:, : tiny.size[1] // 2], still[1][: tiny.size[0] // 3]]
    asked = [FileCase((picture,), "Hi", picture=i) for i, picture in enumerate(narrow)]
    return [*asked, FileCase(tuple(still[2:4]), "Both?", picture=2), FileCase((), "2 + 2?", picture=3)]


def few(cases: Sequence[FileCase]) -> CalibrationSet:
    """Each case twice, in clusters of their own."""
    many = [
        FileCase(c.images, c.prompt + "?" * turn, None, c.kind, 10 * turn + i, c.video, c.fps)
        for turn in range(3)
        for i, c in enumerate(cases)
    ]
    return CalibrationSet("made", tuple(many), tuple((str(c.picture),) for c in many), longest=3)
