# ruff: noqa: D103
"""The grown model answers as the bundled one, our passes equal transformers', a killed run resumes on the same path."""

import argparse
import functools
import hashlib
import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from glyph_deep.data.cases import cases
from glyph_deep.data.labels import NAMES_OF_FIELDS, codebook, symbols
from glyph_deep.data.packing import Packer
from glyph_deep.data.page import FORMATS
from glyph_deep.data.questions import Asked
from glyph_deep.data.tokenizer import write_tokenizer
from glyph_deep.studies.card import write
from glyph_deep.studies.evaluate import embedded, scores
from glyph_deep.studies.methods import compare, compare_page
from glyph_deep.train.answer import Hop, noisy
from glyph_deep.train.encoder import Change, encode, windows
from glyph_deep.train.model import DEPTH, ENCODER_BLOCKS, FULL_ATTENTION, LAYERS, fresh, load
from glyph_deep.train.see import binding_loss, draw, see_loss, targets
from glyph_deep.train.stages import begin, train, wait
from glyph_vqa.answer import Asker
from glyph_vqa.decoder import decode
from glyph_vqa.model import export, patchify
from glyph_vqa.pack import shared_prefix

from luvc_export.calibration.ablation import variants
from luvc_export.calibration.ablation.variants import Variant
from luvc_export.core.shapes import DecoderShape
from luvc_export.demo import CHECKPOINT

FOLDER = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def grown():
    """The grown model and its tokenizer."""
    return fresh()


def test_the_grown_model_begins_with_the_bundled_models_answers(grown):
    from transformers import AutoTokenizer

    model, tokenizer = grown
    assert len(model.model.visual.blocks) == DEPTH == 12 and len(model.model.language_model.layers) == LAYERS == 8
    assert FULL_ATTENTION == [3, 7, 11] and len(ENCODER_BLOCKS) == 4
    bundled, before = load(CHECKPOINT), AutoTokenizer.from_pretrained(CHECKPOINT)
    image = draw("plain", 0, 0)[0][None]
    text = "<|im_start|>user\n<|vision_start|>" + "<|image_pad|>" * 108 + "<|vision_end|>from red go right: colour?"
    answers = []
    for some, ids in ((bundled, before(text).input_ids), (model, tokenizer.encode(text).ids)):
        row = torch.tensor([ids])
        with torch.no_grad():
            answers.append(
                some(
                    input_ids=row, pixel_values=patchify(image), image_grid_thw=torch.tensor([[1, 18, 24]]),
                    mm_token_type_ids=(row == some.config.image_token_id).int(),
                ).logits[0, -8:]
            )  # fmt: skip
    new = [tokenizer.token_to_id(before.convert_ids_to_tokens(i)) for i in range(len(before))]
    known = [i for i, token in enumerate(new) if token is not None]
    assert len(known) > 400 and answers[0].std() > 0.3
    torch.testing.assert_close(answers[1][:, [new[i] for i in known]], answers[0][:, known], atol=1e-4, rtol=0)
    assert [new[i] for i in answers[0].argmax(-1).tolist()] == answers[1].argmax(-1).tolist()


@pytest.mark.parametrize("ground", ["textured", "short"])
def test_windows_side_by_side_equal_the_encoder_of_transformers(grown, ground):
    torch.manual_seed(0)
    visual = fresh()[0].model.visual
    for parameter in visual.parameters():  # the grown blocks add nothing, which would agree with anything
        parameter.data += 0.02 * torch.randn_like(parameter)
    images = np.stack([draw(ground, 0, i)[0] for i in range(2)])
    grid = torch.tensor([[1, images.shape[1] // 14, images.shape[2] // 14]] * 2)
    watched = {7: None}
    with torch.no_grad():
        expected = visual(patchify(images), grid_thw=grid).pooler_output
        ours = encode(visual, images, watched=watched)
    torch.testing.assert_close(ours.flatten(0, 1), expected, atol=2e-5, rtol=1e-4)
    assert watched[7][1].sum(-1).sub(1).abs().max() < 1e-4  # attention over all patches sums to one


def test_units_that_leave_are_not_seen_any_more_and_pairs_become_one(grown):
    visual = grown[0].model.visual
    image = draw("plain", 0, 0)[0][None]
    other = image.copy()
    other[:, :28] = 0  # the top row of units
    stay = torch.arange(108)[None] >= 12
    with torch.no_grad():
        same = [encode(visual, i, Change(0, stay))[0, stay[0]] for i in (image, other)]
        free = [encode(visual, i)[0, stay[0]] for i in (image, other)]
        pairs = encode(visual, image, Change(11, pairs=True))[0].view(9, 6, 2, -1)
    assert (free[0] - free[1]).abs().max() > 10 * (same[0] - same[1]).abs().max()
    assert torch.equal(pairs[:, :, 0], pairs[:, :, 1])


def test_questions_about_a_page_give_the_logits_of_transformers(grown):
    model, tokenizer = grown
    packer, text = Packer(tokenizer, NAMES_OF_FIELDS), model.model.language_model
    image, grid = draw("short", 0, 0)[0][None], FORMATS["short"]
    packed = packer.pack([[Asked("a", "figure of pear?", "47"), Asked("b", "from fig go follow: figure?", "13")]])
    ids = packer.prefix_ids(grid[0] * grid[1])
    with torch.no_grad():
        prefix = shared_prefix(
            text.embed_tokens, ids, model.config.image_token_id, encode(model.model.visual, image), grid
        )
        ours = model.lm_head(decode(text, prefix, text.embed_tokens(packed.ids)))[0]
        for i, words in enumerate(packed.ids[0]):
            whole = torch.tensor([ids + words.tolist()])
            expected = model(
                input_ids=whole, pixel_values=patchify(image), image_grid_thw=torch.tensor([[1, 20, 20]]),
                mm_token_type_ids=(whole == model.config.image_token_id).int(),
            ).logits[0, -len(words) :]  # fmt: skip
            torch.testing.assert_close(ours[i], expected, atol=1e-4, rtol=0)


def test_perfect_embeddings_have_the_lowest_loss_and_all_labels_right():
    labels = torch.from_numpy(np.stack([draw("short", 0, i)[2].labels for i in range(2)]))
    codes = codebook()
    perfect, right = see_loss(symbols(labels, codes), labels, codes)
    assert set(right.values()) == {1.0}
    noise = noisy(labels, codes, torch.Generator().manual_seed(0))
    worse, _ = see_loss(noise, labels, codes)
    assert perfect < worse


def test_looking_at_the_key_of_the_own_line_costs_nothing_and_elsewhere_much():
    labels = torch.from_numpy(draw("short", 0, 1)[2].labels)[None]
    grid = FORMATS["short"]
    (those, to), *_ = targets(labels, grid)
    assert those.any() and (to[those].sum(-1) >= 1).all()
    order = windows(*grid)[0]
    flat = torch.full((1, 4, 400, 400), 1 / 400)
    aimed = torch.zeros(1, 4, 400, 400)
    for head, (_, where) in enumerate(targets(labels, grid)):
        share = where.float() / where.sum(-1, keepdim=True).clamp_min(1)
        aimed[:, head] = share[:, order][:, :, order].repeat_interleave(4, 1).repeat_interleave(4, 2) / 4
    assert binding_loss(aimed, labels, grid) < 1e-3 < 3 < binding_loss(flat, labels, grid)


def run(out, stage, steps, stop=None):
    """Train a stage; `stop` ends it at that step, as a kill after its last checkpoint would."""
    args = argparse.Namespace(
        stage=stage, out=out, start=[], steps=steps, mix={"plain": 1, "textured": 0, "short": 1, "page": 0, "wide": 0},
        questions=2, rate=1e-3, decay=0.5, seed=0, threads=1, bfloat16=False, report=1, save=1, stop=stop, pause=None,
    )  # fmt: skip
    train(args)
    return torch.load(out / "state.pt")["state"]


@pytest.mark.slow(
    beside="../examples/glyph_vqa/tests/test_model.py::test_a_run_that_was_killed_resumes_on_the_same_path"
)
@pytest.mark.parametrize("stage", ["see", "hop"])
def test_a_run_that_was_killed_resumes_on_the_same_path(tmp_path, monkeypatch, stage):
    monkeypatch.setattr(torch.optim, "Muon", functools.partial(torch.optim.Muon, ns_steps=1))
    whole = run(tmp_path / "whole", stage, 2)
    run(tmp_path / "parts", stage, 2, stop=1)
    parts = run(tmp_path / "parts", stage, 2)
    begun = fresh()[0].state_dict()
    part = "visual" if stage == "see" else "language_model"
    moved = [k for k, v in begun.items() if part in k and not torch.equal(v, whole["model"][k])]
    assert len(moved) > 50, "training changed the part it trains"
    assert whole.get("ability") == parts.get("ability")
    for name, value in whole["model"].items():
        assert torch.equal(value, parts["model"][name]), name


def test_a_stage_starts_from_a_checkpoint_folder_and_from_the_encoder_of_another_run(tmp_path, grown):
    model, tokenizer = fresh()
    for name, parameter in model.named_parameters():
        parameter.data += 1 if "visual" in name else 2
    write_tokenizer(tmp_path / "tokenizer")
    export(model, tmp_path / "tokenizer", tmp_path / "checkpoint")
    (tmp_path / "see").mkdir()
    other = {"model": {k: torch.full_like(v, 7) for k, v in fresh()[0].state_dict().items()}}
    torch.save({"stage": "see", "state": other}, tmp_path / "see" / "state.pt")
    stage = Hop(fresh()[0], tokenizer, argparse.Namespace(seed=0))
    begin(stage, [tmp_path / "checkpoint", tmp_path / "see"])
    for name, value in stage.model.state_dict().items():
        expected = torch.full_like(value, 7) if "visual" in name else model.state_dict()[name].float()
        assert torch.equal(value, expected), name


def test_a_run_waits_while_the_file_is_there(tmp_path):
    pause = tmp_path / "PAUSE"
    pause.touch()
    threading.Timer(0.3, pause.unlink).start()
    begun = time.monotonic()
    wait(pause)
    assert time.monotonic() - begun >= 0.3
    wait(None)


def test_card_evaluation_and_weights_belong_together():
    result = json.loads((FOLDER / "evaluation.json").read_text())
    recipe = json.loads((FOLDER / "recipe.json").read_text())
    weights = FOLDER / "checkpoint" / "model.safetensors"
    assert result["weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert weights.stat().st_size <= 15 * 2**20
    text = write(result, recipe)
    assert text == (FOLDER / "MODEL_CARD.md").read_text()
    result["accuracy"]["pages"]["mean"]["accuracy"] -= 0.01
    assert write(result, recipe) != text


def test_the_committed_weights_answer_and_the_evaluations_verdicts_are_those_of_greedy_decoding():
    asker = Asker(FOLDER / "checkpoint")
    for asked, least in ((list(cases("plain", 14)), 0.7), (list(cases("pages", 9)), 0.7)):
        greedy = [answer == case.answer for answer, case in zip(asker.answers(asked), asked, strict=True)]
        assert scores(asker, asked, embedded(asker, asked)) == greedy
        assert np.mean(greedy) >= least


@pytest.mark.slow(beside="calibration/ablation/test_ablation.py::test_the_engine_says_what_greedy_decoding_says")
def test_the_comparison_measures_every_section_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    few = variants.methods
    monkeypatch.setattr(variants, "methods", lambda plan, tuned, skip=(): few(plan, tuned, skip)[:4])
    monkeypatch.setattr(variants, "readings", lambda plan: [Variant("own", (plan,))])
    monkeypatch.setattr(compare, "SHARES", (0.5, 0.25, 0.1))
    monkeypatch.setattr(compare, "SIZES_DOWN", (0.5,))
    study = compare.study_of("plain", tmp_path, FOLDER / "checkpoint", compare.Counts(6, 2, 4))
    figures = compare.measure(study)
    about = {"command": "test", "weights": "0" * 64, "counts": [6, 2, 4]}
    text = compare_page.page({"plain": figures}, about)
    assert figures["none"].accuracy.value >= 0.8
    assert "## Plain" in text and "### Down-sampling at equal time to first token" in text
    again = compare.study_of("plain", tmp_path, FOLDER / "checkpoint", compare.Counts(6, 2, 4))
    monkeypatch.setattr(again.engines["report"], "right", None)
    assert compare.measure(again)["even 0.25"] == figures["even 0.25"]


def test_staged_budgets_fall_and_have_the_mean_they_are_asked_for():
    shapes = variants.Shapes((26, 10), DecoderShape(8, 192, 6, 2, 32, 512, 746, 4096), None)
    for share in compare.SHARES:
        keep = compare.staged(shapes, share).keep
        assert keep[0] == 260 and list(keep) == sorted(keep, reverse=True)
        assert abs(np.mean(keep[1:]) / 260 - share) < 0.01
