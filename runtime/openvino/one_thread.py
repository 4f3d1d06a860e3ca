"""One thread on a CPU with AMX: OpenVINO's fused MLP divides by half the number of threads, and ends the process.

``LinearKsplit2::setup`` in the CPU plug-in gives every two threads a share of the columns; one thread
is no pair (openvino issue 28550, still there in 2026.4; SIGFPE on a Xeon with AMX). Where one thread is all there is,
the pattern is interrupted, so that the three products run as they do on CPUs without that kernel.
"""

from __future__ import annotations

import os
from typing import Any


def is_one(threads: int | None) -> bool:
    """Whether a call runs on one thread: asked for, or because this process has one core."""
    if threads is not None:
        return threads == 1
    return len(os.sched_getaffinity(0)) == 1 if hasattr(os, "sched_getaffinity") else os.cpu_count() == 1


def keep_products_apart(library: Any, model: Any) -> int:
    """Put a clamp without limits before the last product of every gated MLP; returns how many.

    Args:
        library: ``openvino``.
        model: Changed.
    """
    count = 0
    for product in model.get_ordered_ops():
        if product.get_type_name() != "MatMul":
            continue
        gated = _behind_converts(product.input_value(0).get_node())
        factors = [_behind_converts(value.get_node()).get_type_name() for value in gated.input_values()]
        if gated.get_type_name() == "Multiply" and "MatMul" in factors:  # up, and the gate's activation
            free = library.opset13.clamp(product.input_value(0), float("-inf"), float("inf"))
            product.input(0).replace_source_output(free.output(0))
            count += 1
    model.validate_nodes_and_infer_types()
    return count


def _behind_converts(node: Any) -> Any:
    while node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return node
