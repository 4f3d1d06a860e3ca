"""Slots for adapters in families whose layers have other products: beside all of them, each by its own path."""

from __future__ import annotations

import family_harness as harness
import pytest
import torch
from family_harness import SABOTAGE, TOLERANCE, case

from luvc_export.export.llm.lora_slots import SlotRequest, SlottedLayers


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("lfm2_vl", {"conv.in_proj", "conv.out_proj", "self_attn.out_proj", "feed_forward.w2"}),
        ("qwen3_5", {"linear_attn.in_proj_qkv", "linear_attn.out_proj", "self_attn.o_proj"}),
        ("gemma4", {"per_layer_input_gate", "per_layer_projection", "self_attn.o_proj"}),
    ],
)
@torch.no_grad()
def test_factors_beside_every_product_are_those_merged(name: str, own: set[str]) -> None:
    tiny = harness.build(case(name).family, case(name).family.tiny_config(), seed=5)
    decoder = tiny.family.decoder(tiny.model, tiny.plan)
    names = {id(parameter): path for path, parameter in tiny.model.named_parameters()}
    slots = SlottedLayers(decoder.layers, names, SlotRequest(4))
    run = harness.lay_out(tiny, tiny.plan, tiny.prompt(1), *harness.encode_images(tiny, tiny.plan, tiny.images(1))[:2])
    before = harness.logits(tiny, decoder, run)
    torch.manual_seed(0)
    inputs = slots.inputs(torch.float32, 1)
    factors = [torch.ones(1, 4), *(0.05 * torch.randn_like(example) for _, example, _ in inputs[1:])]
    with slots.beside(factors):
        beside = harness.logits(tiny, decoder, run)
    record, weights = slots.record(), dict(tiny.model.named_parameters())
    pairs = {part: factor for (part, _, _), factor in zip(inputs, factors, strict=True)}
    for slot in record.slots:
        layer, _, module = slot.partition(".")
        weight = weights[f"{record.prefix}.{layer}.{record.modules[module]}.weight"]
        weight += (pairs[f"lora.{slot}.a"] @ pairs[f"lora.{slot}.b"]).T
    merged = harness.logits(tiny, decoder, run)
    assert own <= {*record.modules.values()}
    assert harness.difference(beside, merged) < TOLERANCE
    assert harness.difference(before, merged) > SABOTAGE
