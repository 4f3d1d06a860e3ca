"""Engines for one and 16 conversations of a short model, built here with TensorRT-RTX: weights are held once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from luvc_export.core import graph_io
from luvc_export.engines import builder
from luvc_export.engines.install import PreparedBuild
from luvc_export.errors import PlanError
from luvc_export.pipeline import prepare_build

#: A plan for so many rows is at most so many times one row's.
MOST = 1.05
BATCHES = (1, 16)


def decoder(prepared: PreparedBuild, output: Path) -> builder.Built:
    """The decoder engine; the vision engine knows no rows."""
    options = prepared.options
    return builder.build(prepared.graphs[1], output, prepared.target, prepared.capacity, options)


def test_plans_of_1_and_16_rows_hold_the_weights_once(short_bundle: Any, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="pip install 'luvc-export[rtx]'")
    sizes: dict[int, int] = {}
    for batch in BATCHES:
        prepared = prepare_build(short_bundle, "rtx-ada", "thirds", precision="fp16", batch=batch)
        built = decoder(prepared, tmp_path / "decoder.engine")
        (profile,) = built.profiles
        for name in (graph_io.INPUT_IDS, graph_io.PAST_TEXT, graph_io.PAST_GROUPS, "past_key_values.0.key"):
            assert (profile.minimum[name][0], profile.maximum[name][0]) == (1, batch)
        caches = [item.shape for item in built.inputs if item.name.startswith("past_key_values")]
        assert all(shape[0] == -1 and shape[2] > 0 for shape in caches)
        assert built.activation_bytes is not None
        assert 0 < built.activation_bytes <= prepared.footprint.activations <= 3 * built.activation_bytes
        sizes[batch] = (tmp_path / "decoder.engine").stat().st_size
    print({batch: round(size / sizes[1], 4) for batch, size in sizes.items()})
    assert all(size <= MOST * sizes[1] for size in sizes.values()), sizes


@pytest.mark.slow(beside="engines/test_build_batch.py::test_plans_of_1_and_16_rows_hold_the_weights_once")
def test_joined_caches_of_a_batch_are_built_too(short_bundle: Any, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="pip install 'luvc-export[rtx]'")
    prepared = prepare_build(short_bundle, "rtx-ada", "thirds", kv="concat", batch=4)
    built = decoder(prepared, tmp_path / "decoder.engine")
    assert built.profiles[0].maximum["past_key_values.0.key"][0] == 4


@pytest.mark.slow(beside="engines/test_build_batch.py::test_plans_of_1_and_16_rows_hold_the_weights_once")
def test_rows_are_in_the_prediction_and_not_in_the_graph(short_bundle: Any) -> None:
    """Nothing is built, so no library is needed. A batch that does not fit names the largest that does."""
    target = "jetson-agx-orin-jp62"
    one, four = (prepare_build(short_bundle, target, "thirds", batch=batch) for batch in (1, 4))
    assert [graph.data for graph in one.graphs] == [graph.data for graph in four.graphs], "one graph for any batch"
    assert four.footprint.weights == one.footprint.weights
    assert one.kv == "concat" and four.footprint.kv == one.footprint.kv // 2 * (4 * 2 + 1)
    assert four.footprint.activations > one.footprint.activations
    have = (four.footprint.running + 1) / 2**30
    with pytest.raises(PlanError, match=r"does not fit on the target(.|\n)*fix: --batch 4 fits$"):
        prepare_build(short_bundle, target, "thirds", batch=64, device_memory_gib=have)
