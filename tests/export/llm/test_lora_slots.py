"""Products with factors beside them compute what merged weights compute, and nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from luvc_export.core import graph_io
from luvc_export.errors import UsageError
from luvc_export.export.llm.lora_slots import SlotRequest, SlottedLayers


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.v_proj = nn.Linear(6, 8), nn.Linear(6, 4, bias=False)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn, self.norm = Attention(), nn.LayerNorm(6)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.self_attn.q_proj(x), self.self_attn.v_proj(x)


def slotted(layers: list[Any], *targets: str) -> SlottedLayers:
    names = {
        id(parameter): f"model.layers.{number}.{name}"
        for number, layer in enumerate(layers)
        for name, parameter in layer.named_parameters()
    }
    return SlottedLayers(layers, names, SlotRequest(4, targets or None))


def test_each_row_has_its_own_adapter_s_product() -> None:
    torch.manual_seed(0)
    layers = [Layer(), Layer()]
    slots = slotted(layers, "q_proj", "v_proj")
    x = torch.randn(3, 5, 6)
    factors = [torch.randn_like(example) for _, example, _ in slots.inputs(torch.float32, 3)]
    factors[0] = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]])
    before = layers[1](x)
    with slots.beside(factors):
        seen = layers[1](x)
    place = [name for name, _, _ in slots.inputs(torch.float32, 3)].index("lora.1.q_proj.a")
    a, b, q = factors[place], factors[place + 1], layers[1].self_attn.q_proj
    for row, ranks in enumerate((slice(0, 2), slice(2, 4), slice(0, 0))):
        merged = q.weight + (a[:, ranks] @ b[ranks]).T
        torch.testing.assert_close(seen[0][row], nn.functional.linear(x[row], merged, q.bias))
    assert torch.equal(seen[1][2], before[1][2]), "no adapter, no change"
    assert torch.equal(layers[1](x)[0], before[0]), "nothing is left behind"


def test_an_adapter_that_overflows_spoils_its_own_rows_alone() -> None:
    layer = Layer()
    slots = slotted([layer], "q_proj")
    factors = [torch.full_like(example, 3e38) for _, example, _ in slots.inputs(torch.float32, 2)]
    factors[0] = torch.tensor([[1.0, 1, 1, 1], [0, 0, 0, 0]])
    x = torch.ones(2, 3, 6)
    with slots.beside(factors):
        spoilt, _ = layer(x)
    assert not spoilt[0].isfinite().any() and torch.equal(spoilt[1], layer(x)[0][1])


def test_what_a_trace_computed_is_recorded() -> None:
    layers = [Layer(), Layer()]
    slots = slotted(layers, "q_proj", "v_proj")
    with slots.beside([example for _, example, _ in slots.inputs(torch.float32, 2)]):
        layers[0](torch.zeros(2, 1, 6))
        layers[1].self_attn.v_proj(torch.zeros(2, 1, 6))
    record = slots.record()
    assert record.slots == {"0.q_proj": (6, 8), "0.v_proj": (6, 4), "1.v_proj": (6, 4)}
    assert (record.rank, record.prefix) == (4, "model.layers")
    assert record.modules == {"q_proj": "self_attn.q_proj", "v_proj": "self_attn.v_proj"}
    assert record.inputs == {
        graph_io.LORA_ROWS,
        *(f"lora.{slot}.{part}" for slot in record.slots for part in "ab"),
    }


class Convolution(nn.Module):
    """The other mixer of a layer, whose last product is called as attention's is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Module()
        self.conv.out_proj = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv.out_proj(x)  # type: ignore[no-any-return]


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn = nn.Module()
        self.self_attn.q_proj, self.self_attn.out_proj = nn.Linear(6, 8), nn.Linear(6, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.self_attn.q_proj(x), self.self_attn.out_proj(x)], -1)


def test_products_of_one_name_are_told_apart_by_their_paths() -> None:
    """LFM2's ``conv.out_proj`` and ``self_attn.out_proj``: the second path stood for both, and for the prefix."""
    layers = [Convolution(), Attending()]
    slots = slotted(layers, "out_proj")
    with slots.beside([example for _, example, _ in slots.inputs(torch.float32, 1)]):
        for layer in layers:
            layer(torch.zeros(1, 1, 6))
    record = slots.record()
    assert record.prefix == "model.layers"
    assert record.slots == {"0.conv.out_proj": (6, 5), "1.self_attn.out_proj": (6, 7)}
    assert record.modules == {name: name for name in ("conv.out_proj", "self_attn.out_proj")}
    assert {"lora.0.conv.out_proj.a", "lora.1.self_attn.out_proj.b"} < record.inputs


def test_a_target_may_be_a_path_and_the_default_is_every_product() -> None:
    def names(*targets: str) -> set[str]:
        inputs = slotted([Convolution(), Attending()], *targets).inputs(torch.float32, 1)
        return {name for name, _, _ in inputs if name.endswith(".a")}

    assert names("self_attn.out_proj") == {"lora.1.out_proj.a"}
    assert names() == {"lora.0.conv.out_proj.a", "lora.1.q_proj.a", "lora.1.self_attn.out_proj.a"}


def test_a_target_that_is_no_product() -> None:
    with pytest.raises(UsageError, match=r"no such product(.|\n)*--lora-targets(.|\n)*q_porj(.|\n)*q_proj"):
        slotted([Layer()], "q_porj")
    with pytest.raises(UsageError, match="no such product"):
        slotted([Layer()], "norm")
