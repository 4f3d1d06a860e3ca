"""Steps on ONNX Runtime over caches in two parts: answers are those of Attention over caches in one piece."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from growing import stepped
from onnx import TensorProto, helper

from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.graphs import read_graph
from luvc_export.runtime.host import cache as host_cache
from luvc_export.runtime.host.cache import HostCache
from luvc_export.runtime.model import TokensPrompt
from luvc_export.runtime.ort import OrtBackend
from luvc_export.runtime.ort_graphs import two_parts
from luvc_export.runtime.ort_graphs.two_parts import NEWEST, in_two_parts
from luvc_export.runtime.session import Session

PROMPTS = ([97, 98, 99, 100, 101], [98, 99])
#: Logits of the bundled model are about 10; sums are in another order.
TOLERANCE = 1e-3


def graphs(bundle: Bundle, plan: str, only_steps: bool) -> Any:
    backend = OrtBackend(bundle, bundle.entry(plan), threads=1, only_steps=only_steps)
    return Session(bundle, backend, plan).default.graphs


@pytest.fixture(scope="module")
def whole(demo_bundle: Bundle) -> Callable[[str], Any]:
    """The graphs of a plan as exported, opened once."""
    return cache(lambda plan: graphs(demo_bundle, plan, False))


def furthest(bundle: Bundle, plan: str, plain: Any) -> float:
    """How far logits of steps in two parts are from ``plain``: rows of several lengths, and drafts."""
    steps = graphs(bundle, plan, True)
    ours = theirs = plain.prefill([TokensPrompt(one) for one in PROMPTS]).state
    worst = 0.0
    for tokens in ([102, 103], [104, 105], [106, 107], [108, 109]):
        mine, other = stepped(steps, tokens, ours), stepped(plain, tokens, theirs)
        worst = max(worst, float(np.abs(mine.logits - other.logits).max()))
        ours, theirs = mine.state, other.state
    fed = [[101, 102, 103], [104, 105]]
    drafted, known = (calls.verify(fed, state)[0] for calls, state in ((steps, ours), (plain, theirs)))
    for row, tokens in enumerate(fed):
        worst = max(worst, float(np.abs(drafted[row, : len(tokens)] - known[row, : len(tokens)]).max()))
    return worst


@pytest.mark.parametrize(("plan", "most"), [("thirds", 2), ("none", 64)])
def test_steps_compute_what_attention_does(
    demo_bundle: Bundle, whole: Callable[[str], Any], plan: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With newest rows that have joined those that stand, and without."""
    monkeypatch.setattr(host_cache, "MOST_NEWEST", most)
    assert furthest(demo_bundle, plan, whole(plan)) < TOLERANCE


@pytest.mark.parametrize("what", ["newest", "mask", "heads"])
def test_a_part_that_is_wrong_moves_answers(
    demo_bundle: Bundle, whole: Callable[[str], Any], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: zeros in the newest rows' place, a mask that hides nothing, query heads under another cached one."""
    if what == "newest":
        honest = HostCache.feeds

        def emptied(self: HostCache, *of: Any) -> dict[str, Any]:
            values = honest(self, *of)
            zeros = {name: np.zeros_like(value.numpy()) for name, value in values.items() if name.endswith(NEWEST)}
            return values | {name: self.kind.make(array, name) for name, array in zeros.items()}

        monkeypatch.setattr(HostCache, "feeds", emptied)
    elif what == "mask":
        monkeypatch.setattr(two_parts, "_LEAST", np.float32(0))
    else:
        turned = two_parts.integers
        wrong = {(0, 2, 3, 1, 4): (0, 3, 2, 1, 4)}
        monkeypatch.setattr(two_parts, "integers", lambda name, *axes: turned(name, *wrong.get(axes, axes)))
    assert furthest(demo_bundle, "none", whole("none")) > 10 * TOLERANCE


def test_every_attention_is_in_two_parts_and_a_step_gives_its_rows_alone(demo_bundle: Bundle) -> None:
    entry = demo_bundle.entry("none")
    data, apart = in_two_parts(read_graph(demo_bundle, entry.decoder).data)
    model = onnx.load_from_string(data)
    assert apart == {state.past + NEWEST for state in demo_bundle.manifest.states_of(entry)}
    assert not [node for node in model.graph.node if node.op_type == "Attention"]
    calls = graphs(demo_bundle, "none", True)
    first = graphs(demo_bundle, "none", False).prefill([TokensPrompt([97] * 9)]).state
    two = stepped(calls, [99], stepped(calls, [98], first).state).state
    assert isinstance(two.cache, HostCache) and isinstance(first.cache, HostCache)
    assert all(one is other for one, other in zip(first.cache.values, two.cache.values, strict=True))
    assert {newest.shape()[2] for newest in two.cache.newest} == {2} and set(two.cache.lengths) == {11}
    assert two.cache.nbytes == first.cache.nbytes * 11 // 9
    for one, other in zip(two.cache.arrays(), first.cache.values, strict=True):
        assert one.shape[2] == 11 and np.array_equal(one[:, :, :9], other.numpy())
    kept = two.cache.some(dict.fromkeys((0, 1), np.array([0, 10])))
    assert kept.lengths[0] == 2 and np.array_equal(kept.values[0].numpy(), two.cache.arrays()[0][:, :, [0, 10]])


def one_attention(**change: Any) -> bytes:
    """A model of one Attention over a cache; ``change`` makes it another."""
    heads, kind = change.get("heads", [4, 2]), change.get("mask", TensorProto.BOOL)
    float32, rows = TensorProto.FLOAT, change.get("rows", "past")
    info = helper.make_tensor_value_info
    inputs = [
        info("q", float32, ["b", "t", 32]),
        info("k", float32, ["b", "t", 16]),
        info("v", float32, ["b", "t", 16]),
    ]
    inputs += [info("mask", kind, ["b", change.get("masks", 1), "t", "s"])]
    inputs += [info(name, float32, ["b", 2, rows, 8]) for name in ("pk", "pv")]
    facts = {"q_num_heads": heads[0], "kv_num_heads": heads[1], **change.get("facts", {})}
    nodes = [helper.make_node("Attention", ["q", "k", "v", "mask", "pk", "pv"], ["y", "nk", "nv"], **facts)]
    outputs = [info("y", float32, ["b", "t", 32]), *(info(name, float32, ["b", 2, "s", 8]) for name in ("nk", "nv"))]
    if "reads" in change:
        kind = change.get("by", "Abs")
        nodes.append(helper.make_node(kind, [change["reads"]], ["z"]))
        outputs.append(info("z", TensorProto.INT64 if kind == "Shape" else float32, None))
    graph = helper.make_graph(nodes, "one", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10).SerializeToString()


@pytest.mark.parametrize(
    "change",
    [
        {"facts": {"is_causal": 1}},
        {"facts": {"softcap": 2.0}},
        {"mask": TensorProto.FLOAT},
        {"masks": 4},
        {"reads": "pk"},
        {"reads": "nv"},
        {"reads": "nk", "by": "Shape"},
    ],
)
def test_what_is_computed_otherwise_is_left(change: dict[str, Any]) -> None:
    for ours in ({}, {"reads": "pk", "by": "Shape"}):
        assert in_two_parts(one_attention(**ours))[1] == {"pk" + NEWEST, "pv" + NEWEST}
    assert in_two_parts(one_attention(**change)) == (one_attention(**change), frozenset())
