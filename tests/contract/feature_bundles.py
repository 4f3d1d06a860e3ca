"""Bundles that have what the demo's lacks: buckets, sliding windows, states, clips, caches in codes; made once each."""

from __future__ import annotations

import dataclasses
import sys
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import demo_cache
from made_once import made_once

from luvc_export import export_bundle
from luvc_export.bundle.folder import Bundle, load
from luvc_export.calibration import datasets
from luvc_export.calibration.quantise.cache_calibration import calibrate_caches
from luvc_export.core.plan.plan_set import with_buckets

sys.path.append(str(Path(__file__).resolve().parents[1] / "export" / "families"))

#: Smallest family with each feature: a window of 12 rows, and a delta rule's states.
FAMILIES = {"sliding windows": "gemma3", "states": "qwen3_5"}
VIDEO = "qwen2_5_vl"


@cache
def bundle(folder: Path, feature: str) -> Bundle:
    """The bundle with a feature, from the suite's cache ``folder`` or made there."""
    if feature == "8-bit caches":
        plain = partial(demo_cache.unpadded_bundle, folder / "unpadded")
        return load(made_once(folder / "codes", Path(__file__), lambda out: _codes(plain(), out)))
    if feature in FAMILIES:
        import family_bundles

        name = FAMILIES[feature]
        return load(family_bundles.kept(folder / f"family-{name}", name) / "bundle")
    return load(made_once(folder / feature.replace(" ", "-"), Path(__file__), partial(_video_family, feature)))


def _codes(plain: Bundle, out: Path) -> None:
    """Caches of ``thirds_kv8`` in codes, and it the default."""
    data = datasets.load("glyph", count=28)
    few = dataclasses.replace(data, cases=data.cases[::7], pixels=data.pixels[::7])
    calibrate_caches(plain, few, "int8", output=out, min_agreement=0.0, threads=1)


def _video_family(feature: str, out: Path) -> None:
    """A plan and its half bucket; or a plan for clips."""
    import family_chat
    from family_questions import exportable, small
    from flat_plans import replan

    buckets = feature == "buckets"
    tiny = small(VIDEO, 1) if buckets else exportable(VIDEO)
    plans = {"thirds": tiny.thirds}
    if buckets:
        plans = with_buckets({"some": replan(tiny.thirds, merges=(), keep=(5,), last_layer="full")}, [50, 100])
    with TemporaryDirectory() as folder:
        checkpoint = str(family_chat.save(tiny, Path(folder) / "checkpoint"))
        export_bundle(checkpoint, out, plans, image_size=tiny.size, text_capacity=256, video=not buckets)
