"""Mistral 3's own: rows that end with tokens, queries scaled by their place, another text model, tokenizers."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import family_chat
import family_harness as harness
import pytest
import torch
from family_harness import SABOTAGE, TOLERANCE, Case, build, case
from test_family_answers import session

from luvc_export.core.tiling import Tiling
from luvc_export.errors import BundleError, CheckpointError


def _logits(tiny: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """Ours and transformers', of a prompt with two pictures."""
    images, ids = tiny.images(2), tiny.prompt(2)
    run = harness.lay_out(tiny, tiny.plan, ids, *harness.encode_images(tiny, tiny.plan, images)[:2])
    ours = harness.logits(tiny, tiny.family.decoder(tiny.model, tiny.plan), run)
    return ours, harness.reference_logits(tiny, harness.reference(tiny, ids, images))


@pytest.mark.parametrize(
    ("ends", "spelled"),
    [(None, (7, "x")), (("-", "."), (7, "x", "-", "-", "-", "-", "-", ".")), ((8, 9), (7, "x", 8, 8, 8, 8, 8, 9))],
)
def test_rows_are_ended_as_often_as_there_are(ends: tuple[str | int, str | int] | None, spelled: tuple[object]) -> None:
    assert Tiling((7, "x"), (2, 1), mosaic=bool(ends), row_ends=ends).spelled(3) == spelled


def test_mistral_itself_and_an_earlier_feature_layer() -> None:
    values = case("mistral3").config.to_dict()
    values["text_config"] |= {"model_type": "mistral", "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
    other = build(case("mistral3").family, type(case("mistral3").config)(**values | {"vision_feature_layer": -2}))
    assert other.family.encoder_shape(other.config).blocks == 2
    assert harness.difference(*_logits(other)) < TOLERANCE


def test_queries_that_are_not_scaled_move_the_logits() -> None:
    tiny = case("mistral3")
    decoder = tiny.family.decoder(tiny.model, tiny.plan)
    run = harness.lay_out(tiny, tiny.plan, tiny.prompt(1), *harness.encode_images(tiny, tiny.plan, tiny.images(1))[:2])
    right = harness.logits(tiny, decoder, run)
    decoder.query_factor = lambda cache: None  # type: ignore[method-assign]
    assert harness.difference(harness.logits(tiny, decoder, run), right) > SABOTAGE


def test_ends_that_follow_the_whole_picture_move_the_logits() -> None:
    tiny = case("mistral3")
    decoder = tiny.family.decoder(tiny.model, tiny.plan)
    run = harness.lay_out(tiny, tiny.plan, tiny.prompt(1), *harness.encode_images(tiny, tiny.plan, tiny.images(1))[:2])
    right = harness.logits(tiny, decoder, run)
    run.change = {"order": lambda order: torch.arange(order.shape[1])[None] + 100 * (torch.arange(order.shape[1]) > 3)}
    assert harness.difference(harness.logits(tiny, decoder, run), right) > SABOTAGE


def test_a_tokenizer_without_the_ends_is_refused(tmp_path: Path) -> None:
    tiny = case("mistral3")
    ours = session(tiny, tmp_path, tiny.plan)
    ends = [cut.row_ends for cut in ours.bundle.manifest.prompt.cuts]
    assert ends == [("[IMG_BREAK]", "[IMG_END]")]
    other = tmp_path / "other"
    other.mkdir()
    tokenizer = json.loads(family_chat.tokenizer("mistral3").to_str().replace("[IMG_BREAK]", "[ELSE]"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            family_chat, "tokenizer", lambda name: type("T", (), {"to_str": lambda self: json.dumps(tokenizer)})()
        )
        with pytest.raises(BundleError, match=r"what ends a row of a picture(.|\n)*'\[IMG_BREAK\]'(.|\n)*one token"):
            _ = session(tiny, other, tiny.plan).default.encoder


def test_rope_that_lacks_the_scale_is_refused() -> None:
    tiny = case("mistral3")
    config = deepcopy(tiny.config)
    del config.text_config.rope_parameters["llama_4_scaling_beta"]
    model = type("M", (), {"config": config, "model": tiny.model.model, "lm_head": tiny.model.lm_head})()
    with pytest.raises(CheckpointError, match=r"queries are scaled(.|\n)*llama_4_scaling_beta"):
        tiny.family.decoder(model, tiny.plan)
