"""Qwen2.5-VL, plan ``none``: 64 decode steps and the prompt equal Hugging Face, whatever stands around the images."""

from __future__ import annotations

import family_harness as harness
import pytest
import torch
from family_harness import SABOTAGE, TOLERANCE, case

STEPS = 64


def decoded(images: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of STEPS forced tokens after the prompt, ours by decoding and Hugging Face's in one pass."""
    tiny = case("qwen2_5_vl")
    ids, pictures = tiny.prompt(images), tiny.images(images)
    forced = torch.randint(3, 200, (STEPS,), generator=torch.Generator().manual_seed(5)).tolist()
    reference = harness.reference(tiny, ids + forced, pictures)
    expected = harness.reference_logits(tiny, reference)
    decoder = tiny.family.decoder(tiny.model, tiny.plan)
    run = harness.lay_out(tiny, tiny.plan, ids, *harness.encode_images(tiny, tiny.plan, pictures)[:2])
    inputs, past, rows = run.inputs(), harness.empty_past(tiny), []
    with torch.no_grad():
        for step, token in enumerate([*forced, 3]):
            logits, past, _ = decoder(*inputs, past)
            rows.append(logits[0])
            inputs = harness.next_inputs(run, decoder, token, run.layout.input_ids.shape[1] + step + 1)
    return torch.cat(rows), expected


@pytest.mark.parametrize("images", [0, 1, 2])
def test_prompt_and_64_steps(images: int) -> None:
    ours, expected = decoded(images)
    assert expected.std() >= 1 and len(expected) >= STEPS
    assert harness.difference(ours, expected) < TOLERANCE


def test_ignored_windows_reach_the_logits() -> None:
    tiny = case("qwen2_5_vl")
    ids, images = tiny.prompt(1), tiny.images(1)
    decoder = tiny.family.decoder(tiny.model, tiny.plan)
    vision = tiny.vision(tiny.plan)

    def logits() -> torch.Tensor:
        seen = harness.encode_images(tiny, tiny.plan, images, vision)[:2]
        return harness.logits(tiny, decoder, harness.lay_out(tiny, tiny.plan, ids, *seen))

    right = logits()
    vision.full = tuple(range(tiny.family.encoder_shape(tiny.config).blocks))
    assert harness.difference(logits(), right) > SABOTAGE
