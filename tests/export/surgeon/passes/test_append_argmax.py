"""The most likely next token, chosen in the graph."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from surgery_harness import CASES, RTX, TRT103, Arrays, Traced, cut, feeds, fired, run, small

from luvc_export.core.target import TargetSpec
from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon import lint
from luvc_export.export.surgeon.passes import append_argmax

CHOOSING = replace(RTX, name="choosing", next_token=True)


def chosen(logits: list[list[list[float]]]) -> tuple[list[list[int]], list[list[float]]]:
    """``next_token`` and ``next_logit`` of a graph that gives these logits [B, n, vocab]."""
    graph = small("g (float[B, n, v] x) => (float[B, n, v] logits) { logits = Identity(x) }")
    outputs = run(cut(graph, append_argmax, target=CHOOSING), {"x": np.array(logits, np.float32)})
    return outputs["next_token"].tolist(), outputs["next_logit"].tolist()


def test_the_last_row_and_the_smallest_of_equals() -> None:
    assert chosen([[[9, 0, 0, 0], [1, 5, 2, 5]], [[0, 0, 0, 9], [-3, -4, -5, -3]]]) == ([[1], [0]], [[5.0], [-3.0]])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_logit_that_is_not_finite_shows(bad: float, place: int) -> None:
    row = [3.0, 2.0, 1.0]
    row[place] = bad
    assert chosen([[row]]) == ([[place]], [[np.inf]])


def test_what_a_sampler_accepts_is_accepted_and_what_it_refuses_shows() -> None:
    assert chosen([[[-np.inf, 2.0, 1.0]]]) == ([[1]], [[2.0]])
    assert chosen([[[-np.inf] * 3]])[1] == [[-np.inf]]


def results(traced: Traced, target: TargetSpec, **options: Any) -> dict[str, tuple[Arrays, list[str]]]:
    decoder = cut(traced.decoder, target=target, **options)
    names = [item.name for item in decoder.graph.output]
    return {case: (run(decoder, feeds(traced.decoder, traced.plan, sizes)), names) for case, sizes in CASES.items()}


@pytest.mark.parametrize("target", [CHOOSING, replace(TRT103, next_token=True)], ids=["onnx", "primitive"])
def test_in_whole_graphs_it_is_the_argmax_of_the_logits(traced: Traced, target: TargetSpec) -> None:
    """TensorRT 10.3's list and lint have nothing against it."""
    for outputs, names in results(traced, target, precision="fp16").values():
        assert names[0] == "logits"
        np.testing.assert_array_equal(outputs["next_token"][:, 0], outputs["logits"][:, -1].argmax(-1))
        np.testing.assert_array_equal(outputs["next_logit"][:, 0], outputs["logits"][:, -1].max(-1))


def test_where_it_is_not_wanted(traced: Traced) -> None:
    assert fired(traced.decoder, append_argmax, target=RTX) == (0, "the target chooses tokens on the host")
    assert fired(traced.vision, append_argmax, target=CHOOSING) == (0, "the vision graph makes no tokens")
    once = cut(traced.decoder, append_argmax, target=CHOOSING)
    assert fired(once, append_argmax, target=CHOOSING) == (0, "the token is chosen already")


def test_lint_misses_an_output(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(append_argmax.graph_io, "NEXT_TOKEN", "next_tokn")
    decoder = cut(traced.decoder, append_argmax, target=CHOOSING)
    monkeypatch.undo()
    with pytest.raises(CheckFailed, match="output next_token of the contract is missing"):
        cut(decoder, lint, target=replace(CHOOSING, opset=decoder.opset_import[0].version))
