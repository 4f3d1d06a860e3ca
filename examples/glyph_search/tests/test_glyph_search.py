"""The retrieval instrument: its vectors are transformers', its NDCG is the formula's, its page is its figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from glyph_search import write
from glyph_search.checkpoint import BASE, ONE, SMALL, write_checkpoint
from glyph_search.corpus import Query, Sheet, queries, relevant, sheet
from glyph_search.measure import NAMES, derived, kept, ndcg, table
from glyph_search.model import Embedder, OneVector
from glyph_search.one_vector import FACTS, directions, fewer, losses
from glyph_search.train import late_interaction, merged
from glyph_vqa.model import patchify
from safetensors.torch import load_file

from luvc_export.core.files.pages import within
from luvc_export.core.tasks import Embedding
from luvc_export.demo import RETRIEVER
from luvc_export.export.llm import vectors

RESULTS = Path(__file__).resolve().parents[3] / "docs" / "results"
GRID = (5, 7)


def test_pages_are_of_their_number_and_queries_of_their_pages() -> None:
    """Every fact stands where it says; a query's own page answers it, and one without its fact does not."""
    for ground in ("pages", "textured"):
        pixels, shown = sheet("heldout", ground, 0, 3)
        again, same = sheet("heldout", ground, 0, 3)
        other, different = sheet("heldout", ground, 0, 4)
        assert (pixels == again).all() and shown == same and different != shown and other.shape == pixels.shape
        assert all(0 <= unit < pixels.shape[0] * pixels.shape[1] // 28**2 for units in shown.units for unit in units)
        answers = relevant(queries("heldout", ground, 0, [shown, different], 2), [shown, different])
        assert answers.diagonal().all() and not answers.all()
    pages = [Sheet(("red 7", "blue 3"), ((0,), (1,))), Sheet(("red 7",), ((0,),))]
    assert relevant([Query(("red 7",), 0), Query(("red 7", "blue 3"), 0)], pages).tolist() == [
        [True, True],
        [True, False],
    ]


def test_ndcg_is_its_formula() -> None:
    """By hand: pages in second and fourth place of three that answer; equal scores go by the page's number."""
    answers = np.array([[False, True, False, True, False, False, True]])
    scores = np.array([[9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0]])
    best = 1 + 1 / np.log2(3) + 0.5
    assert ndcg(scores, answers)[0] == pytest.approx((1 / np.log2(3) + 1 / np.log2(5)) / best)
    assert ndcg(answers * 1.0, answers)[0] == pytest.approx(1) and ndcg(-scores, answers)[0] != ndcg(scores, answers)[0]
    assert ndcg(np.zeros((1, 7)), answers)[0] == ndcg(scores, answers)[0]


def test_vectors_merge_as_in_the_graph() -> None:
    """Those that the study and the training merge, of a grid that cells do not divide, are the export's."""
    rng = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(1, GRID[0] * GRID[1] + 2, 16, generator=rng), dim=-1)
    units, text = rows[:, : GRID[0] * GRID[1]], rows[:, GRID[0] * GRID[1] :]
    studied = dict(derived([rows[0].numpy()], GRID))
    for cells in ((1, 2), (2, 2), (3, 3)):
        how = replace(Embedding("every", width=16), merged=cells)
        expected = torch.cat([vectors.merged(how, units, GRID), text], 1)[0]
        ours = studied[f"vectors merged {cells[0]}x{cells[1]}"][0]
        assert np.abs(ours - expected.numpy()).max() < 1e-6
        before = torch.zeros(1, 4, 16)
        trained = merged(torch.cat([before, units, text], 1), GRID, cells)[0, 4:]
        assert (trained - expected).abs().max() < 1e-6
    assert len(studied["1/4 of vectors, at random"][0]) == len(studied["vectors merged 2x2"][0])


def test_late_interaction_of_a_query_leaves_its_padding_out() -> None:
    """A padding vector that would win counts nothing."""
    pages, asked = torch.eye(3)[None].expand(2, 3, 3), torch.tensor([[[1.0, 0, 0], [5.0, 0, 0]]])
    assert late_interaction(asked, torch.tensor([[True, False]]), pages).tolist() == [[1.0, 1.0]]


def test_vectors_of_the_checkpoint_are_transformers(tmp_path: Path) -> None:
    """What is trained, in a checkpoint that ColQwen2ForRetrieval reads; without the small weights it differs."""
    from transformers import ColQwen2ForRetrieval

    write.main([str(tmp_path / "scans"), str(tmp_path / "checkpoint"), "--count", "2"])
    assert sorted(path.name for path in (tmp_path / "scans").iterdir()) == ["000.png", "001.png", "facts.txt"]
    for file in RETRIEVER.iterdir():
        written = tmp_path / "checkpoint" / file.name
        if file.suffix == ".safetensors":  # the LoRA is merged by this CPU's products: the last bit may be another
            torch.testing.assert_close(load_file(written), load_file(file), msg=lambda text: f"the wheel's: {text}")
        else:
            assert written.read_bytes() == file.read_bytes(), f"the wheel has another {file.name}"
    model = ColQwen2ForRetrieval.from_pretrained(tmp_path / "checkpoint", dtype=torch.float32).eval()
    embedder = Embedder(BASE)
    embedder.load(SMALL)
    pixels, _ = sheet("heldout", "textured", 0, 0)
    with torch.no_grad():
        seen = embedder.see(pixels[None])
        ours = embedder.pages(seen)
        before, behind = (
            model.vlm.get_input_embeddings()(torch.tensor(embedder.tokenizer.encode(text).ids))[None]
            for text in ("<|im_start|>user\n<|vision_start|>", "<|vision_end|><|im_end|>\n")
        )
        theirs = model(inputs_embeds=torch.cat([before, seen, behind], 1)).embeddings
        asked, real, ends = embedder.queries([("red 7", "blue 3"), ("red 7",)])
        ids = torch.tensor([embedder.tokenizer.encode(f"find red 7 blue 3{'<|endoftext|>' * 10}\n").ids])
        query = model(input_ids=ids).embeddings
    assert (ours - theirs).norm() / theirs.norm() < 0.01, "float16 rounds the merged weights"
    assert (asked[:1] - query).norm() / query.norm() < 0.01 and real.sum(1).tolist() == [ids.shape[1], ids.shape[1] - 2]
    assert [ids[0, at].item() for one, at in ends if one == 0] == [
        embedder.tokenizer.token_to_id(f"Ġ{n}") for n in (7, 3)
    ]
    bare = Embedder(BASE)
    bare.project.load_state_dict(embedder.project.state_dict())
    with torch.no_grad():
        assert (bare.pages(seen) - theirs).norm() / theirs.norm() > 0.2


def test_one_vector_of_the_checkpoint_is_transformers(tmp_path: Path) -> None:
    """What is trained, of a picture and of a query, is the last token's row of Qwen2.5-VL by its own template."""
    from transformers import AutoTokenizer, Qwen2_5_VLModel

    write_checkpoint(BASE, ONE, tmp_path / "checkpoint")
    model = Qwen2_5_VLModel.from_pretrained(tmp_path / "checkpoint", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "checkpoint")
    embedder = OneVector(BASE, len(FACTS))
    embedder.load(ONE)
    pixels, _ = sheet("heldout", "textured", 0, 0)

    def theirs(content: list[dict[str, str]], **picture: torch.Tensor) -> torch.Tensor:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        ids = tokenizer(text.replace("<|image_pad|>", "<|image_pad|>" * 108), return_tensors="pt").input_ids
        kinds = (ids == model.config.image_token_id).int()
        return model(input_ids=ids, mm_token_type_ids=kinds, **picture).last_hidden_state[0, -1]

    size = torch.tensor([[1, 18, 24]])
    with torch.no_grad():
        expected = [
            theirs([{"type": "text", "text": "red 7 blue 3"}]),
            theirs([{"type": "image"}], pixel_values=patchify(pixels[None]), image_grid_thw=size),
        ]
        seen, bare = embedder.see(pixels[None]), OneVector(BASE, len(FACTS))
        ours = [embedder.query(["red 7 blue 3", "red 7"])[0][0], embedder.page(seen, (9, 12))[0][0]]
        other = bare.page(seen, (9, 12))[0][0]
    for vector, row in zip(ours, expected, strict=True):
        assert (vector - row / row.norm()).norm() < 0.02, "float16 rounds the merged weights"
    assert (other - ours[1]).norm() > 0.2


def test_hidden_digits_are_neither_seen_nor_shown() -> None:
    """Units of a digit that is hidden become units that show nothing; those of the others stay."""
    facts, counts = Sheet(("red 7", "blue 3", "pink 1"), ((0, 1), (4,), (5,))), set()
    for seed in range(20):
        rows = torch.arange(8.0)[:, None].repeat(1, 2)
        left = fewer(np.random.default_rng(seed), rows, facts)
        stay = {unit for units in left.units for unit in units} | {2, 3, 6, 7}
        assert set(zip(left.facts, left.units, strict=True)) <= set(zip(facts.facts, facts.units, strict=True))
        assert all(row == unit if unit in stay else row in (2, 3, 6, 7) for unit, row in enumerate(rows[:, 0].tolist()))
        counts.add(len(left.facts))
    assert counts == {1, 2, 3}
    assert torch.allclose(directions(192) @ directions(192).T, torch.eye(len(FACTS)), atol=1e-5)


def test_what_one_vector_learned_is_in_its_weights() -> None:
    """Of held-out pictures a step's losses lie below those of the base."""
    drawn = [sheet("heldout", "textured", 0, number) for number in range(3)]
    pages, taught = [one for _, one in drawn], OneVector(BASE, len(FACTS))
    seen = taught.see(np.stack([pixels for pixels, _ in drawn]))

    def figures(model: OneVector) -> dict[str, float]:
        with torch.no_grad():
            return losses(model, np.random.default_rng(0), seen.clone(), pages, [1, 2], True, 1.0)[1]

    before = figures(taught)
    taught.load(ONE)
    assert figures(taught)["along"] < 0.5 < before["along"] and figures(taught)["facts"] < before["facts"]


@pytest.mark.parametrize(("figures", "marks"), NAMES)
def test_the_page_is_its_figures(figures: str, marks: str) -> None:
    """Tables are those of the figures; an instrument that finds all or nothing measures nothing."""
    data = json.loads((RESULTS / figures).read_text(encoding="utf-8"))
    page = (RESULTS / "retrieval.md").read_text(encoding="utf-8")
    assert within(page, marks, table(data["rows"])) == page
    data["rows"][0]["ndcg"][0] += 0.1
    assert within(page, marks, table(data["rows"])) != page
    data["rows"][0]["ndcg"][0] -= 0.1
    rows = {(row["ground"], row["facts"], row["plan"]): row for row in data["rows"]}
    for asked in {key[:2] for key in rows}:
        assert 0.7 <= rows[(*asked, "none")]["ndcg"][0] <= 0.97
        assert rows[(*asked, "random vectors")]["ndcg"][2] < rows[(*asked, "none")]["ndcg"][1]
    about = data["about"]
    assert len(kept(data, about)) == len(data["rows"]) and not kept(data, {**about, "pages": 1})
    assert not kept(data, {**about, "weights": "other"})
