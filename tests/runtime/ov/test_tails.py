"""The newest rows of a cache lie apart: a step writes those alone, and answers are those of caches in one piece."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
from growing import stepped

from luvc_export.bundle.folder import Bundle
from luvc_export.core.shapes import ROWS, State
from luvc_export.runtime.host import cache as host_cache
from luvc_export.runtime.host.cache import HostCache
from luvc_export.runtime.model import TokensPrompt
from luvc_export.runtime.openvino import backend as backends
from luvc_export.runtime.openvino import device as devices
from luvc_export.runtime.openvino.backend import OpenVinoBackend
from luvc_export.runtime.openvino.model import GraphReader
from luvc_export.runtime.openvino.tails import NEWEST, attend_in_two, split_caches
from luvc_export.runtime.session import Session

pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")
PROMPTS = ([97, 98, 99, 100, 101], [98, 99])


def backend(bundle: Bundle, plan: str, only_steps: bool) -> OpenVinoBackend:
    return OpenVinoBackend(bundle, bundle.entry(plan), threads=1, arithmetic="fp32", only_steps=only_steps)


@pytest.fixture(scope="module")
def in_one_piece(short_bundle: Bundle) -> Callable[[str], Any]:
    """The graphs of a plan whose caches are whole, opened once."""

    @cache
    def opened(plan: str) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(backends, "split_caches", lambda *options: ())
            graphs = Session(short_bundle, backend(short_bundle, plan, False), plan).default.graphs
            graphs.backend.load(images=False)
        return graphs

    return opened


def furthest(bundle: Bundle, plan: str, plain: Any) -> float:
    """How far logits of steps over caches in two are from ``plain``, over one piece, rows of several lengths."""
    steps = Session(bundle, backend(bundle, plan, True), plan).default.graphs
    ours = theirs = plain.prefill([TokensPrompt(one) for one in PROMPTS]).state
    worst = 0.0
    for tokens in ([102, 103], [104, 105], [106, 107], [108, 109], [110, 111]):
        mine, other = stepped(steps, tokens, ours), stepped(plain, tokens, theirs)
        worst = max(worst, float(np.abs(mine.logits - other.logits).max()))
        ours, theirs = mine.state, other.state
    fed = [[101, 102, 103], [104, 105]]
    drafted, whole = (graphs.verify(fed, state)[0] for graphs, state in ((steps, ours), (plain, theirs)))
    for row, tokens in enumerate(fed):
        worst = max(worst, float(np.abs(drafted[row, : len(tokens)] - whole[row, : len(tokens)]).max()))
    return worst


@pytest.mark.parametrize(("plan", "most"), [("thirds", 2), ("none", 64)])
def test_steps_compute_what_they_do_over_one_piece(
    short_bundle: Bundle, in_one_piece: Callable[[str], Any], plan: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of a batch, drafts, and newest rows that have joined those that stand."""
    monkeypatch.setattr(host_cache, "MOST_NEWEST", most)
    assert furthest(short_bundle, plan, in_one_piece(plan)) < 1e-3


def test_newest_rows_that_are_lost_move_answers(
    short_bundle: Bundle, in_one_piece: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage of the test above: what stands in the newest rows' place are zeros."""
    honest = HostCache.feeds

    def emptied(self: HostCache, *of: Any) -> dict[str, Any]:
        library, tensors = devices.load_library(), honest(self, *of)
        for name, tensor in tensors.items():
            if name.endswith(NEWEST):
                tensors[name] = library.Tensor(np.zeros_like(tensor.data))
        return tensors

    monkeypatch.setattr(HostCache, "feeds", emptied)
    assert furthest(short_bundle, "none", in_one_piece("none")) > 1e-2


def test_a_step_writes_its_rows_alone(short_bundle: Bundle) -> None:
    opened = backend(short_bundle, "none", False)
    calls = Session(short_bundle, opened, "none").default
    first = calls.run([97] * 9).state
    two = calls.run([99, 100], state=calls.run([98], state=first).state).state
    assert isinstance(first.cache, HostCache) and isinstance(two.cache, HostCache)
    assert all(one is other for one, other in zip(first.cache.values, two.cache.values, strict=True))
    assert {newest.shape[2] for newest in two.cache.newest} == {3} and set(two.cache.lengths) == {12}
    assert two.cache.nbytes == first.cache.nbytes * 12 // 9
    whole = two.cache.floats()
    assert all(
        np.array_equal(array[:, :, :9], value.data) for array, value in zip(whole, first.cache.values, strict=True)
    )
    again = opened.adopt(whole)
    assert again.lengths == two.cache.lengths
    one, other = (calls.run([101], state=type(two)(cache, *_place(two))).logits for cache in (two.cache, again))
    assert np.abs(one - other).max() < 1e-4


def test_joined_rows_hold_no_older_ones(short_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long answer keeps one cache, not one for each time that newest rows joined it."""
    monkeypatch.setattr(host_cache, "MOST_NEWEST", 1)
    calls = Session(short_bundle, backend(short_bundle, "none", False), "none").default
    state = calls.run([97] * 3).state
    for _ in range(6):
        state = calls.run([98], state=state).state
    assert isinstance(state.cache, HostCache) and set(state.cache.lengths) == {9}
    assert {value.shape[2] for value in state.cache.values} == {9} and not state.cache.newest


def _place(state: Any) -> Sequence[int]:
    return state.past_text, state.next_position, state.next_order


def test_every_cache_and_attention_is_in_two(short_bundle: Bundle) -> None:
    entry, library = short_bundle.entry("none"), devices.load_library()
    model = GraphReader(short_bundle).read(entry.decoder).model
    states = short_bundle.manifest.states_of(entry)
    assert {*split_caches(library, model, states)} == {state.past + NEWEST for state in states}
    assert attend_in_two(library, model) == short_bundle.manifest.decoder.layers
    assert not any(node.get_type_name() == "ScaledDotProductAttention" for node in model.get_ops())


@pytest.mark.parametrize("change", ["order", "axis", "codes", "read", "fixed"])
def test_a_state_that_is_given_back_otherwise_is_left(change: str) -> None:
    library = devices.load_library()
    ops = library.opset13
    state = State(0, "key", (2, 4 if change == "fixed" else ROWS, 4))
    rows = ops.parameter([-1, 2, -1, 4], np.float32, "rows")
    rows.get_output_tensor(0).set_names({state.past})
    new = ops.parameter([-1, 2, -1, 4], np.float32, "new")
    parts = [new, rows] if change == "order" else [rows, new]
    joined = ops.concat(parts, 3 if change == "axis" else 2)
    returned = ops.multiply(joined, np.float32(2)) if change == "codes" else joined
    returned.get_output_tensor(0).set_names({state.present})
    results = [ops.result(returned), *([ops.result(ops.abs(rows))] if change == "read" else [])]
    model = library.Model(results, [rows, new], "one state")
    assert split_caches(library, model, [state]) == () and len(model.inputs) == 2
