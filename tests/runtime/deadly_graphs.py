"""Graphs that end the process that runs them, in ways that no rule on graphs sees."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper, numpy_helper


def deadly(graph: Any) -> None:
    """-2^63 / -1, computed so that no rule sees it: it has no answer in 64 bits, and x86 ends the process for that."""
    graph.initializer.append(numpy_helper.from_array(np.array([-(2**63)]), "low"))
    graph.initializer.append(numpy_helper.from_array(np.array([-1]), "below"))
    _put_beside(
        graph,
        helper.make_node("Mul", ["low", "images"], ["lowest"]),
        helper.make_node("Mul", ["below", "images"], ["minus"]),
        helper.make_node("Div", ["lowest", "minus"], ["number"]),
    )


def deadly_index(graph: Any) -> None:
    """An index of 2^30, computed: OpenVINO reads there."""
    graph.initializer.append(numpy_helper.from_array(np.array([2**15]), "half"))
    _put_beside(
        graph,
        helper.make_node("Mul", ["half", "images"], ["part"]),
        helper.make_node("Mul", ["part", "half"], ["index"]),
        helper.make_node("GatherND", ["images", "index"], ["number"]),
    )


def _put_beside(graph: Any, *nodes: Any) -> None:
    """Nodes that make ``number`` of ``images``, which is added to the positions."""
    for node in graph.node:
        node.output[:] = ["places" if name == "visual_positions" else name for name in node.output]
    graph.node.append(helper.make_node("Shape", ["image"], ["images"], start=0, end=1))
    graph.node.extend(nodes)
    graph.node.append(helper.make_node("Cast", ["number"], ["float"], to=1))
    graph.node.append(helper.make_node("Add", ["places", "float"], ["visual_positions"]))
