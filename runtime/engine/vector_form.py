"""What vectors are asked for by name, and the forms they are kept in: float32, float16, int8 with a scale, or bits."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.core.files.safe_files import open_regular
from luvc_export.core.options import choice, option
from luvc_export.errors import CheckFailed, UsageError

if TYPE_CHECKING:
    from luvc_export.bundle.folder import Bundle
    from luvc_export.core.tasks import Embedding

DTYPES = ("float32", "float16", "int8", "binary")


@dataclass(frozen=True, kw_only=True)
class VectorOptions:
    """What is set of vectors, for ``Session.embed``, ``embed``, ``batch`` and ``search``."""

    prompt: str | None = option(None, "One of the bundle's instructions by name.", "--prompt-name", metavar="NAME")
    instruction: str | None = option(None, "An instruction in its own words.", metavar="TEXT")
    dimensions: int | None = option(None, "Numbers of a vector, where the bundle names sizes (Matryoshka).")
    embed_dtype: str = option(
        "float32",
        "Of vectors: float32, float16, int8 (each vector with its scale), or binary (signs, eight a byte).",
        choices=DTYPES,
        metavar="DTYPE",
    )
    pool: int = option(
        1, "Merge a page's many vectors to one for so many: 4 leaves a quarter, alike ones together.", least=1, most=64
    )


def check_options(bundle: Bundle, wanted: VectorOptions) -> str:
    """What stands before an input, where the bundle can do what is set.

    Raises:
        UsageError: It names no such prompt or size; or each token has a vector, whose prompt and size are the model's.
    """
    from luvc_export.runtime.prompt.vector_chat import instruction_of  # opens pictures, which --help does not

    how = bundle.manifest.embedding
    assert how is not None  # ``check_task``
    choice("embed_dtype", wanted.embed_dtype, DTYPES)
    check_pool(bundle, wanted.pool)
    if how.pooling == "every":
        names = [name for name in ("prompt", "instruction", "dimensions") if getattr(wanted, name) is not None]
        if names:
            what, got = "vectors of every token are whole, behind the prompt of the model's processor", ", ".join(names)
            raise UsageError(what, where="embed", got=got, fix="leave it out")
        return ""
    check_size(bundle, wanted.dimensions)
    return instruction_of(how, wanted.prompt) if wanted.instruction is None else wanted.instruction


def check_pool(bundle: Bundle, pool: object) -> None:
    """Refuse to merge one vector, or to no number.

    Raises:
        UsageError: The bundle gives one vector an input, or vectors would merge to one for less than one.
    """
    if type(pool) is not int or pool < 1:
        raise UsageError("vectors merge to one for so many", where="pool", got=repr(pool)[:80], expected="1 or more")
    if pool != 1 and bundle.manifest.does.pooling != "every":
        fix = "leave it out, or take a bundle of the task embed-many"
        raise UsageError("one vector of a page is not merged", where="pool", got=pool, fix=fix)


def check_size(bundle: Bundle, dimensions: int | None) -> None:
    """Refuse sizes that vectors may not be cut to.

    Raises:
        UsageError: The model was not trained for it, as far as its folder says.
    """
    how = bundle.manifest.embedding
    sizes = (*how.sizes, bundle.manifest.row_width) if how is not None else ()
    if dimensions is None or dimensions in sizes:
        return
    no_sizes = "its checkpoint names no Matryoshka sizes (matryoshka_dimensions in config.json)"
    raise UsageError(
        "vectors of this bundle may not be cut to so many numbers",
        where="dimensions",
        got=dimensions,
        expected=", ".join(map(str, sizes)),
        fix=None if sizes[1:] else no_sizes,
    )


def cut(how: Embedding, vectors: NDArray[np.float32], dimensions: int | None) -> NDArray[np.float32]:
    """The first ``dimensions`` numbers of vectors [N, D], of length 1 again where the bundle normalises."""
    if dimensions is None or dimensions == vectors.shape[-1]:
        return vectors
    short = vectors[:, :dimensions]
    if not how.normalise:
        return np.ascontiguousarray(short)
    return np.asarray(short / np.maximum(np.linalg.norm(short, axis=-1, keepdims=True), 1e-12), np.float32)


def layout(dtype: str, numbers: int) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """The numpy type and the shape behind N of vectors of so many numbers; see ``pack``."""
    if dtype == "int8":
        return np.dtype([("scale", "<f4"), ("values", "i1", (numbers,))]), ()
    return (np.dtype("u1"), (-(-numbers // 8),)) if dtype == "binary" else (np.dtype(dtype), (numbers,))


def pack(vectors: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """Vectors in one of ``DTYPES``, as one array that a file can hold and map.

    Args:
        vectors: float32 [N, D].
        dtype: One of ``DTYPES``.

    Returns:
        float32 or float16 [N, D]; of ``int8`` records [N] of ``scale`` float32 and ``values`` int8 [D], whose product
        is the vector; of ``binary`` uint8 [N, ceil(D / 8)], a bit for each number above 0 (``numpy.packbits``).

    Raises:
        UsageError: There is no such type.
        CheckFailed: A number is beyond float16.
    """
    choice("embed_dtype", dtype, DTYPES)
    if dtype == "binary":
        return np.packbits(vectors > 0, axis=-1)
    if dtype == "int8":
        records = np.zeros(len(vectors), layout(dtype, vectors.shape[-1])[0])
        largest = np.abs(vectors).max(-1, initial=0)
        records["scale"] = np.where(largest > 0, largest, 127) / 127
        records["values"] = np.rint(vectors / records["scale"][:, None])
        return records
    with np.errstate(over="ignore"):
        values = np.asarray(vectors, dtype)
    if not np.isfinite(values).all():
        got, expected = f"{np.abs(vectors).max():g}", "at most 65504"
        fix = "choose float32 or int8"
        raise CheckFailed("a vector does not fit float16", where="embed", got=got, expected=expected, fix=fix)
    return values


def values_and_scales(vectors: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
    """Of what ``pack`` gave: the numbers, or their bytes, and of int8 each vector's scale [N]."""
    return (vectors["values"], vectors["scale"]) if vectors.dtype.names else (vectors, None)


def unpack(vectors: NDArray[Any], dtype: str, numbers: int) -> NDArray[np.float32]:
    """float32 [N, D] of what ``pack`` gave; a bit is plus or minus one by the root of D, in a vector of length 1."""
    values, scales = values_and_scales(vectors)
    if scales is not None:
        return np.asarray(values * scales[:, None], np.float32)
    if dtype == "binary":
        return (np.unpackbits(vectors, axis=-1, count=numbers) * np.float32(2) - 1) / np.float32(np.sqrt(numbers))
    return np.asarray(vectors, np.float32)


def map_array(path: Path) -> NDArray[Any]:
    """Map an npy file that a stranger may have written: a regular file, no pickle, no larger or smaller than it says.

    Raises:
        ValueError: It is no such file.
        UsageError: It is a link, a pipe or a device.
        OSError: It is missing or closed to us.
    """
    with open_regular(path) as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"npy version {version}")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        first, size = file.tell(), file.seek(0, io.SEEK_END)
        wanted = dtype.itemsize * int(np.prod(shape, dtype=object))
        if dtype.hasobject or fortran or any(one < 0 for one in shape) or size - first != wanted:
            raise ValueError(f"an array {list(shape)} of {dtype} in {size - first} bytes")
        if not wanted:
            return np.zeros(shape, dtype)
        return np.memmap(file, dtype, "r", first, shape)
