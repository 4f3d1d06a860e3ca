"""Of equal scores the first is chosen, as ONNX defines TopK and as ONNX Runtime and torch here choose.

OpenVINO's reader of ONNX leaves its TopK free to take any (``stable`` is false), and its CPU plug-in does: on pictures
with padding or of one colour, where scores tie, it kept other tokens.
"""

from __future__ import annotations

from typing import Any


def choose_first_of_equals(library: Any, model: Any) -> int:
    """Make every TopK by value stable; returns how many.

    Args:
        library: ``openvino``.
        model: Changed.
    """
    count = 0
    for node in model.get_ops():
        if node.get_type_name() != "TopK":
            continue
        stated = node.get_attributes()
        if stated.get("stable", False) or stated["sort"] != "value":
            continue
        parts = [stated[name] for name in ("axis", "mode", "sort", "index_element_type")]
        stable = library.opset13.topk(node.input_value(0), node.input_value(1), *parts, stable=True)
        stable.set_friendly_name(node.get_friendly_name())
        for number in range(2):
            node.output(number).replace(stable.output(number))
        count += 1
    return count
