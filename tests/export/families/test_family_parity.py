"""With plan ``none`` a family's two halves equal its transformers model; sabotages show that the check can fail."""

from __future__ import annotations

from collections.abc import Callable

import family_harness as harness
import pytest
import torch
from family_checkpoints import find
from family_harness import MADE_HERE, SABOTAGE, TOLERANCE, case
from torch import Tensor

from luvc_export.export import families

FAMILIES = MADE_HERE
FOUND = {name: families.find(name, "test") for name in FAMILIES}
WINDOWED = [name for name, family in FOUND.items() if family.encoder_shape(family.tiny_config()).window]


@pytest.mark.parametrize("name", FAMILIES)
def test_vision_embeddings_equal_transformers(name: str) -> None:
    tiny = case(name)
    images, ids = tiny.images(2), tiny.prompt(2)
    embeds, positions, places = harness.encode_images(tiny, tiny.plan, images)
    expected = harness.reference_embeds(tiny, harness.reference(tiny, ids, images))
    expected = expected.unflatten(0, (2, -1))[:, harness.units(tiny)]  # others are no patches (OneVision's newline)
    assert harness.difference(embeds, expected) < TOLERANCE
    assert expected.std() > 0.1
    assert positions.shape == (2, tiny.plan.units, 2)
    assert torch.equal(places, torch.arange(tiny.plan.units).expand(2, -1))


@pytest.mark.parametrize("images", [0, 1, 2])
@pytest.mark.parametrize("name", FAMILIES)
def test_logits_and_greedy_tokens_equal_transformers(name: str, images: int) -> None:
    """Tokens after two pictures, and after as few as test_family_answers.py has not; it has none and one."""
    tiny = case(name)
    ids, pictures = tiny.prompt(images), tiny.images(images)
    inputs = harness.reference(tiny, ids, pictures)
    expected = harness.reference_logits(tiny, inputs)
    decoder = tiny.family.decoder(tiny.model, tiny.plan)
    embeds, positions, _ = harness.encode_images(tiny, tiny.plan, pictures)
    run = harness.lay_out(tiny, tiny.plan, ids, embeds, positions)
    assert expected.std() >= 1
    assert harness.difference(harness.logits(tiny, decoder, run), expected) < TOLERANCE
    if images == 2 or find(name).needs_picture:
        assert harness.reference_chooses(tiny, ids, pictures, harness.greedy(tiny, decoder, run))


def _swap(positions: Tensor) -> Tensor:
    return positions[[0, 2, 1, *range(3, len(positions))]]


SABOTAGES: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "positions off by one": ("visual_position_ids", lambda tensor: tensor + 1),
    "h and w swapped": ("visual_position_ids", _swap),
    "embeddings shifted by one place": ("visual_embeds", lambda tensor: tensor.roll(1, 2)),
    "images swapped": ("visual_embeds", lambda tensor: tensor.flip(1)),
}


@pytest.mark.parametrize("sabotage", SABOTAGES)
@pytest.mark.parametrize("name", FAMILIES)
def test_sabotage_moves_the_logits(name: str, sabotage: str) -> None:
    tiny = case(name)
    if sabotage == "h and w swapped" and tiny.family.position_kind == "sequential":
        pytest.skip("one position axis")
    ids, images = tiny.prompt(2), tiny.images(2)
    decoder = tiny.family.decoder(tiny.model, tiny.plan)
    run = harness.lay_out(tiny, tiny.plan, ids, *harness.encode_images(tiny, tiny.plan, images)[:2])
    right = harness.logits(tiny, decoder, run)
    run.change = dict([SABOTAGES[sabotage]])
    assert harness.difference(harness.logits(tiny, decoder, run), right) > SABOTAGE


@pytest.mark.parametrize("name", WINDOWED)
def test_ignoring_the_encoder_windows_moves_the_embeddings(name: str) -> None:
    tiny = case(name)
    vision, images = tiny.vision(tiny.plan), tiny.images(1)
    right = harness.encode_images(tiny, tiny.plan, images, vision)[0]
    vision.full = tuple(range(tiny.family.encoder_shape(tiny.config).blocks))
    assert harness.difference(harness.encode_images(tiny, tiny.plan, images, vision)[0], right) > SABOTAGE
