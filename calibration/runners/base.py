"""What parity compares: anything that can be asked cases and shows what happened inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from luvc_export.calibration.cases import Case
from luvc_export.core import graph_io
from luvc_export.core.plan import Plan
from luvc_export.runtime.state import VisualFeatures

Kept = dict[int, NDArray[np.int64]]

VISION, LOGITS, VECTORS = "vision", graph_io.LOGITS, graph_io.VECTORS


def plane(index: int) -> str:
    """Name of a DeepStack plane of the visual embeddings, a tensor of ``Observation``."""
    return f"{VISION} plane {index}"


def planes(visual: NDArray[np.float32], hidden: int) -> dict[str, NDArray[np.float32]]:
    """Visual embeddings [..., hidden * (1 + planes)] as tensors of ``Observation``."""
    flat = visual.reshape(-1, visual.shape[-1]).astype(np.float32)
    parts = np.split(flat, flat.shape[-1] // hidden, axis=-1)
    return {plane(index) if index else VISION: part for index, part in enumerate(parts)}


def probe(layer: int, part: str) -> str:
    """Name of a tensor of ``Observation``: part is ``in`` (hidden state entering), ``key`` or ``value``."""
    return f"layer {layer} {part}"


#: What the encoder gave for each image of a prompt, one image each.
Features = list[VisualFeatures]
#: What another model chose or encoded, case by case, for a runner to go on from.
Forced = Sequence[Kept] | None
Encoded = Sequence[Features | None] | None


@dataclass(frozen=True)
class Observation:
    """What one case did inside a model, prefill only.

    Attributes:
        tensors: By name, in the order in which they are computed. ``vision`` [G * N_0, D] and its DeepStack planes, if
            any; of each layer ``in``, the hidden state [rows, D] that enters it, ``key`` and ``value``
            [rows, Hkv * Dh] with keys rotated; ``logits`` [text, vocab], or where nothing is decoded
            ``vectors`` [1, D]. Rows are visual tokens first, then text.
        text: Text tokens, the last rows of every tensor but ``vision``.
        kept: Per prune with a budget above 0, tokens of the encoder that stay, int64 [G, keep].
        scores: Per prune, what they were ranked by [G, N], where the runner can tell; N counts what entered.
        merged_into: Visual token of each unit [images, H0 * W0], where the runner can tell.
        features: What the encoder gave for each image, for ``observe`` of another runner; None where there is nothing.
        first: The first image, uint8 [H, W, 3], where there is one.
    """

    tensors: dict[str, NDArray[np.float32]]
    text: int
    kept: Kept = field(default_factory=dict)
    scores: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    merged_into: NDArray[np.int64] | None = None
    features: Features | None = None
    first: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Said:
    """A greedy answer: its tokens (the end token included), its text without special tokens, and whether it ended."""

    tokens: tuple[int, ...]
    text: str
    ended: bool


class Runner(Protocol):
    """A model under comparison.

    Attributes:
        name: For people.
        dtype: fp32, fp16 or bf16: what it computes in; or a quantised precision. ``core.precision.CODED_CACHES`` behind
            it where caches are codes.
        plan: Its compression.
        can_force: Whether ``observe`` takes ``forced``.
    """

    name: str
    dtype: str
    plan: Plan
    can_force: bool

    def observe(self, cases: Sequence[Case], forced: Forced = None, features: Encoded = None) -> list[Observation]:
        """Run the prompts of ``cases`` in one batch; ``forced`` replaces what prunes choose, ``features`` the encoder.

        Only a runner with ``can_force`` is given ``forced``, and only one whose plan merges ``features``.
        """

    def answer(self, cases: Sequence[Case], longest: int) -> list[Said]:
        """Answer greedily with up to ``longest`` tokens."""


def ends(config_eos: Any) -> frozenset[int]:
    """End tokens from a config value: None, a number, or a list of them."""
    values = config_eos if isinstance(config_eos, list | tuple) else [config_eos]
    return frozenset(int(value) for value in values if value is not None)


def same_images(images: Sequence[int], most: int | None = None) -> list[list[int]]:
    """Indices of cases that can share a batch: grouped by their number of ``images``, at most ``most`` in a group."""
    groups: dict[int, list[int]] = {}
    for index, count in enumerate(images):
        groups.setdefault(count, []).append(index)
    sized = ((group, most or len(group)) for group in groups.values())
    return [group[first : first + size] for group, size in sized for first in range(0, len(group), size)]
