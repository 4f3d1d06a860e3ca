"""Slots for adapters beside products of the LLM: two factors that a call brings, and which of their ranks a row has.

``y = W x`` becomes ``W x + b (a x)``: the factors of all adapters of a call lie side by side, and a row's mask leaves
its own of ``a x`` (Hu et al., arXiv 2106.09685, for one adapter; the mask for several is ours). It chooses and does not
multiply: what overflows in one adapter is no NaN in the rows of others. With no adapter their rank is 0, and what is
added is zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from luvc_export.bundle.manifest import LoraSlots
from luvc_export.core import graph_io
from luvc_export.errors import UsageError, did_you_mean

#: Products that have slots where nobody names others: those of peft's ``all-linear`` in every family here.
DEFAULT_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
#: Ranks of the factors that a graph is traced with.
_TRACED_RANK = 4


@dataclass(frozen=True)
class SlotRequest:
    """What ``--lora-slots`` and ``--lora-targets`` ask for.

    Args:
        rank: Largest rank of an adapter.
        targets: Last names of the products.
    """

    rank: int
    targets: tuple[str, ...] = DEFAULT_TARGETS


class SlottedLayers:
    """Products of a decoder's layers, while a trace runs with factors beside them.

    Args:
        layers: Of the decoder.
        names: The checkpoint's own name of a parameter by ``id``.
        request: Which products.

    Raises:
        UsageError: A target is no product of any layer.
    """

    def __init__(self, layers: Sequence[Any], names: Mapping[int, str], request: SlotRequest) -> None:
        self._rank = request.rank
        self._products: dict[str, nn.Linear] = {}
        self._paths: dict[str, str] = {}
        known: dict[str, str] = {}
        for number, layer in enumerate(layers):
            for path, module in layer.named_modules():
                if not isinstance(module, nn.Linear):
                    continue
                name = path.rpartition(".")[2]
                known[name] = path
                if name in request.targets:
                    self._products[f"{number}.{name}"], self._paths[name] = module, path
        for target in request.targets:
            if target not in known:
                raise UsageError(
                    "there is no such product in the LLM's layers",
                    where="--lora-targets",
                    got=target,
                    expected=did_you_mean(target, known),
                )
        first = next(iter(self._products))
        weight = names[id(self._products[first].weight)]
        self._prefix = weight.removesuffix(f".{first.split('.')[0]}.{self._paths[first.split('.')[1]]}.weight")
        #: Those that a trace computed so far.
        self.used: dict[str, None] = {}

    def inputs(self, dtype: torch.dtype, batch: int) -> list[tuple[str, Tensor, tuple[str | None, ...]]]:
        """Name, an example, and which axes are ``batch`` and ``rank``, of every input in graph order."""
        rank = _TRACED_RANK
        rows = (graph_io.LORA_ROWS, torch.zeros(batch, rank, dtype=dtype), ("batch", "rank"))
        inputs: list[tuple[str, Tensor, tuple[str | None, ...]]] = [rows]
        for slot, product in self._products.items():
            number, module = slot.split(".")
            a, b = graph_io.lora_names(int(number), module)
            inputs.append((a, torch.zeros(product.in_features, rank, dtype=dtype), (None, "rank")))
            inputs.append((b, torch.zeros(rank, product.out_features, dtype=dtype), ("rank", None)))
        return inputs

    @contextmanager
    def beside(self, factors: Sequence[Tensor]) -> Iterator[None]:
        """Have every product add what ``factors``, the values of ``inputs``, say."""
        own, pairs = factors[0][:, None] > 0, iter(factors[1:])
        handles = []

        def hook(slot: str, a: Tensor, b: Tensor) -> Any:
            def add(module: nn.Module, entered: tuple[Tensor], out: Tensor) -> Tensor:
                self.used[slot] = None
                ranks = entered[0] @ a
                return out + torch.where(own, ranks, 0.0) @ b

            return add

        try:
            for (slot, product), a in zip(self._products.items(), pairs, strict=True):
                handles.append(product.register_forward_hook(hook(slot, a, next(pairs))))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def record(self) -> LoraSlots:
        """What the traced graphs have slots for."""
        sizes = {slot: self._products[slot] for slot in self._products if slot in self.used}
        return LoraSlots(
            self._rank,
            self._prefix,
            {name: self._paths[name] for name in sorted(self._paths)},
            {slot: (product.in_features, product.out_features) for slot, product in sizes.items()},
        )
