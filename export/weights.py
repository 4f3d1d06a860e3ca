"""Weights of traced graphs: stand-ins while tracing, then references into one file or into the checkpoint.

Tracing never sees a value. Parameters become one zero shown in their shape (stride 0), so memory does not grow with
the checkpoint; afterwards every initializer is pointed at the bytes of its tensor.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from luvc_export.bundle.manifest import WeightTensor
from luvc_export.core.element_types import BY_NAME, BY_PRECISION, BY_SAFETENSORS, ElementType
from luvc_export.core.files.safe_files import create, open_regular
from luvc_export.errors import CheckpointError, LuvcError, UsageError
from luvc_export.export.checkpoint import Checkpoint, StoredTensor
from luvc_export.export.stored.base import StoredLinear

T = TypeVar("T")

WEIGHTS_FILE = "weights"
#: TensorRT and memory mapping like page-aligned tensors (the ONNX external-data text recommends 4,096).
ALIGNMENT = 4096

DTYPES = {name: getattr(torch, BY_PRECISION[name].name) for name in ("fp32", "fp16", "bf16")}
#: Stored so, a copy holds them in fp32, as which transformers loads them where a graph computes in it.
WIDE = "F64"
#: Numbers of two tensors that are compared in one go.
_AT_A_TIME = 2**22
#: Types of safetensors files that a checkpoint may hold its weights in.
_STORED = (*(BY_PRECISION[name].safetensors for name in DTYPES), WIDE)


@dataclass(frozen=True)
class Skeleton:
    """A model without weights. ``names`` gives the checkpoint's own name of a parameter by ``id``."""

    model: nn.Module
    names: dict[int, str]


def skeleton(checkpoint: Checkpoint, dtype: str, head: bool = True) -> Skeleton:
    """The checkpoint's model in ``dtype`` (fp32, fp16, bf16) with stand-ins for weights.

    Buffers that checkpoints hold are parameters here: they are tensors like others. Without ``head`` there is none over
    the vocabulary, and the checkpoint needs none.

    Raises:
        CheckpointError: The checkpoint lacks tensors of the model, or its config names what transformers does not know.
    """
    try:
        with torch.device("meta"):
            model = checkpoint.family.build(checkpoint.config).eval()
        model.tie_weights()  # type: ignore[operator]
        if not head:
            model.lm_head = nn.Identity()
            model.all_tied_weights_keys.pop("lm_head.weight", None)  # type: ignore[operator, union-attr]
    except LuvcError:
        raise
    except Exception as error:  # such as KeyError, for a rope_type or hidden_act that nobody knows
        raise CheckpointError(
            "transformers makes no model of this config",
            where=f"{checkpoint.folder}: config.json",
            got=f"{type(error).__name__}: {str(error)[:300]}",
            fix="download the checkpoint again",
        ) from error
    _untie(model, checkpoint, DTYPES[dtype])
    stand_ins: dict[int, nn.Parameter] = {}
    replaced: list[nn.Parameter] = []  # kept, as another object would take the id of one that is gone
    names: dict[int, str] = {}
    for module_name, module in model.named_modules():
        for name in [name for name in module._buffers if name not in module._non_persistent_buffers_set]:
            if not module._buffers[name].dtype.is_floating_point:  # how often a norm was trained, which nothing reads
                module._buffers[name] = torch.zeros_like(module._buffers[name], device="cpu")
                continue
            module.register_parameter(name, nn.Parameter(module._buffers.pop(name), requires_grad=False))
        for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            replaced.append(parameter)
            if id(parameter) not in stand_ins:
                zero = torch.zeros((), dtype=DTYPES[dtype]).expand(parameter.shape)
                stand_in = nn.Parameter(zero, requires_grad=False)
                stand_ins[id(parameter)] = stand_in
                names[id(stand_in)] = f"{module_name}.{name}" if module_name else name
            setattr(module, name, stand_ins[id(parameter)])
    if checkpoint.tensors:
        _require(model, names, checkpoint)
    return Skeleton(model, names)


def stored(model: nn.Module, checkpoint: Checkpoint) -> dict[str, StoredTensor]:
    """The checkpoint's tensors by the name the model uses; transformers' own renaming rules apply.

    What a skeleton still ties is there once, under the name of the embedding, whichever of the two is stored.
    """
    return _once(model, renamed(model, checkpoint.tensors))


def quantised(model: nn.Module, checkpoint: Checkpoint) -> dict[str, StoredLinear]:
    """The checkpoint's quantised modules by the name the model uses for their weights."""
    return _once(model, _linears(model, checkpoint))


def _linears(model: nn.Module, checkpoint: Checkpoint) -> dict[str, StoredLinear]:
    linears = checkpoint.stored.linears if checkpoint.stored else ()
    return renamed(model, {f"{linear.name}.weight": linear for linear in linears})


def _once(model: Any, weights: dict[str, T]) -> dict[str, T]:
    for target, source in model.all_tied_weights_keys.items():
        if target in weights:
            tied = weights.pop(target)
            weights.setdefault(source, tied)
    return weights


def _untie(model: Any, checkpoint: Checkpoint, dtype: torch.dtype) -> None:
    """Give what the config ties, and the checkpoint stores twice with other values, a parameter of its own.

    As transformers does when it loads the folder in ``dtype``: values are compared, not names.
    """
    weights: dict[str, StoredTensor | StoredLinear] = {
        **renamed(model, checkpoint.tensors),
        **_linears(model, checkpoint),
    }
    for target, source in list(model.all_tied_weights_keys.items()):
        if target in weights and source in weights and not _alike(weights[target], weights[source], dtype):
            module, _, name = target.rpartition(".")
            own = torch.empty_like(model.get_parameter(target))
            setattr(model.get_submodule(module), name, nn.Parameter(own, requires_grad=False))
            del model.all_tied_weights_keys[target]


def _alike(one: StoredTensor | StoredLinear, other: StoredTensor | StoredLinear, dtype: torch.dtype) -> bool:
    """Whether two weights are the same once they are of ``dtype``; codes are like nothing."""
    if isinstance(one, StoredLinear) or isinstance(other, StoredLinear) or one.shape != other.shape:
        return False
    if not {one.dtype, other.dtype} <= {*_STORED}:
        return False
    pairs = zip(_numbers(one, dtype), _numbers(other, dtype), strict=True)
    return all(torch.equal(left, right) for left, right in pairs)


def _numbers(tensor: StoredTensor, dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """The numbers of a tensor in ``dtype``, flat, some millions at a time."""
    kind: torch.dtype = getattr(torch, BY_SAFETENSORS[tensor.dtype].name)
    with open_regular(tensor.file, links=True) as file:
        file.seek(tensor.offset)
        for begin in range(0, tensor.bytes, step := _AT_A_TIME * kind.itemsize):
            data = file.read(min(step, tensor.bytes - begin))
            yield torch.frombuffer(bytearray(data), dtype=kind).to(dtype)


def renamed(model: nn.Module, tensors: Mapping[str, T]) -> dict[str, T]:
    """What the checkpoint's names stand for, by the model's; names that the model has not are left out."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if not isinstance(rule, WeightRenaming)]
    wanted = model.state_dict()
    prefix = getattr(model, "base_model_prefix", None)
    by_name: dict[str, Any] = {}
    for key, tensor in tensors.items():
        name, pattern = rename_source_key(key, renamings, converters, prefix, wanted)
        if pattern is None and name in wanted:
            by_name[name] = tensor
        elif pattern is not None and isinstance(tensor, StoredTensor):
            rule = next(rule for rule in converters if pattern in rule.source_patterns)
            by_name |= {part: one for part, one in _parts(name, rule, tensor).items() if part in wanted}
    return by_name


def _parts(name: str, rule: Any, tensor: StoredTensor) -> dict[str, StoredTensor]:
    """What ``rule`` of transformers cuts a tensor into along its first axis, as the parts lie one after another.

    ``name`` is the first part's. Nothing where the rule does something else.
    """
    from transformers.core_model_loading import Chunk

    targets, (operation, *more) = rule.target_patterns, rule.operations
    cuts = isinstance(operation, Chunk) and operation.dim == 0 and operation.num_shards_attribute is None
    alone = not more and len(rule.source_patterns) == 1 and targets[0] in name
    if not cuts or not alone or tensor.shape[0] % len(targets):
        return {}
    size, shape = tensor.bytes // len(targets), (tensor.shape[0] // len(targets), *tensor.shape[1:])
    return {
        name.replace(targets[0], target): replace(tensor, offset=tensor.offset + at * size, bytes=size, shape=shape)
        for at, target in enumerate(targets)
    }


def _require(model: nn.Module, names: dict[int, str], checkpoint: Checkpoint) -> None:
    weights: dict[str, StoredTensor | StoredLinear] = {**stored(model, checkpoint), **quantised(model, checkpoint)}
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters() if id(parameter) in names}
    missing = sorted(name for name in shapes if name not in weights)
    if missing:
        raise CheckpointError(
            "the checkpoint lacks tensors of its model",
            where=str(checkpoint.folder),
            got=f"{len(missing)} missing, first {missing[0]}",
            fix="download the checkpoint again",
        )
    for name, shape in shapes.items():
        one = weights[name]
        if isinstance(one, StoredLinear):
            where, kind, fits = str(checkpoint.folder), f"{one.bits}-bit codes", True
        else:
            where, kind, fits = str(one.file), one.dtype, one.dtype in _STORED
        if one.shape != shape or not fits:
            raise CheckpointError(
                "a tensor of the checkpoint does not fit its config",
                where=f"{where}: {name}",
                got=f"{kind} {one.shape}",
                expected=f"{' or '.join(_STORED)} {shape}",
            )


def copy_plan(tensors: dict[str, StoredTensor]) -> dict[str, WeightTensor]:
    """Places of ``tensors`` in one flat file, page-aligned, sorted by name."""
    placed, offset = {}, 0
    for name, tensor in sorted(tensors.items()):
        kept = _kept(tensor)
        size = tensor.bytes * kept.itemsize // BY_SAFETENSORS[tensor.dtype].itemsize
        placed[name] = WeightTensor(WEIGHTS_FILE, offset, size, kept.name, tensor.shape)
        offset += -(-size // ALIGNMENT) * ALIGNMENT
    return placed


def _kept(tensor: StoredTensor) -> ElementType:
    """The type of a tensor's copy."""
    return BY_PRECISION["fp32"] if tensor.dtype == WIDE else BY_SAFETENSORS[tensor.dtype]


def write_copy(
    folder: Path, tensors: dict[str, StoredTensor], placed: dict[str, WeightTensor], progress: Callable[[int], None]
) -> None:
    """Write the weights file; ``progress`` is told the bytes of each tensor when it is done."""
    with create(folder / WEIGHTS_FILE) as out:
        for name, place in placed.items():
            out.seek(place.offset)
            with open_regular(tensors[name].file, links=True) as source:
                for offset, left in _spans(tensors[name]):
                    source.seek(offset)
                    while left:
                        chunk = source.read(min(left, 2**24))
                        if not chunk:
                            raise CheckpointError("a weight file ended early", where=str(tensors[name].file))
                        left -= len(chunk)
                        if tensors[name].dtype == WIDE:
                            with np.errstate(over="ignore"):
                                chunk = np.frombuffer(chunk, "<f8").astype("<f4").tobytes()
                        out.write(chunk)
            progress(place.bytes)
        out.flush()
        os.fsync(out.fileno())


def _spans(tensor: StoredTensor) -> list[tuple[int, int]]:
    """Where the bytes of a tensor lie in its file, and how many: in one piece, or rows of it that follow each other."""
    if tensor.rows is None:
        return [(tensor.offset, tensor.bytes)]
    row, spans = tensor.bytes // len(tensor.rows), list[tuple[int, int]]()
    for number in tensor.rows:
        begin = tensor.offset + number * row
        if spans and sum(spans[-1]) == begin:
            spans[-1] = (spans[-1][0], spans[-1][1] + row)
        else:
            spans.append((begin, row))
    return spans


def reference_plan(folder: Path, tensors: dict[str, StoredTensor]) -> dict[str, WeightTensor]:
    """Places of ``tensors`` in the checkpoint's own files.

    Raises:
        UsageError: One is stored in F64, which back-ends do not read.
    """
    if wide := [name for name, tensor in sorted(tensors.items()) if tensor.dtype == WIDE]:
        raise UsageError(
            f"weights stored in {WIDE} are copied in fp32, not read where they lie",
            where="--weights reference",
            got=f"{len(wide)} of {len(tensors)} tensors, first {wide[0]}",
            fix="leave --weights out",
        )
    return {
        name: WeightTensor(
            t.file.relative_to(folder).as_posix(), t.offset, t.bytes, BY_SAFETENSORS[t.dtype].name, t.shape
        )
        for name, t in sorted(tensors.items())
    }


def detach(model: ir.Model, module: nn.Module, names: dict[int, str]) -> list[ir.Value]:
    """Turn the initializers of ``module``'s parameters into graph inputs named as in the checkpoint.

    As inputs they have no value that an optimiser could fold. Uses of a tied parameter are joined.
    """
    parameters = dict(module.named_parameters(remove_duplicate=False))
    weights: dict[str, ir.Value] = {}
    for name in [name for name in model.graph.initializers if name in parameters]:
        value = model.graph.initializers.pop(name)
        wanted = names[id(parameters[name])]
        value.const_value = None
        if wanted in weights:
            value.replace_all_uses_with(weights[wanted])
            continue
        value.name = wanted
        weights[wanted] = value
        model.graph.inputs.append(value)
    return list(weights.values())


def attach(model: ir.Model, weights: Iterable[ir.Value], placed: dict[str, WeightTensor]) -> None:
    """Turn ``detach``'s inputs back into initializers, external at their place; a Cast bridges another stored dtype.

    Of a table whose rows are looked up and which nothing else reads, the rows are cast: the table is mapped as it lies.

    Without a place (``--no-weights``) the tensor keeps its dtype and points past the end of a file that is not there.
    """
    for value in weights:
        model.graph.inputs.remove(value)
        if not value.uses():
            continue
        name, dtype = str(value.name), value.dtype
        place = placed.get(name)
        shape = ir.Shape([int(d) for d in value.shape])  # type: ignore[union-attr, arg-type]
        assert dtype is not None
        in_file = dtype if place is None else ir.DataType(BY_NAME[place.dtype].onnx)
        bytes_ = int(torch.Size(shape.numpy()).numel() * in_file.itemsize) if place is None else place.bytes
        tensor = ir.ExternalTensor(
            place.file if place else WEIGHTS_FILE, place.offset if place else 0, bytes_, in_file, shape=shape, name=name
        )
        if in_file == dtype:
            value.const_value = tensor
            model.graph.register_initializer(value)
            continue
        raw = ir.Value(name=name, shape=shape, type=ir.TensorType(in_file), const_value=tensor)
        if all(
            node.op_type == "Gather" and place == 0 and node.attributes.get_int("axis", 0) == 0
            for node, place in value.uses()
        ):
            for node, _ in list(value.uses()):
                _cast_rows(model, node, raw, dtype)
            model.graph.register_initializer(raw)
            continue
        value.name = f"{name}.{str(dtype).lower()}"
        cast = ir.node("Cast", [raw], attributes={"to": int(dtype)}, outputs=None, name=f"cast.{name}")
        cast.outputs[0].name, cast.outputs[0].type, cast.outputs[0].shape = value.name, ir.TensorType(dtype), shape
        value.replace_all_uses_with(cast.outputs[0])
        model.graph.register_initializer(raw)
        model.graph.insert_before(model.graph[0], cast)


def _cast_rows(model: ir.Model, node: ir.Node, table: ir.Value, dtype: ir.DataType) -> None:
    """Let a Gather read ``table`` and cast what it takes."""
    rows = node.outputs[0]
    taken = ir.node("Gather", [table, node.inputs[1]], attributes={"axis": 0}, name=f"rows.{node.name}")
    taken.outputs[0].name, taken.outputs[0].shape = f"{rows.name}.stored", rows.shape
    taken.outputs[0].type = ir.TensorType(table.dtype)  # type: ignore[arg-type]
    cast = ir.node("Cast", taken.outputs, attributes={"to": int(dtype)}, name=f"cast.{node.name}")
    cast.outputs[0].type, cast.outputs[0].shape = ir.TensorType(dtype), rows.shape
    rows.replace_all_uses_with(cast.outputs[0])
    model.graph.insert_before(node, [taken, cast])
    name = rows.name
    model.graph.remove(node, safe=True)
    cast.outputs[0].name = name


def used(model: Any) -> set[str]:
    """Names of the external tensors a graph uses."""
    return {
        name for name, value in model.graph.initializers.items() if isinstance(value.const_value, ir.ExternalTensor)
    }
