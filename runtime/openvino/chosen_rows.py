"""An encoder whose rows are chosen or merged inside it: what OpenVINO's CPU plug-in must be told to stay in bf16.

After a prune in the encoder rotary cosines are gathered by what was kept, and after a merge they are made of the places
of what was merged. So the plug-in, which keeps in fp32 everything that cosines are made of, would compute every product
above in fp32 (see ``islands``): with merges after every eighth of 32 blocks, three quarters of the encoder. It knows a
rotation by its pattern: where cosines are made of a choice, the pattern is interrupted by a clamp without limits.

Scores must stay exact all the same: in bf16 near units would tie, and the first ones win. The choices become outputs of
the model, which nobody reads: what lies between the last products and an integer output stays in fp32.
"""

from __future__ import annotations

from typing import Any

_CHOICE = "TopK"


def choices(model: Any) -> list[Any]:
    """Where a vision graph chooses rows, in order; none in graphs that keep all."""
    return [node for node in model.get_ordered_ops() if node.get_type_name() == _CHOICE]


def rotate_apart(library: Any, model: Any, caches: set[str]) -> int:
    """Interrupt every rotation by cosines that a choice decides, show that choice; returns how many sums changed.

    Args:
        library: ``openvino``.
        model: Changed, unless it is a decoder: its choices are fused, and narrowed by ``islands``.
        caches: Names of a decoder's caches.
    """
    chosen = choices(model)
    if not chosen or any(port.get_names() & caches for port in model.inputs):
        return 0
    below = _below(chosen)
    count = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() not in ("Add", "Subtract"):
            continue
        halves = [value.get_node() for value in node.input_values()]
        if all(half.get_type_name() == "Multiply" for half in halves) and _gathered(halves[0], below):
            free = library.opset13.clamp(node.input_value(0), float("-inf"), float("inf"))
            node.input(0).replace_source_output(free.output(0))
            count += 1
    if count:
        model.add_results([library.opset13.result(chosen[0].output(1))])
        model.validate_nodes_and_infer_types()
    return count


def _gathered(product: Any, below: set[str]) -> bool:
    """Whether a product is of half a head and of cosines that a choice decides."""
    factors = [value.get_node() for value in product.input_values()]
    kinds = [factor.get_type_name() for factor in factors]
    return "VariadicSplit" in kinds and any(
        factor.get_type_name() == "Unsqueeze" and factor.get_name() in below for factor in factors
    )


def _below(nodes: list[Any]) -> set[str]:
    """Names of all nodes downstream of ``nodes``."""
    seen, todo = set[str](), list(nodes)
    while todo:
        node = todo.pop()
        if node.get_name() in seen:
            continue
        seen.add(node.get_name())
        todo += [reader.get_node() for output in node.outputs() for reader in output.get_target_inputs()]
    return seen
