"""PaliGemma's own: a prompt seen both ways, what its processor writes without a template, Gemma 2's caps."""

from __future__ import annotations

import warnings
from pathlib import Path

import family_chat
import family_harness as harness
import pytest
import torch
from family_harness import GREEDY, SABOTAGE, TOLERANCE, Case, case
from family_odd import odd
from test_family_answers import chat, pictures, session

from luvc_export.core.token_layout import arrange
from luvc_export.errors import UsageError
from luvc_export.runtime.session import Session


def _logits(tiny: Case, images: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Ours and transformers'."""
    shown, ids = tiny.images(images), tiny.prompt(images)
    run = harness.lay_out(tiny, tiny.plan, ids, *harness.encode_images(tiny, tiny.plan, shown)[:2])
    ours = harness.logits(tiny, tiny.family.decoder(tiny.model, tiny.plan), run)
    return ours, harness.reference_logits(tiny, harness.reference(tiny, ids, shown))


def _untold(tiny: Case, folder: Path) -> Session:
    """A bundle as the repositories are: without a chat template."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(family_chat, "template", lambda name: "")
        family_chat.save(tiny, folder)
        (folder / "chat_template.jinja").unlink()
        patch.setattr(family_chat, "save", lambda tiny, folder: folder)
        return session(tiny, folder, tiny.plan)


@pytest.mark.parametrize("count", [1, 2])
def test_a_plain_prompt_is_written_and_answered_as_by_transformers(count: int, tmp_path: Path) -> None:
    tiny = case("paligemma")
    ours, shown = _untold(tiny, tmp_path), pictures(tiny, count)
    with warnings.catch_warnings():  # see ``family_chat.ask``
        warnings.simplefilter("ignore", DeprecationWarning)
        text = "<image>" * count + "answer en 2 + 2?"
        inputs = dict(family_chat.processor(tiny)(images=shown, text=[text], return_tensors="pt"))
    assert inputs.pop("labels") is not None and inputs.pop("attention_mask").all()
    request = ours.prepare(shown, "answer en 2 + 2?")
    assert family_chat.expanded(tiny, request.token_ids) == inputs["input_ids"][0].tolist()
    answer = ours.generate(shown, "answer en 2 + 2?", max_new_tokens=GREEDY)
    assert list(answer.token_ids) == harness.reference_greedy(tiny, inputs)


def test_several_turns_are_refused_by_name(tmp_path: Path) -> None:
    tiny = case("paligemma")
    with pytest.raises(UsageError, match=r"one question at a time(.|\n)*got: system, user"):
        _untold(tiny, tmp_path).generate(pictures(tiny, 1), messages=chat(1))


def test_a_causal_prompt_moves_the_logits() -> None:
    tiny = case("paligemma")
    embeds, positions, _ = harness.encode_images(tiny, tiny.plan, tiny.images(1))
    run = harness.lay_out(tiny, tiny.plan, tiny.prompt(1), embeds, positions)
    decoder = tiny.family.decoder(tiny.model, tiny.plan)
    right = harness.logits(tiny, decoder, run)
    causal = arrange(tiny.prompt(1), 250, positions.numpy(), tiny.plan.grid, "sequential")
    assert harness.difference(harness.logits(tiny, decoder, harness.Run(embeds, causal)), right) > SABOTAGE


@pytest.mark.parametrize("name", ["scores_cap", "logits_cap"])
def test_caps_of_gemma_2_are_those_of_transformers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = odd("paligemma", "deep")
    ours, theirs = _logits(tiny)
    assert tiny.config.text_config.model_type == "gemma2" and harness.difference(ours, theirs) < TOLERANCE
    kind = type(tiny.family.decoder(tiny.model, tiny.plan))
    monkeypatch.setattr(kind, name, property(lambda self: None, lambda self, cap: None), raising=False)
    assert harness.difference(_logits(tiny)[0], theirs) > SABOTAGE
