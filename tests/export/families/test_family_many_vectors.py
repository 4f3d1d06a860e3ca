"""Vectors of every token are transformers', merged along rows and columns in the graph; padding wins no maximum."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import many_vectors
import numpy as np
import pytest
from many_vectors import GRID
from numpy.typing import NDArray
from slow_cases import slow_but

from luvc_export.bundle.folder import load
from luvc_export.core.plan import Plan
from luvc_export.core.tasks import Embedding
from luvc_export.errors import BundleError, CheckpointError, UsageError
from luvc_export.export.llm.vectors import merged, to_the_end
from luvc_export.export.retrieval.base import one_input
from luvc_export.export.retrieval.colpali import FAMILY as COLPALI
from luvc_export.export.retrieval.colqwen2 import FAMILY as COLQWEN2
from luvc_export.pipeline import export_bundle
from luvc_export.runtime.engine.embed import late_interaction
from luvc_export.runtime.session import Session

TEXTS = ("a red seven", "x", "Which page shows invoices above 100 euros?")
#: Sums in another order.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def folders(pytestconfig: pytest.Config) -> Callable[[str], Path]:
    return lambda name: many_vectors.kept(pytestconfig.cache.mkdir(f"many-{name}"), name)


@pytest.fixture(scope="module")
def opened(folders: Callable[[str], Path]) -> Any:
    return cache(
        lambda name="every", backend="cpu": Session(folders(name) / "bundle", backend, threads=1, arithmetic="fp32")
    )


@pytest.fixture(scope="module")
def pages() -> list[NDArray[np.uint8]]:
    """Noise, and a ramp of one colour."""
    noise = many_vectors.tiny().images(1)[0, 0].numpy()
    ramp = np.zeros_like(noise)
    ramp[..., 1] = np.linspace(0, 255, noise.shape[1])
    return [noise, ramp]


def off(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    assert ours.shape == theirs.shape
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def cells(vectors: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Means of cells of a grid, of length 1, one by one."""
    whole, (high, wide) = vectors.reshape(*GRID, -1), size
    places = [(row, column) for row in range(0, GRID[0], high) for column in range(0, GRID[1], wide)]
    means = np.stack([whole[row : row + high, column : column + wide].mean((0, 1)) for row, column in places])
    return np.asarray(means / np.linalg.norm(means, axis=-1, keepdims=True))


@pytest.mark.parametrize(
    ("name", "backend"),
    slow_but(["every"], [*itertools.product(("every", "colpali", "both ways"), ("cpu", "openvino")), ("newer", "cpu")]),
)
def test_vectors_are_transformers(name: str, backend: str, opened: Any) -> None:
    """Of pages, visual tokens first, and of queries, in batches of several lengths."""
    session, family = opened(name, backend), many_vectors.BUNDLES[name][0]
    pages = list(many_vectors.tiny(family).images(2)[:, 0].numpy())
    for ours, picture in zip(session.embed_many(images=pages), pages, strict=True):
        shown, text = many_vectors.page(picture, family)
        assert ours.dtype == np.float32 and off(ours, np.concatenate([shown, text])) <= TOLERANCE
        assert off(ours[: len(shown)][::-1], shown) > 100 * TOLERANCE, "the comparison cannot fail"
        assert np.abs(np.linalg.norm(ours, axis=-1) - 1).max() < 1e-5
    ours = session.embed_many(texts=TEXTS)
    wanted = [many_vectors.query(text, family) for text in TEXTS]
    assert max(map(off, ours, wanted)) <= TOLERANCE
    alone = session.embed_many(texts=TEXTS, batch=1)
    assert max(map(off, alone, wanted)) <= TOLERANCE and len({len(one) for one in ours}) == 3


def test_cells_merge_in_the_graph(opened: Any, pages: Sequence[Any]) -> None:
    """A number known at export, of a grid that cells do not divide; text stays as it is."""
    session, size = opened("quarters"), (2, 2)
    count = -(-GRID[0] // size[0]) * -(-GRID[1] // size[1])
    for ours, picture in zip(session.embed_many(images=pages), pages, strict=True):
        shown, text = many_vectors.page(picture)
        assert len(ours) == count + len(text)
        assert off(ours, np.concatenate([cells(shown, size), text])) <= TOLERANCE
        assert off(ours[:count], cells(shown[::-1], size)) > 100 * TOLERANCE, "the comparison cannot fail"


def test_numbers_of_vectors_are_known() -> None:
    every = Embedding("every")
    sizes = (1, 1), (1, 2), (2, 2), (3, 3)
    counts = [replace(every, merged=size).image_vectors(1024, (32, 32)) for size in sizes]
    assert counts == [1024, 512, 256, 121] and every.image_vectors(7, GRID) == 7


@pytest.mark.parametrize("size", [(1, 2), (2, 1), (3, 3), (5, 4), (7, 7)])
def test_cells_are_means_of_length_1(size: tuple[int, int]) -> None:
    """Of two pages, each by itself."""
    rows = np.random.default_rng(0).standard_normal((2, GRID[0] * GRID[1], 8)).astype(np.float32)
    ours = merged(Embedding("every", merged=size), _tensor(rows.reshape(1, -1, 8)), GRID)[0].numpy()
    wanted = np.concatenate([cells(one, size) for one in rows])
    assert ours.shape == wanted.shape and np.abs(ours - wanted).max() < 1e-6


def test_scores_are_transformers(opened: Any, pages: Sequence[Any]) -> None:
    """Late interaction, masks and all."""
    session = opened()
    rows = [np.concatenate(many_vectors.page(picture)) for picture in pages]
    wanted = many_vectors.processor().score_retrieval(
        [_tensor(many_vectors.query(TEXTS[0]))], [_tensor(row) for row in rows]
    )
    scores = session.score(TEXTS[0], images=pages)
    assert scores.dtype == np.float32 and np.abs(scores - wanted[0].numpy()).max() < 1e-3
    assert np.abs(scores[::-1] - wanted[0].numpy()).max() > 1e-2


def _tensor(values: NDArray[np.float32]) -> Any:
    import torch

    return torch.from_numpy(values)


def test_padding_wins_no_maximum(opened: Any, pages: Sequence[Any]) -> None:
    """A page of half the height: vectors of padding alone are left out, whatever they would score."""
    session, half = opened(), pages[0][: len(pages[0]) * 2 // 5]
    (ours,), (whole,) = session.embed_many(images=[half]), session.embed_many(images=pages[:1])
    text = len(whole) - GRID[0] * GRID[1]
    assert len(ours) < len(whole) and (len(ours) - text) % GRID[1] == 0
    (merged,) = opened("quarters").embed_many(images=[half])
    assert len(merged) - text < -(-GRID[0] // 2) * -(-GRID[1] // 2)
    query = whole[:1]
    assert late_interaction(query, [ours])[0] < late_interaction(query, [whole])[0]


def test_the_prompt_is_the_processors(folders: Callable[[str], Path], opened: Any) -> None:
    """Texts of its configuration, as they are: quotes, line ends and braces too."""
    from luvc_export.runtime.prompt.template import ChatTemplate

    source = one_input("a 'page' {{ 7 }}\n\\", ("Q: ", "!\n"))
    template = ChatTemplate(source, "here", {})
    shown = template.render([{"role": "user", "content": [{"type": "image"}]}], {"add_generation_prompt": False})
    assert shown == "a 'page' {{ 7 }}\n\\"
    text = [{"role": "user", "content": [{"type": "text", "text": "{{ 8 }}"}]}]
    assert template.render(text, {"add_generation_prompt": False}) == "Q: {{ 8 }}!\n"
    manifest = opened().bundle.manifest
    assert (manifest.task, manifest.row_width, manifest.prompt.position_kind) == ("embed-many", 16, "sequential")


def test_parity(folders: Callable[[str], Path], tmp_path: Path, pages: Sequence[Any]) -> None:
    sys.path.append(str(Path(__file__).resolve().parents[2] / "calibration" / "parity"))
    from PIL import Image
    from test_vector_parity import Spoilt, failed

    from luvc_export.calibration.parity.run import open_pair, parity
    from luvc_export.runtime.prompt.case_lines import FileCase

    asked = [FileCase((), text, None, picture=9 + at) for at, text in enumerate(TEXTS[:2])]
    for at, picture in enumerate(pages):
        Image.fromarray(picture).save(tmp_path / f"{at}.png")
        asked.append(FileCase((tmp_path / f"{at}.png",), "", None, picture=at))
    for left, name in (("hf", "quarters"), ("torch", "every")):
        folder = folders(name)
        pair = open_pair(f"{left}:{folder}/checkpoint", f"onnx:{folder}/bundle", threads=1)
        result = parity(*pair, asked, observe=4)
        assert result.passed and result.comparison.ranks is not None and result.comparison.ranks.pairs, result.lines(
            True
        )
    turned = Spoilt(pair[1], lambda number, rows: rows if number else np.roll(rows, 3, 1))
    assert {"relative L2 of vectors", "pairs ordered alike"} <= failed(parity(pair[0], turned, asked, observe=4))


def test_plans_keep_what_has_a_vector() -> None:
    plan: Plan = many_vectors.tiny().thirds
    every, quarters = Embedding("every"), Embedding("every", merged=(2, 2))
    changed = to_the_end(plan, every, padded=False)
    assert changed.llm.last_layer == "full" and changed.keep[-1] > 0 and changed.keep[:-1] == plan.keep[:-1]
    with pytest.raises(UsageError, match="a whole page"):
        to_the_end(plan, quarters, padded=False)
    with pytest.raises(UsageError, match="show padding"):
        to_the_end(plan, every, padded=True)


def test_what_is_refused(folders: Callable[[str], Path], opened: Any, pages: Sequence[Any], tmp_path: Path) -> None:
    session, checkpoint = opened(), str(folders("every") / "checkpoint")
    for call, wrong in (
        (lambda: session.embed(texts=["x"]), "another task"),
        (lambda: session.generate(prompt="x"), "another task"),
        (lambda: session.score("x", pairs=[(pages[0], "x")]), "each by itself"),
        (lambda: session.embed_many(), "nothing to embed"),
        (lambda: export_bundle(checkpoint, tmp_path / "out", "none", task="generate"), "one task"),
        (lambda: export_bundle("demo", tmp_path / "out", "none", task="embed-many"), "does not embed here"),
    ):
        with pytest.raises(UsageError, match=wrong):
            call()
    data = load(folders("quarters") / "bundle", task=None).manifest.to_json()
    from luvc_export.bundle.manifest import Manifest

    for spoilt in ({"merged": [0, 2]}, {"merged": [2, 65]}, {"pooling": "last"}, {"width": 0}, {"width": 2**20}):
        with pytest.raises(BundleError, match="does not say how it embeds"):
            Manifest.from_json({**data, "embedding": data["embedding"] | spoilt}, "luvc.json")


def test_a_processor_that_writes_nothing(tmp_path: Path) -> None:
    """ColPali's writes nothing where it says so; ColQwen2's takes that for nothing said, as transformers'."""
    (tmp_path / "processor_config.json").write_text(
        '{"visual_prompt_prefix": "", "query_prefix": ""}', encoding="utf-8"
    )
    (tmp_path / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    pali, qwen = (family.prompts(tmp_path) for family in (COLPALI, COLQWEN2))
    assert "Question: " not in pali and "Describe" not in pali and "Query: " in qwen and "Describe" in qwen


def test_a_processor_that_says_no_text(folders: Callable[[str], Path], tmp_path: Path) -> None:
    family = many_vectors.tiny().family
    (tmp_path / "processor_config.json").write_text('{"query_prefix": 3}', encoding="utf-8")
    with pytest.raises(CheckpointError, match="does not say what it writes"):
        family.prompts(tmp_path)
