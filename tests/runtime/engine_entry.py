"""What a manifest says of a pair of engines, without engines."""

from __future__ import annotations

from luvc_export.bundle.manifest import Binding, EngineEntry, EngineFile, FileRecord, Footprint, Profile
from luvc_export.core import graph_io
from luvc_export.core.plan import Plan
from luvc_export.core.shapes import DecoderShape


def entry(shape: DecoderShape, plan: Plan, kv: str, images: int, text: int, dtype: str = "float16") -> EngineEntry:
    """What the manifest says of a pair of engines; the vision engine is left out of these tests."""
    rows = [images * keep + text if kv == "inplace" else -1 for keep in plan.keep]
    caches = tuple(
        Binding(name, dtype, (-1, shape.kv_heads, rows[index // 2], shape.head_dim))
        for index, name in enumerate(graph_io.past_names(shape.layers))
    )
    limits = ({graph_io.INPUT_IDS: (1, size)} for size in (1, 1, text))
    profile = Profile("wide", *limits)
    file = EngineFile("decoder.engine", FileRecord("0", 0), caches, (), (profile,), 0, None, "", "")
    return EngineEntry(
        *("p", "t", "fp16", kv, "tensorrt", "10.3", ("8.7",), False, "none", False, False, 1, images, text),  # type: ignore[arg-type]
        vision=file,
        decoder=file,
        footprint=Footprint(0, 0, 0, 0, 0),
    )
