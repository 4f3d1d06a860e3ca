"""Nodes go and are ordered as graphsurgeon does it itself."""

from __future__ import annotations

import random

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from surgery_harness import Traced

from luvc_export.export.surgeon import node_order


def names(graph: gs.Graph) -> list[str]:
    return [node.name for node in graph.nodes]


def mixed(traced: Traced, half: str, seed: int) -> gs.Graph:
    """A traced half, its nodes in any order, and one that nothing reads."""
    graph = gs.import_onnx(traced.plain[half])
    random.Random(seed).shuffle(graph.nodes)
    graph.nodes.insert(3, gs.Node("Neg", "unread", inputs=[graph.inputs[0]], outputs=[gs.Variable("unread")]))
    return graph


@pytest.mark.parametrize("half", ["vision", "decoder"])
def test_order_and_what_goes_are_graphsurgeon_s(half: str, traced: Traced) -> None:
    for seed in range(3):
        ours, theirs = mixed(traced, half, seed), mixed(traced, half, seed).cleanup().toposort()
        shuffled = names(ours)
        node_order.tidy(ours)
        assert "unread" in shuffled and "unread" not in names(theirs)
        assert names(ours) == names(theirs) != [name for name in shuffled if name != "unread"]


def test_a_circle_is_said_and_a_node_of_another_graph_stays_there() -> None:
    source = gs.Variable("x", np.float32, (2,))
    first, second = gs.Variable("first", np.float32, (2,)), gs.Variable("second", np.float32, (2,))
    nodes = [gs.Node("Add", "a", inputs=[source, second], outputs=[first]),
             gs.Node("Neg", "b", inputs=[first], outputs=[second])]  # fmt: skip
    with pytest.raises(gs.util.exception.OnnxGraphSurgeonException, match="Cycle"):
        node_order.sort(gs.Graph(nodes, [source], [first]))
    alone = gs.Graph(nodes[:1], [source], [first])
    node_order.sort(alone)
    assert names(alone) == ["a"], "what the other node makes counts as an input"


def test_what_a_subgraph_reads_stays() -> None:
    """Theirs do it: ours would take the node out."""
    source, kept = gs.Variable("x", np.float32, (2,)), gs.Variable("kept", np.float32, (2,))
    chosen, out = gs.Variable("chosen", np.float32, (2,)), gs.Variable("out", np.float32, (2,))
    branch = gs.Graph([gs.Node("Neg", "inside", inputs=[kept], outputs=[chosen])], [], [chosen])
    wanted = gs.Constant("wanted", np.array(True))
    choice = gs.Node("If", "if", {"then_branch": branch, "else_branch": branch}, [wanted], [out])
    graph = gs.Graph([choice, gs.Node("Abs", "before", inputs=[source], outputs=[kept])], [source], [out])
    node_order.tidy(graph)
    assert names(graph) == ["before", "if"]
