# ruff: noqa: D103
"""The packed decoder equals transformers, dropping is what it says, and a killed run resumes on the same path."""

import argparse
import contextlib
import functools

import numpy as np
import pytest
import torch
from glyph_vqa.ablate import scores
from glyph_vqa.answer import Asker
from glyph_vqa.decoder import decode
from glyph_vqa.intervals import interval
from glyph_vqa.model import build, configuration, encode, export, patchify
from glyph_vqa.pack import Packer, shared_prefix
from glyph_vqa.tokenizer import VOCABULARY, special_ids, write_tokenizer
from glyph_vqa.train import train

from luvc_export.demo.questions import GlyphQuestion, cases
from luvc_export.demo.scene import generator, render


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An untrained checkpoint of two layers."""
    path = tmp_path_factory.mktemp("glyph")
    tokenizer = write_tokenizer(path / "tokenizer")
    export(build(configuration(VOCABULARY, special_ids(tokenizer), layers=2)), path / "tokenizer", path / "checkpoint")
    return path / "checkpoint"


@pytest.fixture(scope="module")
def asker(folder):
    return Asker(folder)


def packed_logits(asker, pictures, drop_before=None):
    """Logits of two packed questions [2, T, V] and their ids [2, T], about one or two pictures."""
    images = np.stack([render(generator("heldout", i), "heldout")[0] for i in range(pictures)])
    packer = Packer(asker.tokenizer.backend_tokenizer)
    packed = packer.pack(
        [[GlyphQuestion("a", "colour of 7?", "red"), GlyphQuestion("b", "sum of red and blue?", "13")]]
    )
    text = asker.model.model.language_model
    with torch.no_grad():
        visual = encode(asker.model, images).flatten(0, 1)[None]
        prefix = shared_prefix(text.embed_tokens, packer.prefix_ids(pictures), asker.image_token, visual)
        hidden = decode(text, prefix, text.embed_tokens(packed.ids), drop_before)
        return images, packer.prefix_ids(pictures), packed.ids[0], asker.model.lm_head(hidden)[0]


@pytest.mark.parametrize("pictures", [1, 2])
def test_packed_questions_give_the_logits_of_transformers(asker, pictures):
    images, prefix, ids, logits = packed_logits(asker, pictures)
    for i in range(len(ids)):
        whole = torch.tensor([prefix + ids[i].tolist()])
        with torch.no_grad():
            expected = asker.model(
                input_ids=whole,
                pixel_values=patchify(images),
                image_grid_thw=torch.tensor([[1, 18, 24]] * pictures),
                mm_token_type_ids=(whole == asker.image_token).int(),
            ).logits[0, -ids.shape[1] :]
        assert expected.std() > 0.3  # a flat distribution would agree with anything
        torch.testing.assert_close(logits[i], expected, atol=1e-4, rtol=0)


def test_dropping_before_the_first_layer_hides_the_picture_and_later_drops_do_not(asker):
    def spread(drop_before):
        return (packed_logits(asker, 1, drop_before)[3] - packed_logits(asker, 1)[3]).abs().max().item()

    assert spread(0) > 1e-3 and spread(1) > 1e-3
    grey = [decode_grey(asker, drop) for drop in (0, 1)]
    assert grey[0] == 0.0 and grey[1] > 1e-4


def decode_grey(asker, drop_before):
    """Largest change of the logits when the visual embeddings are replaced and dropped before a layer."""
    packer, text = Packer(asker.tokenizer.backend_tokenizer), asker.model.model.language_model
    ids = packer.pack([[GlyphQuestion("a", "colour of 7?", "red")]]).ids
    outs = []
    for visual in (torch.zeros(1, 108, 192), torch.ones(1, 108, 192)):
        prefix = shared_prefix(text.embed_tokens, packer.prefix_ids(1), asker.image_token, visual)
        with torch.no_grad():
            outs.append(decode(text, prefix, text.embed_tokens(ids), drop_before))
    return (outs[0] - outs[1]).abs().max().item()


def test_our_pixels_are_those_of_the_image_processor(asker):
    images = np.stack([render(generator("heldout", i), "heldout")[0] for i in range(2)])
    assert torch.equal(asker.processor(list(images), return_tensors="pt")["pixel_values"], patchify(images))


def test_answers_are_those_of_generate(asker):
    asked = list(cases("heldout", 3, kinds=("at_place", "sum", "two_pictures")))
    for case, answer in zip(asked, asker.answers(asked), strict=True):
        ids = torch.tensor([asker.ids(case, 108)])
        vision = asker.processor(list(case.images), return_tensors="pt")
        out = asker.model.generate(
            ids, **vision, mm_token_type_ids=(ids == asker.image_token).int(), max_new_tokens=8, do_sample=False
        )
        expected = asker.tokenizer.decode(out[0, ids.shape[1] :]).split("<|im_end|>")[0]
        assert answer.removesuffix("<|image_pad|>") == expected


def test_word_by_word_and_packed_verdicts_agree(asker):
    asked = list(cases("heldout", 14))
    greedy = [answer == case.answer for answer, case in zip(asker.answers(asked), asked, strict=True)]
    assert greedy == scores(asker, asked, asker.embed(asked)[0])


def test_intervals_widen_when_answers_of_a_picture_move_together():
    right = [True, False] * 100
    apart, together = interval(right, range(200)), interval(sorted(right), [i // 20 for i in range(200)])
    assert apart[0] == together[0] == 0.5
    assert together[2] - together[1] > 2 * (apart[2] - apart[1])
    with pytest.raises(ValueError, match="no answers"):
        interval([], [])


def run(out, steps, stop=None):
    """Train a stage; `stop` ends it at that step, as a kill after its last checkpoint would."""
    args = argparse.Namespace(
        stage="join", out=out, start=[], warm_start=None, steps=steps, batch=2, questions=2, optimiser="muon",
        rate=1e-3, decay=0.5, seed=0, threads=1, report=1, save=1, stop=stop,
    )  # fmt: skip
    train(args)
    return torch.load(out / "state.pt")["state"]


@pytest.mark.slow(beside="../examples/pretrained/tests/test_pretrained_train.py::test_a_run_goes_on_where_it_was_ended")
def test_a_run_that_was_killed_resumes_on_the_same_path(tmp_path, monkeypatch):
    # bfloat16 takes ten seconds a step on a CPU without it; fp32 and one iteration of Muon have the same state to lose.
    monkeypatch.setattr(torch, "autocast", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(torch.optim, "Muon", functools.partial(torch.optim.Muon, ns_steps=1))
    whole = run(tmp_path / "whole", 2)
    run(tmp_path / "parts", 2, stop=1)
    parts = run(tmp_path / "parts", 2)
    assert whole["ability"] == parts["ability"]
    for name, value in whole["model"].items():
        assert torch.equal(value, parts["model"][name]), name
