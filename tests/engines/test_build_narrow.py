"""Engines of bundles in 16 bits: graphs of every kind of target, which their parsers take, in the bundle's own type."""

from __future__ import annotations

import onnx
import pytest

from luvc_export.bundle.folder import Bundle
from luvc_export.engines import targets
from luvc_export.errors import UsageError
from luvc_export.pipeline import prepare_build

RTX = "rtx-ada"


def _kinds() -> list[str]:
    """The first target of each dialect, opset and form of caches, of those that engines are built for."""
    first: dict[object, str] = {}
    for name in targets.names():
        target = targets.find(name)
        if not target.graphs and target.library.backend in ("tensorrt", "tensorrt_rtx"):
            first.setdefault((target.library.backend, target.spec.dialect, target.spec.opset, target.spec.kv), name)
    return [*first.values()]


@pytest.mark.parametrize("target", _kinds())
def test_targets_that_do_not_read_the_precision_of_softmax_are_not_told_it(narrow_bundle: Bundle, target: str) -> None:
    """A bundle's graphs say it, for ONNX Runtime; these pass lint, types and all."""
    own = onnx.load_model_from_string(narrow_bundle.read(narrow_bundle.entry("thirds").decoder))
    assert any(_softmax(own)), "nothing to leave out"
    prepared = prepare_build(narrow_bundle, target, "thirds")
    assert prepared.precision == narrow_bundle.manifest.dtype
    for graph in prepared.graphs:
        assert not any(_softmax(onnx.load_model_from_string(graph.data)))


def _softmax(model: onnx.ModelProto) -> list[bool]:
    return ["softmax_precision" in {one.name for one in node.attribute} for node in model.graph.node]


def test_the_parser_takes_them(narrow_bundle: Bundle) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="pip install 'luvc-export[rtx]' to build engines")
    for graph in prepare_build(narrow_bundle, RTX, "thirds").graphs:
        logger = trt.Logger(trt.Logger.ERROR)
        network = trt.Builder(logger).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        parser.parse(graph.data, str(graph.folder / graph.name))
        assert not [parser.get_error(index).desc() for index in range(parser.num_errors)]


def test_another_precision_is_refused(narrow_bundle: Bundle) -> None:
    dtype = narrow_bundle.manifest.dtype
    for other in {"fp32", "fp16", "bf16"} - {dtype}:
        with pytest.raises(UsageError, match=rf"in 16 bits(.|\n)*--precision {other}(.|\n)*leave --precision out"):
            prepare_build(narrow_bundle, RTX, "thirds", precision=other)  # type: ignore[arg-type]
