"""Scores of the task ``rerank`` are transformers', in the prompt of the model's card, on both back-ends."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vector_bundles
from numpy.typing import NDArray

from luvc_export.bundle.folder import Bundle, load
from luvc_export.bundle.graphs import read_graph
from luvc_export.errors import CheckpointError, UsageError
from luvc_export.export.checkpoint import Checkpoint, open_checkpoint
from luvc_export.export.options import Options
from luvc_export.export.reading.sentence_transformers import embedding_of
from luvc_export.runtime.engine.embed import chance
from luvc_export.runtime.session import Session

pytestmark = pytest.mark.slow(beside="export/families/test_family_vectors.py::test_vectors_are_transformers")

sys.path.append(str(Path(__file__).resolve().parents[2] / "calibration" / "parity"))

QUERY, TEXTS = "a red seven", ("a page of numbers", "x", "Which of them shows a red seven, and where?")
TINY = vector_bundles.tiny_of(vector_bundles.RERANKER)


@pytest.fixture(scope="module")
def folder(pytestconfig: pytest.Config) -> Path:
    name = vector_bundles.RERANKER
    return vector_bundles.kept(pytestconfig.cache.mkdir(f"vectors-{name}"), name)


@pytest.fixture(scope="module")
def opened(folder: Path) -> Callable[..., Session]:
    return cache(
        lambda backend="cpu", plan="none": Session(folder / "bundle", backend, plan, threads=1, arithmetic="fp32")
    )


def logit(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    exact = scores.astype(np.float64)
    return np.log(exact / (1 - exact))


@pytest.mark.parametrize("backend", ["cpu", "openvino"])
def test_scores_are_transformers(backend: str, opened: Any) -> None:
    """Of texts, of pictures and of both, in batches of several lengths."""
    session, shown = opened(backend), [one[0, 0].numpy() for one in (TINY.images(1), TINY.images(1) // 2)]
    theirs = [vector_bundles.judged(TINY, QUERY, None, text) for text in TEXTS]
    theirs += [vector_bundles.judged(TINY, QUERY, picture, None) for picture in shown]
    theirs += [vector_bundles.judged(TINY, QUERY, shown[0], TEXTS[0])]
    both = session.score(QUERY, pairs=[(shown[0], TEXTS[0])])
    ours = np.concatenate([session.score(QUERY, texts=TEXTS), session.score(QUERY, images=shown), both])
    wanted = np.array(theirs)
    assert ours.dtype == np.float32 and ours.shape == (6,)
    assert np.linalg.norm(logit(ours) - wanted) <= 1e-4 * np.linalg.norm(wanted)
    assert np.array_equal(np.argsort(ours), np.argsort(wanted)) and np.ptp(wanted) > 0.01
    assert np.linalg.norm(logit(ours)[::-1] - wanted) > 1e-2 * np.linalg.norm(wanted), "the comparison cannot fail"
    assert np.abs(session.score("a blue two", texts=TEXTS) - ours[:3]).max() > 1e-4
    assert np.abs(session.score(QUERY, texts=TEXTS, instruction="Another.") - ours[:3]).max() > 1e-4
    assert np.abs(session.score(QUERY, texts=TEXTS, batch=1) - ours[:3]).max() < 1e-5


def test_the_head_has_two_rows(folder: Path) -> None:
    """Nothing over the vocabulary is written, and nothing of decoding."""
    bundle = load(folder / "bundle", task=None)
    graph = read_graph(bundle, bundle.entry().decoder)
    heads = [one for one in graph.outside if "lm_head" in one.name]
    assert [tuple(one.shape) for one in heads] == [(2, bundle.manifest.decoder.hidden)]
    assert bundle.manifest.row_width == 1 and not bundle.manifest.sets
    assert bundle.manifest.embedding is not None and bundle.manifest.embedding.labels == vector_bundles.LABELS


def test_parity_compares_scores(folder: Path) -> None:
    """Of transformers and of the compressed modules; another label is seen."""
    from test_vector_parity import Spoilt, failed

    from luvc_export.calibration.parity.run import open_pair, parity
    from luvc_export.runtime.prompt.case_lines import FileCase

    asked = [FileCase((), text, None, picture=at) for at, text in enumerate(TEXTS)]
    for left in ("hf", "torch"):
        pair = open_pair(f"{left}:{folder}/checkpoint", f"onnx:{folder}/bundle", threads=1)
        result = parity(*pair, asked, observe=3)
        assert result.passed and result.comparison.ranks is not None, result.lines(True)
        spoilt = Spoilt(pair[1], lambda number, score: score * np.float32(-1 if number else 1))
        assert {"relative L2 of vectors", "pairs ordered alike"} <= failed(parity(pair[0], spoilt, asked, observe=3))


def test_scores_of_vectors_are_products(pytestconfig: pytest.Config) -> None:
    """A bundle that embeds scores too: the query with its instruction, documents with their own."""
    folder = vector_bundles.kept(pytestconfig.cache.mkdir("vectors-qwen2_vl"), "qwen2_vl")
    session = Session(folder / "bundle", "cpu", threads=1)
    wanted = session.embed(texts=TEXTS) @ session.embed(texts=[QUERY], prompt="document")[0]
    assert np.allclose(session.score(QUERY, texts=TEXTS, prompt="document"), wanted, atol=1e-6)


def test_what_is_refused(opened: Any, demo_bundle: Bundle, tmp_path: Path) -> None:
    session = opened()
    for call, wrong in (
        (lambda: session.embed(texts=TEXTS), "another task"),
        (lambda: session.generate(prompt="hello"), "another task"),
        (lambda: session.score("", texts=TEXTS), "a query is a text"),
        (lambda: session.score(QUERY, texts=[]), "nothing to score"),
        (lambda: session.score(QUERY, texts="x"), "nothing to score"),
        (lambda: Session(demo_bundle).score(QUERY, texts=TEXTS), "another task"),
    ):
        with pytest.raises(UsageError, match=wrong) as info:
            call()
        assert wrong != "another task" or info.value.fix


def test_labels_of_a_plain_checkpoint(folder: Path) -> None:
    """Without sentence-transformers' files they are the words no and yes, as the model's own script takes them."""
    plain = open_checkpoint(str(folder / "checkpoint"))
    bare = Checkpoint(**{**vars(plain)})
    options = Options(TINY.size, task="rerank")
    assert embedding_of(bare, options).labels == vector_bundles.LABELS
    for name in ("modules.json",):
        hidden = folder / "checkpoint" / name
        moved = hidden.rename(hidden.with_suffix(".hidden"))
        try:
            with pytest.raises(CheckpointError, match="no tokens for yes and no"):
                embedding_of(bare, options)
        finally:
            moved.rename(hidden)


def test_a_chance_does_not_overflow() -> None:
    with np.errstate(all="raise", under="ignore"):
        assert chance(np.array([-700, 0, 700], np.float32)).tolist() == [0, 0.5, 1]
