"""Vectors of bundles in fp16 and bf16 are transformers' in that type, as near as its rounding lets them be."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import many_vectors
import numpy as np
import pytest
import torch
import vector_bundles
from numpy.typing import NDArray

from luvc_export.calibration.parity.tolerances import tolerances
from luvc_export.errors import MachineError
from luvc_export.pipeline import export_bundle
from luvc_export.runtime.session import Session

TEXTS = ["a page of numbers", "x", "Which of them shows a red seven, and where?"]
TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def off(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """Relative L2 of the vector that is furthest off."""
    return float((np.linalg.norm(ours - theirs, axis=-1) / np.linalg.norm(theirs, axis=-1)).max())


def noise(size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)


@pytest.mark.slow(beside="export/families/test_family_vectors.py::test_vectors_are_transformers")
def test_one_vector_in_fp16(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    """On both back-ends, of a text and of a picture."""
    tiny, limit = vector_bundles.tiny_of("qwen3_vl"), tolerances("fp16").rel_l2.value
    checkpoint = vector_bundles.kept(pytestconfig.cache.mkdir("vectors-qwen3_vl"), "qwen3_vl") / "checkpoint"
    options: dict[str, Any] = {"image_size": tiny.size, "text_capacity": 512, "task": "embed", "dtype": "fp16"}
    export_bundle(str(checkpoint), tmp_path / "bundle", {"none": tiny.plan}, **options)
    half = replace(tiny, model=copy.deepcopy(tiny.model).to(TYPES["fp16"]))
    picture = noise(tiny.size)
    theirs = np.stack([vector_bundles.expected(half, *one) for one in ((picture, None), (None, TEXTS[0]))])
    for backend in ("cpu", "openvino"):
        session = Session(tmp_path / "bundle", backend, threads=1, arithmetic="auto" if backend == "cpu" else "fp32")
        ours = np.concatenate([session.embed(images=[picture]), session.embed(texts=TEXTS[:1])])
        assert off(ours, theirs) <= limit < off(ours[::-1], theirs), backend
        assert off(ours, theirs * 1.03) > limit, "a scale passes"


@pytest.mark.slow(beside="export/families/test_family_many_vectors.py::test_vectors_are_transformers")
def test_a_vector_of_every_token_in_bf16(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    """Another query is further off. ONNX Runtime has no products in bf16 on a CPU, and says so."""
    tiny, limit = many_vectors.tiny(), tolerances("bf16").rel_l2.value
    checkpoint = many_vectors.kept(pytestconfig.cache.mkdir("many-every"), "every") / "checkpoint"
    options: dict[str, Any] = {"image_size": tiny.size, "text_capacity": 128, "dtype": "bf16"}
    export_bundle(str(checkpoint), tmp_path / "bundle", {"none": tiny.plan}, **options)
    model = copy.deepcopy(tiny.model).to(TYPES["bf16"])
    session = Session(tmp_path / "bundle", "openvino", threads=1)
    every = session.embed_many(texts=TEXTS)
    for text, ours in zip(TEXTS, every, strict=True):
        with torch.no_grad():
            theirs = model(**many_vectors.processor().process_queries([text])).embeddings[0].float().numpy()
        assert off(ours, theirs) <= limit < off(every[0][: len(ours)], theirs[: len(every[0])]) or text == TEXTS[0]
    with pytest.raises(MachineError, match="export with --dtype fp32"):
        Session(tmp_path / "bundle", "cpu", threads=1).embed_many(texts=TEXTS[:1])
