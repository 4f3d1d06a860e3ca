"""What a plan may say of the LLM beside its budgets: fields that came later, and what is wrong with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from luvc_export.core.plan import Plan

#: Fields of ``Plan`` that its JSON leaves out while they are empty.
FIELDS = frozenset(("kv_only", "steps"))


def problems(plan: Plan) -> list[str]:
    """What is wrong with these fields, one line each; a plan lists them beside its other problems."""
    return [*_kv_only_problems(plan), *_steps_problems(plan)]


def _kv_only_problems(plan: Plan) -> list[str]:
    found = []
    for index, layer in enumerate(plan.kv_only):
        where = f"kv_only[{index}]"
        if not 0 <= layer < plan.layers:
            found.append(f"{where}: got layer {layer}, expected 0 to {plan.layers - 2}: there are {plan.layers} layers")
        elif layer == plan.layers - 1:
            found.append(f"{where}: layer {layer} is the last one, which last_layer 'kv_only' says")
        elif not plan.keep[layer]:
            found.append(f"{where}: no visual token enters layer {layer}: leave it out")
    if list(plan.kv_only) != sorted(set(plan.kv_only)):
        found.append(f"kv_only: got {list(plan.kv_only)}, expected layers in ascending order, each once")
    return found


#: More rounds make a graph of thousands of nodes a prune.
_MOST_STEPS = 64


def _steps_problems(plan: Plan) -> list[str]:
    if isinstance(plan.steps, bool) or not isinstance(plan.steps, int) or not 0 <= plan.steps <= _MOST_STEPS:
        return [f"steps: got {plan.steps!r}, expected a whole number from 0 to {_MOST_STEPS}"]
    few = [(layer, keep) for layer, _, keep in plan.prunes if 0 < keep < plan.steps]
    return [
        f"steps: {plan.steps} rounds to keep {keep} tokens before layer {layer}: at most {keep}" for layer, keep in few
    ]
