"""Slots for adapters beside products of the LLM: two factors that a call brings, and which of their ranks a row has.

``y = W x`` becomes ``W x + b (a x)``: the factors of all adapters of a call lie side by side, and a row's mask leaves
its own of ``a x`` (Hu et al., arXiv 2106.09685, for one adapter; the mask for several is ours). It chooses and does not
multiply: what overflows in one adapter is no NaN in the rows of others. With no adapter their rank is 0, and what is
added is zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from luvc_export.bundle.manifest import LoraSlots
from luvc_export.core import graph_io
from luvc_export.errors import UsageError, did_you_mean

#: Ranks of the factors that a graph is traced with.
_TRACED_RANK = 4


@dataclass(frozen=True)
class SlotRequest:
    """What ``--lora-slots`` and ``--lora-targets`` ask for.

    Args:
        rank: Largest rank of an adapter.
        targets: Last names of the products, or ends of their paths (``self_attn.out_proj``), as peft takes them;
            None for every product of the layers (peft's ``all-linear``, of the LLM alone).
    """

    rank: int
    targets: tuple[str, ...] | None = None


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
        linears = [
            (number, path, module)
            for number, layer in enumerate(layers)
            for path, module in layer.named_modules()
            if isinstance(module, nn.Linear)
        ]
        paths = dict.fromkeys(path for _, path, _ in linears)
        for target in request.targets or ():
            if not any(_ends(path, target) for path in paths):
                raise UsageError(
                    "there is no such product in the LLM's layers",
                    where="--lora-targets",
                    got=target,
                    expected=did_you_mean(target, [*dict.fromkeys(map(_last, paths))]),
                )
        chosen = [path for path in paths if request.targets is None or any(_ends(path, t) for t in request.targets)]
        several = Counter(map(_last, chosen))
        #: Each product's path in its layer by the name its slots have: the last one, where no other path ends in it.
        self._paths = {_last(path) if several[_last(path)] == 1 else path: path for path in chosen}
        called = {path: name for name, path in self._paths.items()}
        self._products = {f"{number}.{called[path]}": module for number, path, module in linears if path in called}
        number, path, module = next(one for one in linears if one[1] in called)
        self._prefix = names[id(module.weight)].removesuffix(f".{number}.{path}.weight")
        #: Those that a trace computed so far.
        self.used: dict[str, None] = {}

    def inputs(self, dtype: torch.dtype, batch: int) -> list[tuple[str, Tensor, tuple[str | None, ...]]]:
        """Name, an example, and which axes are ``batch`` and ``rank``, of every input in graph order."""
        rank = _TRACED_RANK
        rows = (graph_io.LORA_ROWS, torch.zeros(batch, rank, dtype=dtype), ("batch", "rank"))
        inputs: list[tuple[str, Tensor, tuple[str | None, ...]]] = [rows]
        for slot, product in self._products.items():
            number, _, module = slot.partition(".")
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


def _last(path: str) -> str:
    return path.rpartition(".")[2]


def _ends(path: str, target: str) -> bool:
    return path == target or path.endswith(f".{target}")
