"""Graphs that call plugins, run by ONNX's reference implementation with the native host library behind the calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from native_kernels import Native, Payload
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from luvc_export.core.operators import DOMAIN

Array = NDArray[Any]


def run_with_kernels(model: onnx.ModelProto, inputs: dict[str, Array], library: Native) -> dict[str, Array]:
    """Outputs by name; float inputs follow the graph's type."""
    evaluator = ReferenceEvaluator(model, new_ops=[*_operators(library)])
    kinds = {item.name: item.type.tensor_type.elem_type for item in model.graph.input}
    half = onnx.TensorProto.FLOAT16
    fed = {name: array.astype(np.float16) if kinds[name] == half else array for name, array in inputs.items()}
    return dict(zip(evaluator.output_names, evaluator.run(None, fed), strict=True))


def _operators(library: Native) -> list[type[OpRun]]:
    class SpectrumPrune(OpRun):
        op_domain = DOMAIN

        def _run(
            self,
            values: Array,
            norm_weight: Array,
            basis: Array,
            *payloads: Array,
            keep: int,
            score: str,
            epsilon: float,
            token_axes: Sequence[int] = (),
            padding_payload: int = -1,
            plugin_namespace: str,
            plugin_version: str,
        ) -> tuple[Array, ...]:
            groups, _, channels = values.shape
            kept = np.empty((groups, keep, channels), values.dtype)
            indices = np.empty((groups, keep), np.int64)
            carried = []
            for source, axis in zip(payloads, token_axes, strict=True):
                shape = (*source.shape[:axis], keep, *source.shape[axis + 1 :])
                carried.append(Payload(_dense(source), np.empty(shape, source.dtype), axis))
            if groups:  # the library takes no empty tensor
                arrays = map(_dense, (values, norm_weight, basis))
                places = None if padding_payload < 0 else _dense(payloads[padding_payload])
                library.spectrum_prune(
                    *arrays, kept, indices, score=score, epsilon=epsilon, places=places, payloads=carried
                )
            return kept, indices, *(payload.target for payload in carried)

    class OrthogonalMerge(OpRun):
        op_domain = DOMAIN

        def _run(
            self,
            values: Array,
            sizes: Array,
            positions: Array,
            *,
            removed_columns: int,
            removed_rows: int,
            padded: int = 0,
            plugin_namespace: str,
            plugin_version: str,
        ) -> tuple[Array, ...]:
            batch, height, width, channels = values.shape
            grid = (batch, height - removed_rows, width - removed_columns)
            merged = np.empty((*grid, channels), values.dtype)
            state = np.empty(grid, np.float32), np.empty((*grid, positions.shape[3]), np.float32)
            into = np.empty((batch, height * width), np.int32)
            dense = map(_dense, (values, sizes, positions))
            library.orthogonal_merge(*dense, merged, *state, merged_into=into, padded=bool(padded))
            return merged, *state, into.reshape(batch, height, width)

    return [SpectrumPrune, OrthogonalMerge]


def _dense(array: Array) -> Array:
    """A writable copy in row-major order, which DLPack can share."""
    return np.array(array, order="C")
