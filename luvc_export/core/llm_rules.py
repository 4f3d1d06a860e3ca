"""What a plan may say of the LLM beside its budgets: fields that came later, and what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Sequence

#: Fields of ``Plan`` that its JSON leaves out while they are empty.
FIELDS = frozenset(("kv_only", "rounds", "scorer", "steps"))

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
