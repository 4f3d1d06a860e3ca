"""Weights that a checkpoint stores in 16 bits stay so until they are packed for their product.

OpenVINO folds Constant -> Convert -> product into an fp32 constant when it compiles, and packs that as bf16 at the
first run: a model stored in bf16 then takes three times its size beside the file. A conversion marked as decompression,
which is what the library's own converter writes for weights in 16 bits (``mark_as_decompression``), is not folded:
products are packed from what the file maps.
"""

from __future__ import annotations

from typing import Any

_MARK = "decompression_0"
#: Vectors stay as they are: what recognises norms looks for constants.
_LEAST_RANK = 2


def keep_narrow(library: Any, model: Any) -> int:
    """Mark what widens weights of two axes or more; returns how many. Numbers stay the same.

    Args:
        library: ``openvino``.
        model: Changed.
    """
    narrow, marked = (library.Type.bf16, library.Type.f16), 0
    for node in model.get_ops():
        if node.get_type_name() != "Convert" or node.get_element_type() != library.Type.f32:
            continue
        stored = node.input_value(0)
        if stored.get_node().get_type_name() != "Constant" or stored.get_element_type() not in narrow:
            continue
        if len(stored.get_shape()) >= _LEAST_RANK:
            node.get_rt_info()[_MARK] = True
            marked += 1
    return marked
