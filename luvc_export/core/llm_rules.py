"""What a plan may say of the LLM beside its budgets: fields that came later, and what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Sequence

#: Fields of ``Plan`` that its JSON leaves out while they are empty.
FIELDS = frozenset(("aggregate", "kv_only", "quota", "scorer", "steps"))

#: Scores that choose in rounds. Plans of theirs were made before rounds grew: without a word, theirs are equal.
_IN_ROUNDS = ("maxmin", "scope")


def unsaid_rounds(score: object) -> str:
    """What ``Plan.rounds`` is where a plan's JSON does not say it."""
    return "equal" if score in _IN_ROUNDS else "growing"


def problems(
    keep: Sequence[int],
    kv_only: Sequence[int],
    steps: object,
    score: object,
    scorer: object,
    prunes: Sequence[tuple[int, int, int]],
) -> list[str]:
    """What is wrong with these fields of a ``Plan``, one line each; it lists them beside its other problems."""
    return [*_kv_only_problems(keep, kv_only), *_steps_problems(steps, prunes), *_scorer_problems(score, scorer)]


def _kv_only_problems(keep: Sequence[int], kv_only: Sequence[int]) -> list[str]:
    found, layers = [], len(keep)
    for index, layer in enumerate(kv_only):
        where = f"kv_only[{index}]"
        if not 0 <= layer < layers:
            found.append(f"{where}: got layer {layer}, expected 0 to {layers - 2}: there are {layers} layers")
        elif layer == layers - 1:
            found.append(f"{where}: layer {layer} is the last one, which last_layer 'kv_only' says")
        elif not keep[layer]:
            found.append(f"{where}: no visual token enters layer {layer}: leave it out")
    if list(kv_only) != sorted(set(kv_only)):
        found.append(f"kv_only: got {list(kv_only)}, expected layers in ascending order, each once")
    return found


#: More rounds make a graph of thousands of nodes a prune.
_MOST_STEPS = 64


def _steps_problems(steps: object, prunes: Sequence[tuple[int, int, int]]) -> list[str]:
    if isinstance(steps, bool) or not isinstance(steps, int) or not 0 <= steps <= _MOST_STEPS:
        return [f"steps: got {steps!r}, expected a whole number from 0 to {_MOST_STEPS}"]
    few = [(layer, keep) for layer, _, keep in prunes if 0 < keep < steps]
    return [f"steps: {steps} rounds to keep {keep} tokens before layer {layer}: at most {keep}" for layer, keep in few]


def _scorer_problems(score: object, scorer: object) -> list[str]:
    if (score == "learned") != bool(scorer):
        return [f"scorer: got {scorer!r} with score {score!r}; the score 'learned', and no other, has one (--scorer)"]
    if scorer and not (isinstance(scorer, str) and re.fullmatch("[0-9a-f]{64}", scorer)):
        return [f"scorer: got {scorer!r}, expected the sha256 of its file"]
    return []


def sharing_problems(
    aggregate: object, quota: str, merges: bool, images: int, chooses: Sequence[tuple[int, int, int]] | None
) -> list[str]:
    """What is wrong with ``aggregate`` and ``quota`` of a plan, one line each.

    Args:
        aggregate: The field.
        quota: The field.
        merges: LLM layers merge instead of pruning.
        images: That share a budget.
        chooses: ``Plan.chooses``; None where it cannot be known.
    """
    found = []
    if not isinstance(aggregate, bool):
        found.append(f"aggregate: got {aggregate!r}, expected true or false")
    elif aggregate and merges:
        found.append("aggregate: merging in the LLM drops nothing that a row could stand for")
    elif aggregate and chooses is not None:
        if not chooses:
            found.append("aggregate: no prune leaves a row for it: every budget is whole or 0")
        found += [
            f"keep[{layer}]: a budget of 1 would be the aggregate alone: at least 2, or 0"
            for layer, _, chosen in chooses
            if not chosen
        ]
    if quota == "none":
        return found
    if images == 1:
        found.append(f"quota: {quota!r} divides a budget among images that share it; here each has its own")
    elif chooses is not None:
        if not chooses:
            found.append(f"quota: {quota!r} divides what a prune keeps; none keeps some and drops some")
        found += [
            f"keep[{layer}]: {chosen} chosen tokens for {images} images: a quota gives each at least 1"
            for layer, _, chosen in chooses
            if 0 < chosen < images
        ]
    return found
