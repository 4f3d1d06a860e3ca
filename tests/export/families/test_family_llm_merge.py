"""A plan that merges tokens inside the LLM: a bundle like any other, for models that place tokens one after another."""

from __future__ import annotations

import sys
from pathlib import Path

import family_chat
import pytest
from family_questions import small

FAMILY, LAYERS = "internvl", 2


@pytest.mark.slow(beside="calibration/test_scores_export.py::test_onnx_does_what_torch_does")
def test_every_backend_answers_as_torch_does(tmp_path: Path) -> None:
    """On OpenVINO too, which fails on a Transpose of one axis' positions (seen: wrong shapes, once a crash)."""
    sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks" / "measure" / "matrix"))
    import feature_matrix

    tiny = small(FAMILY, LAYERS)
    checkpoint = family_chat.save(tiny, tmp_path / "checkpoint")
    feature = feature_matrix.Feature("merge", (1, 0.5), {"reducer": "merge", "last_layer": "full"})
    plans = feature_matrix.plan_of(feature, "merging", tiny, checkpoint)
    assert plans["merging"].prunes and plans["merging"].chooses == ()
    bundle = feature_matrix.exported(plans, "", tiny, checkpoint, tmp_path / "bundle")
    pytest.importorskip("openvino")
    assert feature_matrix.compared(bundle, "merging", tiny, "")["equal"] == 12
