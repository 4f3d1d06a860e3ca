"""Prunes in rounds or by a learned scorer: the same tokens in every dialect, for two pictures and in decode too."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from surgery_harness import CASES, INLINED, INPLACE, RTX, TRT103, Traced, cut, feeds, run

from luvc_export.core.target import TargetSpec

pytestmark = pytest.mark.slow(beside="export/surgeon/test_equal.py::test_one_pass")


@pytest.mark.parametrize("target", [INLINED, TRT103], ids=["onnx", "primitive"])
def test_every_dialect_keeps_the_same_tokens(greedy: Traced, target: TargetSpec) -> None:
    after = cut(greedy.decoder, target=target)
    for case in ("prefill", "two", "decode"):
        inputs = feeds(greedy.decoder, greedy.plan, CASES[case])
        plain, other = run(greedy.decoder, inputs), run(after, inputs)
        for layer in range(3):
            np.testing.assert_array_equal(other[f"kept_indices.{layer}"], plain[f"kept_indices.{layer}"])
        np.testing.assert_allclose(other["logits"], plain["logits"], atol=2e-4)
        if case == "two":
            assert all((plain[name][:, 0] != plain[name][:, 1]).any() for name in plain if "kept" in name)


def test_in_place_caches_take_it(greedy: Traced) -> None:
    onnx.checker.check_model(cut(greedy.decoder, target=INPLACE, text_capacity=16))


def test_engines_parse_the_rounds(greedy: Traced) -> None:
    pytest.importorskip("tensorrt_rtx", reason="pip install 'luvc-export[rtx]' to build engines")
    from test_rtx import Log, parse

    for target in (RTX, TRT103):
        log = Log()
        _, network, errors = parse(cut(greedy.decoder, target=target).SerializeToString(), log)
        assert not errors and network.num_outputs == len(greedy.decoder.graph.output)
