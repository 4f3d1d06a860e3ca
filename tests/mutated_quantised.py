"""Quantised checkpoints, each with one thing wrong: what reading them may end in, and what it must not.

An error of this package is right. A checkpoint that is read all the same must mean what the whole one means, but where
codes, zeros or scales have other values: those are what the file says, and only their sizes can be checked.
"""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import quantised_checkpoint as forms
from numpy.typing import NDArray

from luvc_export.errors import LuvcError
from luvc_export.export import packed, weights
from luvc_export.export.checkpoint import open_checkpoint

_JSON: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    3,
    7,
    48,
    65,
    2**31,
    1e300,
    "",
    "gptq",
    "x" * 300,
    [],
    {},
    [1],
    {"a": 1},
)
#: Other types of as many bytes, by type.
_SAME_SIZE = {
    "I32": ("F32", "U32"), "F32": ("I32",), "F16": ("BF16", "I16"), "I64": ("F64",), "I8": ("U8", "F8_E4M3"),
    "F8_E4M3": ("I8", "U8"),
}  # fmt: skip
_PARTS = (
    "qweight", "qzeros", "scales", "g_idx", "weight_packed", "weight_scale", "weight_shape", "weight_zero_point",
    "weight_scale_inv",
)  # fmt: skip


def originals(folder: Path) -> dict[str, Path]:
    """One checkpoint of each form."""
    for name, (settings, quantise) in forms.FORMS.items():
        forms.write(folder / name, settings, quantise)
    return {name: folder / name for name in forms.FORMS}


def meaning(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Every quantised weight of a checkpoint, read, checked against its model and written as an export does."""
    checkpoint = open_checkpoint(str(folder))
    skeleton = weights.skeleton(checkpoint, "fp32")
    linears = weights.quantised(skeleton.model, checkpoint)
    with tempfile.TemporaryDirectory() as scratch:
        packed.place(Path(scratch), linears, "fp32", lambda done: None)
    with np.errstate(all="ignore"):  # scales of no sense are values too
        return {name: linear.read().widened() for name, linear in linears.items()}


def mutate(folder: Path, rng: random.Random) -> tuple[str, bool]:
    """Break one thing in a checkpoint; what it was, and whether other values than before may be read."""
    kind = rng.choice(("file", "header", "header", "gone", "config", "config", "values", "swapped"))
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    parts = [name for name in header if name.rpartition(".")[2] in _PARTS or header[name]["dtype"] in ("I8", "F8_E4M3")]
    name = rng.choice(parts)
    entry, allowed = header[name], False
    if kind == "file":
        cut = rng.randrange(len(data))
        data = data[:cut]
    elif kind == "header":
        dims = entry["shape"] or [1]
        change = rng.choice(("turn", "flat", "type", "fold"))
        if change == "type" and entry["dtype"] in _SAME_SIZE:
            entry["dtype"] = rng.choice(_SAME_SIZE[entry["dtype"]])
            allowed = {entry["dtype"]} <= {"BF16", "F16", "I8", "F8_E4M3"}
        elif change == "flat":
            entry["shape"] = [int(np.prod(dims))]
        elif change == "fold" and dims[0] % 2 == 0:
            entry["shape"] = [dims[0] // 2, 2 * int(np.prod(dims[1:]))]
        else:
            entry["shape"] = dims[::-1]
        square = entry["shape"] == dims
        allowed = allowed or square
        data = _with(header, data, length)
    elif kind == "gone":
        if name.endswith(("weight_zero_point", "g_idx")):
            allowed = True  # a checkpoint without them is a whole one of another kind
        new = rng.choice((f"{name}.x", name.replace("layers.0", "layers.7").replace("layers.1", "layers.8")))
        header[new] = header.pop(name)
        data = _with(header, data, length)
    elif kind == "config":
        config = json.loads((folder / "config.json").read_text())
        _put(config["quantization_config"], rng)
        (folder / "config.json").write_text(json.dumps(config))
    else:
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        if kind == "values":
            data[begin:end] = rng.randbytes(end - begin)
        else:
            data[begin:end] = data[begin:end][::-1]
        allowed = not name.endswith("weight_shape")
    if kind != "config":
        path.write_bytes(bytes(data))
    return f"{kind} {name}", allowed


def attempt(folder: Path, whole: dict[str, NDArray[np.float32]], seed: int) -> str:
    """Break a copy of a checkpoint and read it: ``refused``, ``the same``, ``other values``, or what is wrong."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(shutil.copytree(folder, Path(scratch) / "model"))
        what, allowed = mutate(copy, rng)
        try:
            read = meaning(copy)
        except LuvcError:
            return "refused"
        except Exception as error:  # which is what is looked for
            return f"WRONG: {what}: {type(error).__name__}: {str(error)[:200]}"
        if read.keys() == whole.keys() and all(
            np.array_equal(read[name], whole[name], equal_nan=True) for name in whole
        ):
            return "the same"
        return "other values" if allowed else f"WRONG: {what}: read to something else"


def _put(settings: dict[str, Any], rng: random.Random) -> None:
    """Put something else at one place of the settings, or take it away."""
    place: Any = settings
    while True:
        key = rng.choice(list(place))
        if isinstance(place[key], dict) and place[key] and rng.random() < 0.7:
            place = place[key]
            continue
        if rng.random() < 0.2:
            del place[key]
        else:
            place[key] = rng.choice(_JSON)
        return


def _with(header: dict[str, Any], data: bytearray, length: int) -> bytearray:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return bytearray(len(text).to_bytes(8, "little") + text + data[8 + length :])
