"""A shard's vectors as Parquet, by pyarrow: a row for each, beside the batch's row and id that it is of."""

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib.util import find_spec
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.errors import MachineError
from luvc_export.runtime.engine.vector_form import values_and_scales

#: Bytes of a file around its rows and its footer: the mark at both ends, and the footer's size.
_AROUND = 12


def check_installed() -> None:
    """Refuse where pyarrow is missing.

    Raises:
        MachineError: It is.
    """
    if find_spec("pyarrow") is None:
        what, fix = "Parquet is written by pyarrow, which is not installed", "pip install 'luvc-export[parquet]'"
        raise MachineError(what, where="--vectors-as parquet", fix=f"{fix}; or leave it out: npy")


def write(file: IO[bytes], vectors: NDArray[Any], owners: Sequence[tuple[int, str | int | None, int]]) -> None:
    """Write vectors.

    Columns: ``row`` int64, ``id`` string, ``at`` int64 (of the row's vectors, from 0), ``vector``, a list of fixed size
    of float32, float16, int8 or, of bits, uint8, and of int8 ``scale`` float32. Halves of surrogate pairs in ids are
    escaped, as in the lines. Nothing is compressed: ``check`` adds up the sizes that the footer states.

    Args:
        file: Open for writing.
        vectors: [N, ...], as ``vector_form.pack`` gives them.
        owners: Of each row of the batch its number, its id, and how many of the vectors, in order, are its.
    """
    import pyarrow
    from pyarrow import parquet

    schema = _schema(vectors.dtype, vectors.shape[1:])
    counts = [count for _, _, count in owners]
    ids = [None if name is None else str(name).encode("utf-8", "backslashreplace").decode() for _, name, _ in owners]
    columns: list[Any] = [
        np.repeat(np.array([number for number, _, _ in owners], np.int64), counts),
        pyarrow.array([name for name, count in zip(ids, counts, strict=True) for _ in range(count)], pyarrow.string()),
        np.concatenate([np.zeros(0, np.int64), *map(np.arange, counts)]),
    ]
    values, scales = values_and_scales(vectors)
    field = schema.field("vector").type
    flat = pyarrow.array(np.ascontiguousarray(values).reshape(-1), field.value_type)
    columns += [pyarrow.FixedSizeListArray.from_arrays(flat, field.list_size)]
    columns += [] if scales is None else [np.ascontiguousarray(scales)]
    table = pyarrow.Table.from_arrays([*map(pyarrow.array, columns)], schema=schema)
    # Parquet has no number of one byte but as an index into a dictionary, which of floats only adds to the file.
    listed: Any = True if flat.type.bit_width == 8 else ["row", "id", "at"]
    parquet.write_table(table, file, compression="none", use_dictionary=listed)


def check(file: IO[bytes], count: int, dtype: np.dtype[Any], tail: tuple[int, ...]) -> None:
    """Compare a file's footer with what ``write`` writes of so many vectors of a type and shape, and its size with it.

    Raises:
        ValueError: It differs, or is no Parquet.
        OSError: It cannot be read.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        opened = parquet.ParquetFile(file)
        footer, schema = opened.metadata, opened.schema_arrow
    except pyarrow.ArrowException as error:
        raise ValueError(str(error)) from error
    if not schema.equals(_schema(dtype, tail)) or footer.num_rows != count:
        held = ", ".join(f"{one.name} {one.type}" for one in schema)
        raise ValueError(f"{footer.num_rows} vectors of {held}; {count} vectors in the lines")
    # Sizes of columns would say the same of compressed ones, but Arrow ends the process where such a record is damaged.
    wanted = sum(footer.row_group(one).total_byte_size for one in range(footer.num_row_groups))
    held_bytes = file.seek(0, io.SEEK_END) - footer.serialized_size - _AROUND
    if held_bytes != wanted:
        raise ValueError(f"{held_bytes} bytes of vectors, the footer says {wanted}")


def _schema(dtype: np.dtype[Any], tail: tuple[int, ...]) -> Any:
    import pyarrow

    base, shape = dtype["values"].subdtype if dtype.names else (dtype, tail)  # type: ignore[misc]
    fields = [("row", pyarrow.int64()), ("id", pyarrow.string()), ("at", pyarrow.int64())]
    fields.append(("vector", pyarrow.list_(pyarrow.from_numpy_dtype(base), shape[0])))
    return pyarrow.schema([*fields, *([("scale", pyarrow.float32())] if dtype.names else [])])
