"""A step of a few tokens reads cached heads as they lie; longer calls, and heads of their own, are as before."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_bundle

from luvc_export.bundle.folder import Bundle
from luvc_export.runtime.model import TokensPrompt
from luvc_export.runtime.openvino import backend as backends
from luvc_export.runtime.openvino import compiling
from luvc_export.runtime.openvino import device as devices
from luvc_export.runtime.openvino.backend import OpenVinoBackend
from luvc_export.runtime.openvino.heads import STEP, group_heads
from luvc_export.runtime.openvino.model import Graph, GraphReader
from luvc_export.runtime.session import Session

pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")


def copied_heads(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int, int]:
    """Heads that the first layer's keys are laid out as: in a prompt, and in a step of one token and of several."""
    seen: list[Any] = []

    def watched(library: Any, model: Any) -> int:
        grouped = group_heads(library, model)
        attention = next(node for node in model.get_ordered_ops() if "ScaledDotProduct" in node.get_type_name())
        model.add_outputs(attention.input_value(1))
        return grouped

    def with_it(graph: Graph, *options: Any) -> compiling.Compiled:
        return compiling.compile_graph(dataclasses.replace(graph, outputs=(*graph.outputs, "keys")), *options)

    monkeypatch.setattr(compiling, "group_heads", watched)
    monkeypatch.setattr(backends, "compile_graph", with_it)
    backend = OpenVinoBackend(bundle, bundle.entry("none"), threads=1, arithmetic="fp32")
    session = Session(bundle, backend, "none")
    state = session.default.run([97] * (STEP + 1)).state
    for step in (None, [99], [100] * STEP):
        state = session.default.run(step, state=state).state if step else state
        seen.append(backend._decoder.request.get_output_tensor(len(backend._decoder.model.outputs) - 1).shape[1])
    return seen[0], seen[1], seen[2]


def test_a_step_copies_no_head(short_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = short_bundle.manifest.decoder
    assert shape.heads > shape.kv_heads
    assert copied_heads(short_bundle, monkeypatch) == (shape.heads, shape.kv_heads, shape.kv_heads)


def test_without_it_every_step_copies_them(short_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sabotage of the test above."""
    shape = short_bundle.manifest.decoder
    monkeypatch.setitem(globals(), "group_heads", lambda library, model: 0)
    assert copied_heads(short_bundle, monkeypatch) == (shape.heads, shape.heads, shape.heads)


@pytest.mark.parametrize("plan", ["none", "thirds"])
def test_every_layer_is_changed_and_rows_of_a_batch_stay_apart(short_bundle: Bundle, plan: str) -> None:
    entry, shape = short_bundle.entry(plan), short_bundle.manifest.decoder
    model = GraphReader(short_bundle).read(entry.decoder).model
    assert group_heads(devices.load_library(), model) == shape.layers
    backend = OpenVinoBackend(short_bundle, entry, threads=1, arithmetic="fp32")
    session = Session(short_bundle, backend, plan)
    asks: list[dict[str, Any]] = [{"prompt": text} for text in ("ab", "c", "defg")]
    together = session.generate_batch(asks, max_new_tokens=4)
    alone = [session.generate(None, ask["prompt"], max_new_tokens=4) for ask in asks]
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]


def test_a_draft_behind_a_token_sees_what_it_would_alone(short_bundle: Bundle) -> None:
    """Rows of a shared head have the masks of their tokens: each sees itself and what came before."""
    backend = OpenVinoBackend(short_bundle, short_bundle.entry("none"), threads=1, arithmetic="fp32")
    graphs = Session(short_bundle, backend, "none").default.graphs
    prompts = [[97] * (STEP + 2), [98, 99, 100]]
    state, fed = graphs.prefill([TokensPrompt(prompt) for prompt in prompts]).state, [[101, 102, 103], [104, 105]]
    logits, _ = graphs.verify(fed, state)
    for row, (prompt, tokens) in enumerate(zip(prompts, fed, strict=True)):
        whole = graphs.run([*prompt, *tokens], all_logits=True).logits[0, len(prompt) :]
        assert np.abs(logits[row, : len(tokens)] - whole).max() < 1e-3


def test_heads_that_share_nothing_are_left(tmp_path: Path) -> None:
    bundle = tiny_bundle.write(tmp_path / "bundle")
    shape, entry = bundle.manifest.decoder, bundle.entry()
    model = GraphReader(bundle).read(entry.decoder).model
    before = len(model.get_ops())
    assert shape.heads == shape.kv_heads and group_heads(devices.load_library(), model) == 0
    assert len(model.get_ops()) == before
