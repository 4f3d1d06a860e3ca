"""With plan ``none`` a family's two halves equal its transformers model; sabotages show that the check can fail."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import family_harness as harness
import pytest
import torch
from family_checkpoints import find
from family_harness import MADE_HERE, SABOTAGE, TOLERANCE, Run, case
from torch import Tensor

from luvc_export.export import families
from luvc_export.export.llm.decoder import Decoder

FAMILIES = MADE_HERE
FOUND = {name: families.find(name, "test") for name in FAMILIES}
WINDOWED = [name for name, family in FOUND.items() if family.encoder_shape(family.tiny_config()).window]


@cache
def seen(name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings, positions and places of two pictures."""
    return harness.encode_images(case(name), case(name).plan, case(name).images(2))


def asked(name: str, images: int) -> tuple[Decoder, Run]:
    """The decoder, and what it is given of a prompt with the first ``images`` of them."""
    tiny = case(name)
    embeds, positions, _ = seen(name)
    run = harness.lay_out(tiny, tiny.plan, tiny.prompt(images), embeds[:images], positions[:images])
    return tiny.family.decoder(tiny.model, tiny.plan), run


@cache
def right(name: str) -> Tensor:
    """Logits of the prompt with both."""
    return harness.logits(case(name), *asked(name, 2))


@pytest.mark.parametrize("name", FAMILIES)
def test_vision_embeddings_equal_transformers(name: str) -> None:
    tiny = case(name)
    images, ids = tiny.images(2), tiny.prompt(2)
    embeds, positions, places = seen(name)
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
    ids, pictures = tiny.prompt(images), tiny.images(2)[:images]
    expected = harness.reference_logits(tiny, harness.reference(tiny, ids, pictures))
    decoder, run = asked(name, images)
    assert expected.std() >= 1
    ours = right(name) if images == 2 else harness.logits(tiny, decoder, run)
    assert harness.difference(ours, expected) < TOLERANCE
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
    decoder, run = asked(name, 2)
    run.change = dict([SABOTAGES[sabotage]])
    assert harness.difference(harness.logits(tiny, decoder, run), right(name)) > SABOTAGE


@pytest.mark.parametrize("name", WINDOWED)
def test_ignoring_the_encoder_windows_moves_the_embeddings(name: str) -> None:
    tiny = case(name)
    vision, images = tiny.vision(tiny.plan), tiny.images(1)
    vision.full = tuple(range(tiny.family.encoder_shape(tiny.config).blocks))
    assert harness.difference(harness.encode_images(tiny, tiny.plan, images, vision)[0], seen(name)[0][:1]) > SABOTAGE
