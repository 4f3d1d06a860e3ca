"""The layers that train say what transformers says, on a base of two layers made as the real one is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from glyph_vqa.model import patchify
from pretrained.layers import Instrument
from pretrained.merge import write
from pretrained.sight import Sight
from pretrained.start import begin, lower
from safetensors.torch import save_file
from torch.nn.functional import log_softmax
from transformers import Qwen2_5_VLForConditionalGeneration

GRID = (3, 4)


@pytest.fixture
def own(tiny: tuple[Path, Any, Any]) -> Instrument:
    """The layers, with a random LoRA."""
    model = Instrument(tiny[0], 4)
    with torch.no_grad():
        for weight in model.b.values():
            weight.normal_(std=0.05)
    return model


def test_text_has_the_logits_of_the_plain_model(tiny: tuple[Path, Any, Any], own: Instrument) -> None:
    """Exactly so when merged, to rounding in these layers; the LoRA moves them."""
    ids = torch.randint(0, 900, (2, 23), generator=torch.Generator().manual_seed(1))
    own.bare = True
    with torch.no_grad():
        ours, plain, theirs = own.logits(own.read(ids))[..., :900], tiny[1](ids).logits, tiny[2](input_ids=ids).logits
    assert plain.std() > 0.5
    assert torch.equal(plain, theirs[..., :900]) and (ours - plain).abs().max() < 1e-4
    own.bare = False
    assert (own.logits(own.read(ids))[..., :900] - plain).abs().max() > 0.01


def test_questions_about_a_picture_see_it_and_themselves_alone(
    tiny: tuple[Path, Any, Any], own: Instrument, tmp_path: Path
) -> None:
    """Side by side they have the logits that transformers gives each of the merged checkpoint, which LoRA has moved."""
    folder, _, model = tiny
    with torch.no_grad():
        for weight in (own.project.weight, own.marks):
            weight += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(9))
    save_file(own.state_dict(), tmp_path / "small.safetensors")
    write(folder, tmp_path / "small.safetensors", tmp_path / "merged")
    merged = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    image = np.random.default_rng(5).integers(0, 256, (1, 28 * GRID[0], 28 * GRID[1], 3)).astype(np.uint8)
    head, ids = [5, 6, 7, 900], torch.randint(0, 900, (3, 6), generator=torch.Generator().manual_seed(2))
    shown = {
        "pixel_values": patchify(image),
        "image_grid_thw": torch.tensor([[1, 2 * GRID[0], 2 * GRID[1]]]),
    }
    features = Sight(folder)(image)
    with torch.no_grad():
        ours = own.logits(own.answer(head, features, GRID, ids[None])[0])
        alone = own.logits(own.answer(head, features, GRID, ids[None, :1])[0, 0])
    assert (alone - ours[0]).abs().max() < 1e-5
    for row, logits in zip(ids, ours, strict=True):
        x = torch.tensor([[*head, *[902] * (GRID[0] * GRID[1]), 901, *row.tolist()]])
        kinds = (x == 902).int()
        with torch.no_grad():
            theirs = merged(input_ids=x, mm_token_type_ids=kinds, **shown).logits[0, -6:, :900]
            before = model(input_ids=x, mm_token_type_ids=kinds, **shown).logits[0, -6:, :900]
        assert (logits[:, :900] - theirs).abs().max() < 1e-4 < 0.01 < (theirs - before).abs().max()


def test_texts_behind_one_head_are_read_as_each_alone(own: Instrument) -> None:
    """A head read once serves every text behind it."""
    head, ids = [9, 8, 7], torch.randint(0, 900, (2, 5), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        together, alone = own.ask(head, ids)[1], own.read(torch.tensor([[*head, *ids[1].tolist()]]))[0, 3:]
    assert (together - alone).abs().max() < 1e-5


def test_a_lower_rank_is_the_nearest() -> None:
    """Whole at its own rank; below it, what is lost is the smallest singular values."""
    random = torch.Generator().manual_seed(6)
    b, a = torch.randn(20, 6, generator=random), torch.randn(6, 30, generator=random)
    whole, half = lower(b, a, 6), lower(b, a, 3)
    assert torch.allclose(whole[0] @ whole[1], b @ a, atol=1e-4)
    rest = torch.linalg.svdvals(b @ a)[3:6]
    assert (b @ a - half[0] @ half[1]).norm() == pytest.approx(rest.norm().item(), rel=1e-4)


def test_a_run_starts_from_the_trials_file(tiny: tuple[Path, Any, Any], tmp_path: Path) -> None:
    """Its LoRA of rank 6, brought down to the model's; `share` 0 takes the projection alone."""
    model, random = Instrument(tiny[0], 6), torch.Generator().manual_seed(7)
    names = {"qkv": "qkv", "o": "o", "gate_up": "gu", "down": "down"}
    trial = {"proj_w": torch.randn(576, 512), "proj_b": torch.randn(576), "marks": torch.randn(2, 576)}
    for part, weights in (("a", model.a), ("b", model.b)):
        for place, value in weights.items():
            layer, _, fused = place.partition("_")
            trial[f"{part}.{layer}_{names[fused]}"] = torch.randn(value.shape, generator=random)
    save_file({name: value.bfloat16() for name, value in trial.items()}, tmp_path / "small.safetensors")
    begin(model, tmp_path / "small.safetensors", 0.5)
    product = model.b["1_gate_up"] @ model.a["1_gate_up"]
    expected = trial["b.1_gu"].bfloat16().float() @ trial["a.1_gu"].bfloat16().float()  # twice, and half of it
    assert torch.allclose(product, expected, atol=1e-3)
    assert torch.equal(model.marks, trial["marks"].bfloat16().float())
    bare = Instrument(tiny[0], 4)
    begin(bare, tmp_path / "small.safetensors", 0.0)
    assert torch.equal(bare.project.weight, model.project.weight)
    assert all(not value.any() for value in bare.b.values())


def test_the_replayed_loss_pulls_back_to_the_base(tiny: tuple[Path, Any, Any], own: Instrument) -> None:
    """A few steps on the KL of one text bring a random LoRA nearer to the base, whose weights stay."""
    ids = torch.randint(0, 900, (1, 40), generator=torch.Generator().manual_seed(8))
    table = own.table.clone()

    def drift() -> torch.Tensor:
        own.bare = True
        with torch.no_grad():
            target = log_softmax(own.logits(own.read(ids)), -1)
        own.bare = False
        return (target.exp() * (target - log_softmax(own.logits(own.read(ids)), -1))).sum(-1).mean()

    optimiser, first = torch.optim.AdamW(own.parameters(), lr=3e-3), drift().item()
    for _ in range(5):
        optimiser.zero_grad()
        drift().backward()
        optimiser.step()
    assert 0 < drift().item() < 0.8 * first and torch.equal(own.table, table)
