"""Pictures in any place of a prompt, tiles of one picture as several, and images that are seen both ways."""

from __future__ import annotations

from copy import deepcopy

import family_harness as harness
import pytest
import torch
from family_harness import MADE_HERE, SABOTAGE, TOLERANCE, Case, case

from luvc_export.export.families.gemma3 import gemma_norm

FAMILIES = MADE_HERE


def _ids(tiny: Case, pattern: str) -> list[int]:
    """Token ids of a pattern: w a word, I an image with its marks, T a bare tile of one."""
    ids: list[int] = []
    for place, letter in enumerate(pattern):
        written = {"w": [3 + 17 * place % 190], "I": tiny.written(), "T": [tiny.family.image_token_id(tiny.config)]}
        ids += written[letter]
    return ids


def _difference(tiny: Case, pattern: str) -> float:
    images, ids = tiny.images(pattern.count("I") + pattern.count("T")), _ids(tiny, pattern)
    expected = harness.reference_logits(tiny, harness.reference(tiny, ids, images))
    run = harness.lay_out(tiny, tiny.plan, ids, *harness.encode_images(tiny, tiny.plan, images)[:2])
    assert expected.std() >= 1
    return harness.difference(harness.logits(tiny, tiny.family.decoder(tiny.model, tiny.plan), run), expected)


@pytest.mark.parametrize("pattern", ["Iww", "IwIwwwI", "wwwwIww"])
@pytest.mark.parametrize("name", FAMILIES)
def test_images_in_any_place(name: str, pattern: str) -> None:
    """First of all, last but for the end of the turn, three in a row with a word between."""
    assert _difference(case(name), pattern) < TOLERANCE


@pytest.mark.parametrize("name", ["internvl", "idefics3", "smolvlm"])
def test_tiles_are_images_between_one_pair_of_marks(name: str) -> None:
    """What cuts a picture into tiles can feed them as pictures: positions and order go on from tile to tile."""
    assert _difference(case(name), "wwTTTww") < TOLERANCE
    assert _difference(case(name), "wTwTwwTw") < TOLERANCE


def test_gemma_images_are_seen_both_ways() -> None:
    tiny = case("gemma3")
    images, ids = tiny.images(1), tiny.prompt(1)
    run = harness.lay_out(tiny, tiny.plan, ids, *harness.encode_images(tiny, tiny.plan, images)[:2])
    decoder = tiny.family.decoder(tiny.model, tiny.plan)
    right = harness.logits(tiny, decoder, run)
    assert decoder.shared_order
    decoder.shared_order = False
    assert harness.difference(harness.logits(tiny, decoder, run), right) > SABOTAGE


def test_one_frequency_for_all_layers_moves_gemma() -> None:
    tiny = case("gemma3")
    run = harness.lay_out(tiny, tiny.plan, tiny.prompt(1), *harness.encode_images(tiny, tiny.plan, tiny.images(1))[:2])
    decoder = tiny.family.decoder(tiny.model, tiny.plan)
    right = harness.logits(tiny, decoder, run)
    half = decoder.head_dim // 2
    decoder.angles = lambda layer, cache: cache[:, :, :half]  # type: ignore[method-assign]
    assert harness.difference(harness.logits(tiny, decoder, run), right) > SABOTAGE


def test_onevision_newline_is_a_text_token() -> None:
    tiny = case("llava_onevision")
    newline = tiny.config.text_config.vocab_size
    decoder = tiny.family.decoder(tiny.model, tiny.plan)
    with torch.no_grad():
        embedded = decoder.embed_text(torch.tensor([[5, newline, 255]]))[0]
    table = tiny.model.model.language_model.embed_tokens.weight
    assert torch.equal(embedded, torch.stack([table[5], tiny.model.model.image_newline, table[255]]))


def test_gemma_norm_in_16_bits() -> None:
    """The weight is a small difference from 1, which bf16 cannot hold after the addition."""
    tiny = case("gemma3")
    layer = deepcopy(tiny.model.model.language_model.layers[0].input_layernorm).to(torch.bfloat16)
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    with torch.no_grad():
        assert torch.equal(gemma_norm(layer, x), layer(x))
        rounded = torch.nn.functional.rms_norm(x, (64,), 1 + layer.weight, layer.eps)
    assert not torch.equal(rounded, layer(x))
