"""Rewrites for OpenVINO's CPU plug-in: what it would compute otherwise than ONNX says, or in more memory."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any


def choose_first_of_equals(library: Any, model: Any) -> int:
    """Make every TopK by value stable: of equal scores the first is chosen; returns how many.

    So ONNX defines TopK, and ONNX Runtime and torch here choose so. OpenVINO's reader of ONNX leaves its TopK free to
    take any (``stable`` is false), and its CPU plug-in does: on pictures with padding or of one colour, where scores
    tie, it kept other tokens.

    Args:
        library: ``openvino``.
        model: Changed.
    """
    count = 0
    for node in model.get_ops():
        if node.get_type_name() != "TopK":
            continue
        stated = node.get_attributes()
        if stated.get("stable", False) or stated["sort"] != "value":
            continue
        parts = [stated[name] for name in ("axis", "mode", "sort", "index_element_type")]
        stable = library.opset13.topk(node.input_value(0), node.input_value(1), *parts, stable=True)
        stable.set_friendly_name(node.get_friendly_name())
        for number in range(2):
            node.output(number).replace(stable.output(number))
        count += 1
    return count


def restore_empty(library: Any, model: Any, names: frozenset[str]) -> None:
    """Give constants ``names`` their size [0] back, which OpenVINO's reader of ONNX takes for a scalar's.

    What gathers rows by such a constant gathers none; by a scalar it gathered one, and lost an axis.
    """
    for node in model.get_ops():
        if node.get_type_name() == "Constant" and not names.isdisjoint(node.output(0).get_names()):
            nothing = library.Tensor(node.get_element_type(), library.Shape([0]))
            node.output(0).replace(library.op.Constant(nothing, True).output(0))


def say_sizes_of_nothing(library: Any, model: Any) -> int:
    """Write every Unsqueeze of a tensor that holds nothing as a Broadcast to sizes that are said; returns how many.

    The CPU plug-in computes an Unsqueeze as a Reshape to ``[-1, 1, 0]`` where one size is known to be 0: of a tensor of
    no numbers -1 can be any size, it takes 0, and a batch is lost without a word (OpenVINO 2026.4). Layers that keep a
    state and that no visual token enters, as LFM2's last one, put text behind such a tensor, and answered wrong.

    Args:
        library: ``openvino``.
        model: Changed.
    """
    count, op = 0, library.opset13
    for node in model.get_ordered_ops():
        sizes = node.get_output_partial_shape(0) if node.get_type_name() == "Unsqueeze" else None
        if sizes is None or sizes.rank.is_dynamic or sizes.is_static:
            continue
        known = [None if size.is_dynamic else size.get_length() for size in sizes]
        if 0 not in known:
            continue
        axes = node.input_value(1).get_node()
        if axes.get_type_name() != "Constant":
            continue
        added = {int(axis) % len(known) for axis in axes.data.ravel()}
        places = iter(range(len(known)))
        own, one = op.shape_of(node.input_value(0)), op.constant([1], library.Type.i64)
        zero = op.constant(0, library.Type.i64)
        parts = [
            one if at in added else op.gather(own, op.constant([next(places)], library.Type.i64), zero)
            for at in range(len(known))
        ]
        number = op.constant(0, node.get_output_element_type(0))  # none of them comes to be
        empty = op.broadcast(number, op.concat(parts, 0))
        empty.set_friendly_name(node.get_friendly_name())
        node.output(0).replace(empty.output(0))
        count += 1
    return count


def is_one(threads: int | None) -> bool:
    """Whether a call runs on one thread: asked for, or because this process has one core."""
    if threads is not None:
        return threads == 1
    return len(os.sched_getaffinity(0)) == 1 if hasattr(os, "sched_getaffinity") else os.cpu_count() == 1


def keep_products_apart(library: Any, model: Any) -> int:
    """Put a clamp without limits before the last product of every gated MLP; returns how many.

    For one thread on a CPU with AMX: OpenVINO's fused MLP divides by half the number of threads, and ends the process.
    ``LinearKsplit2::setup`` in the CPU plug-in gives every two threads a share of the columns; one thread is no pair
    (openvino issue 28550, still there in 2026.4; SIGFPE on a Xeon with AMX). Where one thread is all there is, the
    pattern is interrupted, so that the three products run as they do on CPUs without that kernel.

    Args:
        library: ``openvino``.
        model: Changed.
    """
    count = 0
    for product in model.get_ordered_ops():
        if product.get_type_name() != "MatMul":
            continue
        gated = _behind_converts(product.input_value(0).get_node())
        factors = [_behind_converts(value.get_node()).get_type_name() for value in gated.input_values()]
        if gated.get_type_name() == "Multiply" and "MatMul" in factors:  # up, and the gate's activation
            free = library.opset13.clamp(product.input_value(0), float("-inf"), float("inf"))
            product.input(0).replace_source_output(free.output(0))
            count += 1
    model.validate_nodes_and_infer_types()
    return count


def _behind_converts(node: Any) -> Any:
    while node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return node


def widen_beside_codes(library: Any, model: Any) -> int:
    """Let a graph in bf16 whose activations become codes compute in fp32; returns how many values are widened.

    Where a CPU has bf16 the plug-in leaves that type in such a graph (elsewhere it widens it so itself), and what moves
    scales of codes behind their products makes fp32 of a value that joins a cache in bf16: "Argument element types are
    inconsistent" (OpenVINO 2026.4), of every model whose values have no bias. In ``bf16`` products without codes are
    narrowed as those of a graph in fp32 are.

    Args:
        library: ``openvino``.
        model: Changed; its inputs and outputs in bf16 become fp32.
    """
    narrow, wide, count = library.Type.bf16, library.Type.f32, 0
    nodes = model.get_ordered_ops()
    if not any(node.get_type_name() == "FakeQuantize" for node in nodes):
        return 0
    for node in nodes:
        kind = node.get_type_name()
        if kind not in ("Parameter", "Constant", "Convert") or node.get_output_element_type(0) != narrow:
            continue
        if kind == "Parameter":
            node.set_element_type(wide)
        elif kind == "Convert":
            node.set_destination_type(wide)
        else:
            readers = node.output(0).get_target_inputs()
            widened = library.opset13.convert(node, wide).output(0)
            for reader in readers:
                reader.replace_source_output(widened)
        count += 1
    model.validate_nodes_and_infer_types()
    return count


_MARK = "decompression_0"
#: Vectors stay as they are: what recognises norms looks for constants.
_LEAST_RANK = 2


def keep_narrow(library: Any, model: Any) -> int:
    """Mark what widens weights of two axes or more that are stored in 16 bits; returns how many. Numbers stay the same.

    OpenVINO folds Constant -> Convert -> product into an fp32 constant when it compiles, and packs that as bf16 at the
    first run: a model stored in bf16 then takes three times its size beside the file. A conversion marked as
    decompression, which is what the library's own converter writes for weights in 16 bits
    (``mark_as_decompression``), is not folded: products are packed from what the file maps.

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


def read_in_place(library: Any, model: Any, stored: Collection[int]) -> dict[str, Any]:
    """Make weights of products inputs of the model, so that nothing packs them: a tensor for each, by its name.

    For bf16 on a CPU with AMX. A product with a constant is packed at the first run, once more than the file's pages.
    One whose weight [N, K] is an input is read as it lies there: a row of activations goes along rows of weights, which
    is how memory is read soonest, and for many rows the plug-in packs a block at a time. Two to some thirty rows pay
    for that packing and do not gain by it (``benchmarks/measure/openvino/gated_mlp.py``).

    Args:
        library: ``openvino``.
        model: Changed.
        stored: Addresses of the weights that outlive the model; others stay constants.
    """
    tensors: dict[str, Any] = {}
    parameters: list[Any] = []
    for product in model.get_ordered_ops():
        if product.get_type_name() != "MatMul":
            continue
        chain = [product.input_value(1).get_node()]
        while chain[-1].get_type_name() in ("Convert", "Transpose"):
            chain.append(chain[-1].input_value(0).get_node())
        constant, turns = chain[-1], sum(node.get_type_name() == "Transpose" for node in chain)
        turns += product.get_attributes()["transpose_b"]
        if constant.get_type_name() != "Constant" or constant.get_element_type() != library.Type.bf16:
            continue
        tensor = constant.get_tensor_view()
        if turns != 1 or len(tensor.shape) != _LEAST_RANK or tensor.data.ctypes.data not in stored:
            continue
        name, kind = f"weights.{len(tensors)}", product.input_value(1).get_element_type()
        parameter = library.opset13.parameter(list(tensor.shape), library.Type.bf16, name=name)
        parameter.output(0).get_tensor().set_names({name})
        weight = parameter if kind == library.Type.bf16 else library.opset13.convert(parameter, kind)
        apart = library.opset13.matmul(product.input_value(0), weight, False, True)
        apart.set_friendly_name(product.get_friendly_name())
        product.output(0).replace(apart.output(0))
        tensors[name] = tensor
        parameters.append(parameter)
    model.add_parameters(parameters)
    model.validate_nodes_and_infer_types()
    return tensors


_CHOICE = "TopK"


def choices(model: Any) -> list[Any]:
    """Where a vision graph chooses rows, in order; none in graphs that keep all."""
    return [node for node in model.get_ordered_ops() if node.get_type_name() == _CHOICE]


def rotate_apart(library: Any, model: Any) -> int:
    """Interrupt every rotation by cosines that a choice decides, show that choice; returns how many sums changed.

    After a prune in the encoder rotary cosines are gathered by what was kept, and after a merge they are made of the
    places of what was merged. So the plug-in, which keeps in fp32 everything that cosines are made of, would compute
    every product above in fp32 (see ``islands``): with merges after every eighth of 32 blocks, three quarters of the
    encoder. It knows a rotation by its pattern: where cosines are made of a choice, the pattern is interrupted by a
    clamp without limits.

    Scores must stay exact all the same: in bf16 near units would tie, and the first ones win. The choices become
    outputs of the model, which nobody reads: what lies between the last products and an integer output stays in fp32.

    Args:
        library: ``openvino``.
        model: A vision graph, changed; decoders are narrowed by ``islands``.
    """
    chosen = choices(model)
    if not chosen:
        return 0
    below = _below(chosen)
    count = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() not in ("Add", "Subtract"):
            continue
        halves = [value.get_node() for value in node.input_values()]
        if all(half.get_type_name() == "Multiply" for half in halves) and _gathered(halves[0], below):
            free = library.opset13.clamp(node.input_value(0), float("-inf"), float("inf"))
            node.input(0).replace_source_output(free.output(0))
            count += 1
    if count:
        model.add_results([library.opset13.result(chosen[0].output(1))])
        model.validate_nodes_and_infer_types()
    return count


def _gathered(product: Any, below: set[str]) -> bool:
    """Whether a product is of half a head and of cosines that a choice decides."""
    factors = [value.get_node() for value in product.input_values()]
    kinds = [factor.get_type_name() for factor in factors]
    return "VariadicSplit" in kinds and any(
        factor.get_type_name() == "Unsqueeze" and factor.get_name() in below for factor in factors
    )


def _below(nodes: list[Any]) -> set[str]:
    """Names of all nodes downstream of ``nodes``."""
    seen, todo = set[str](), list(nodes)
    while todo:
        node = todo.pop()
        if node.get_name() in seen:
            continue
        seen.add(node.get_name())
        todo += [reader.get_node() for output in node.outputs() for reader in output.get_target_inputs()]
    return seen
