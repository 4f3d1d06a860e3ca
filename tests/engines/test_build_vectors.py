"""Engines of bundles that embed: built with TensorRT-RTX, without a GPU, and run on a stand-in."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import ort_engine
import pytest
import stand_in
from slow_cases import slow_but

sys.path.append(str(Path(__file__).resolve().parents[1] / "export" / "families"))
import many_vectors
import vector_bundles

from luvc_export import build_engine
from luvc_export.bundle.folder import load
from luvc_export.core import graph_io
from luvc_export.engines.profiles import Capacity
from luvc_export.runtime import backends
from luvc_export.runtime.cuda.device import Gpu
from luvc_export.runtime.session import Session

TEXTS = ["a red seven", "x"]


def kept(pytestconfig: pytest.Config, name: str) -> Path:
    if name in many_vectors.BUNDLES:
        return many_vectors.kept(pytestconfig.cache.mkdir(f"many-{name}"), name) / "bundle"
    return vector_bundles.kept(pytestconfig.cache.mkdir(f"vectors-{name}"), name) / "bundle"


@pytest.mark.parametrize("name", slow_but(["every"], ["every", "qwen2_vl"]))
def test_engines_of_vectors_are_built(name: str, pytestconfig: pytest.Config, tmp_path: Path) -> None:
    """No cache, no token; of many vectors one of each text token too. The bundle loads with them."""
    shutil.copytree(kept(pytestconfig, name), tmp_path / "bundle")
    (entry,) = build_engine(load(tmp_path / "bundle", task=None), "rtx-ada", "none").manifest.engines
    assert load(tmp_path / "bundle", task=None).manifest.engines == (entry,)
    assert [output.name for output in entry.decoder.outputs] == [graph_io.VECTORS]
    assert not any(binding.name.startswith("past") for binding in entry.decoder.inputs)
    (profile,) = entry.decoder.profiles
    wanted = (1, entry.text_capacity) if name == "every" else (1, 1)
    assert profile.maximum[graph_io.LOGITS_INDICES] == wanted


@pytest.mark.parametrize("name", slow_but(["every"], ["every", "qwen2_vl"]))
def test_their_vectors_are_the_bundle_s(
    name: str, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the stand-in GPU, of texts and of a page, whose graphs went through the surgery of engines."""
    bundle = load(kept(pytestconfig, name), task=None)
    size = many_vectors.tiny().size if name == "every" else vector_bundles.tiny_of(name).size
    page = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    engines = ort_engine.describe(bundle, "none", "concat", Capacity(text=96, logits=96), kind="wide")
    gpu = Gpu(library=stand_in.library())
    monkeypatch.setattr(backends, "open_backend", lambda *of, **more: engines.backend(gpu)[0])
    ours = Session(engines.bundle, "tensorrt", "none")
    monkeypatch.undo()
    own = Session(bundle, "cpu", "none", threads=1)

    def vectors(session: Session, **what: Any) -> list[Any]:
        return session.embed_many(**what) if name == "every" else [*session.embed(**what)]

    for what in ({"texts": TEXTS}, {"images": [page]}):
        for mine, theirs in zip(vectors(ours, **what), vectors(own, **what), strict=True):
            assert mine.shape == theirs.shape and np.linalg.norm(mine - theirs) / np.linalg.norm(theirs) < 1e-4
