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

sys.path.append(str(Path(__file__).resolve().parents[1] / "export" / "families"))

#: Smallest family with each feature: a window of 12 rows, and a delta rule's states.
FAMILIES = {"sliding windows": "gemma3", "states": "qwen3_5"}


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
    if feature == "buckets":
        import family_bundles

        return load(family_bundles.with_half(folder / "buckets") / "bundle")
    return load(made_once(folder / "clip-window", Path(__file__), _clips))


def _codes(plain: Bundle, out: Path) -> None:
    """Caches of ``thirds_kv8`` in codes, and it the default."""
    data = datasets.load("glyph", count=28)
    few = dataclasses.replace(data, cases=data.cases[::7], pixels=data.pixels[::7])
    calibrate_caches(plain, few, "int8", output=out, min_agreement=0.0, threads=1)


def _clips(out: Path) -> None:
    """A plan for clips."""
    import family_chat
    from family_questions import exportable

    tiny = exportable("qwen2_5_vl")
    with TemporaryDirectory() as folder:
        checkpoint = str(family_chat.save(tiny, Path(folder) / "checkpoint"))
        export_bundle(checkpoint, out, {"thirds": tiny.thirds}, image_size=tiny.size, text_capacity=256, video=True)
