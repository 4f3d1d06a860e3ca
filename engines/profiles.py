"""Optimisation profiles from a plan and capacities: pure arithmetic on the contract's names.

TensorRT-RTX compiles kernels on the device for the shapes it meets, and stores the weights once for each profile: it
gets one wide profile. TensorRT picks kernels per profile at build time, at the best shape of each: prefill and decode
get one each. Which of the two is a capability of the target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from luvc_export.bundle.manifest import Profile
from luvc_export.core import graph_io
from luvc_export.core.plan import Plan
from luvc_export.core.target import Profiles
from luvc_export.errors import CheckFailed, UsageError

#: Letters of axes: see ``graph_io.AXES``; K are the rows of this layer's cache.
_CACHE_AXES = "B.K."
#: Of a slot's two factors, by how their names end.
_FACTOR_AXES = {"a": ".R", "b": "R."}
#: New text tokens of a typical prompt: best shape of prefill.
_PROMPT = 64


@dataclass(frozen=True)
class Capacity:
    """The largest call an engine takes.

    Args:
        text: Text tokens of a conversation, prompt and answer; also of one call.
        groups: What shares a budget, in one conversation: single images, or with ``joint_images`` so many each.
        batch: Rows of a batch.
        logits: Positions of a call whose logits are wanted: 1 to generate, ``text`` to compare every position.
        adapters: Different adapters of one call; 0 where the graph has no slots for them.
        rank: Largest rank of one adapter.

    Raises:
        UsageError: One is not positive.
    """

    text: int
    groups: int = 1
    batch: int = 1
    logits: int = 1
    adapters: int = 0
    rank: int = 0

    @property
    def ranks(self) -> int:
        """Ranks of a call's adapters side by side, at most."""
        return self.adapters * self.rank

    def __post_init__(self) -> None:
        for name in ("text", "groups", "batch", "logits"):
            if getattr(self, name) < 1:
                raise UsageError("a capacity must be positive", where=name, got=getattr(self, name))


@dataclass(frozen=True)
class _Call:
    """One call: groups and text that are new, groups and text in the cache, ranks of adapters."""

    batch: int
    groups: int
    text: int
    past_groups: int
    past_text: int
    logits: int
    ranks: int = 0


def profiles(
    shapes: Mapping[str, Sequence[int]], plan: Plan, capacity: Capacity, kind: Profiles
) -> tuple[Profile, ...]:
    """Profiles of an engine.

    ``shapes`` of inputs are -1 where open.

    Raises:
        CheckFailed: An input of another name has open sizes.
    """
    full = capacity
    none = _Call(1, 0, 1, 0, 0, 1)
    most = _Call(full.batch, full.groups, full.text, full.groups, full.text, full.logits, full.ranks)
    prompt = _Call(1, 1, min(_PROMPT, full.text), 0, 0, 1, full.rank)
    if graph_io.IMAGE in shapes:
        return (_profile("image", shapes, plan, _Call(1, 1, 1, 0, 0, 1), _Call(1, 1, 1, 0, 0, 1), most),)
    if kind == "wide":
        return (_profile("wide", shapes, plan, none, prompt, most),)
    step = _Call(full.batch, 0, 1, 1, max(1, full.text // 2), 1, full.rank)
    last = _Call(full.batch, 0, 1, full.groups, full.text, 1, full.ranks)
    return (
        _profile("prefill", shapes, plan, none, prompt, most),
        _profile("decode", shapes, plan, none, step, last),
    )


def _profile(name: str, shapes: Mapping[str, Sequence[int]], plan: Plan, *calls: _Call) -> Profile:
    low, best, high = (
        {item: _shape(item, shape, plan, call) for item, shape in shapes.items() if -1 in shape} for call in calls
    )
    return Profile(name, low, best, high)


def _shape(name: str, shape: Sequence[int], plan: Plan, call: _Call) -> tuple[int, ...]:
    cache = name.startswith((graph_io.PAST_KEY_VALUES, graph_io.PAST_STATES))
    axes = _CACHE_AXES if name.startswith(graph_io.PAST_KEY_VALUES) else graph_io.AXES.get(name, "")
    if graph_io.is_factor(name):
        axes = _FACTOR_AXES[name[-1]]
    if name.startswith(graph_io.PAST_STATES):
        axes = "B" + "".join("K" if size == -1 else "." for size in shape[1:])
    sizes = {
        "n": max(1, call.groups) * plan.sharing.images,
        "B": call.batch,
        "G": call.groups,
        "V": call.groups * plan.span_tokens,
        "T": call.text,
        "M": max(call.text, call.past_text),
        "L": call.logits,
        "R": call.ranks,
        "K": plan.cache_rows(call.past_groups, call.past_text)[graph_io.cache_layer(name)] if cache else 0,
    }
    if len(axes) != len(shape) or any(size == -1 and axis == "." for size, axis in zip(shape, axes, strict=True)):
        raise CheckFailed("an input has open sizes that the contract does not know", where=name, got=list(shape))
    return tuple(sizes[axis] if size == -1 else size for size, axis in zip(shape, axes, strict=True))
