"""Rows of a batch whose bundle decodes nothing: inputs of a model in, vectors out, in a file beside a shard's lines."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.batch import parquet
from luvc_export.bundle.folder import Bundle
from luvc_export.core.files.folders import writing_to
from luvc_export.core.files.safe_files import open_regular, whole
from luvc_export.errors import UsageError
from luvc_export.runtime.engine.embed import embedding_of, run
from luvc_export.runtime.engine.generate_batch import Prepared
from luvc_export.runtime.engine.vector_form import VectorOptions, check_options, cut, layout, map_array, pack
from luvc_export.runtime.prompt.case_lines import FileCase
from luvc_export.runtime.prompt.question import Question
from luvc_export.runtime.prompt.vector_chat import input_chat


class RowVectors:
    """Inputs of a bundle and their vectors.

    Args:
        bundle: Of the task ``embed`` or ``embed-many``.
        asked: Fields of ``VectorOptions``.
        form: Of files: ``npy`` or ``parquet``.

    Raises:
        UsageError: The bundle judges pairs, or see ``embed.check_options``.
        MachineError: See ``parquet.check_installed``.
    """

    def __init__(self, bundle: Bundle, asked: Mapping[str, Any], form: str = "npy") -> None:
        if form == "parquet":
            parquet.check_installed()
        self._form = form
        if bundle.manifest.does.pairs:
            bundle.check_task("embed")
        self._how, self.options = embedding_of(bundle), VectorOptions(**asked)
        self._system = check_options(bundle, self.options)
        numbers = self.options.dimensions or bundle.manifest.row_width
        #: Of one vector in a file, see ``layout``.
        self.dtype, self.tail = layout(self.options.embed_dtype, numbers)

    def question(self, case: FileCase) -> Question:
        """A row as the model reads it.

        Raises:
            UsageError: It has a video or an adapter.
        """
        if case.video is not None or case.adapter is not None:
            name = "video" if case.adapter is None else "adapter"
            raise UsageError("a vector is of pictures and a text", got=name, expected="image, prompt, or both")
        return input_chat(self._how, case.images, case.prompt or None, self._system)

    def texts(self, ready: Sequence[Prepared]) -> list[str]:
        """Vectors of rows, each row's as an npy file in base64: they go through pipes of JSON."""
        rows = [np.atleast_2d(one) for one in run([(one.loaded, one.request) for one in ready], self.options.pool)]
        packed = [pack(cut(self._how, one, self.options.dimensions), self.options.embed_dtype) for one in rows]
        return [_text(one) for one in packed]

    def path(self, lines: Path) -> Path:
        """The file of a shard, beside its lines."""
        return lines.with_suffix(f".{self._form}")

    def write(self, lines: Path, rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
        """Write the vectors of a shard's rows, one row's behind another's; for each row its first, and how many.

        Raises:
            OSError: The disk is full, or refuses; nothing is left behind.
        """
        empty = np.zeros((0, *self.tail), self.dtype)
        texts = [one.get("vectors") for one in rows]
        vectors = [empty if one is None else _array(one) for one in texts]
        ends = np.cumsum([len(one) for one in vectors]).tolist()
        every, path = np.concatenate([empty, *vectors]), self.path(lines)
        with writing_to(path), whole(path) as file:
            if self._form == "parquet":
                owners = [(one["row"], one["id"], len(mine)) for one, mine in zip(rows, vectors, strict=True)]
                parquet.write(file, every, owners)
            else:
                np.save(file, every, allow_pickle=False)
        return [(end - len(one), len(one)) for end, one in zip(ends, vectors, strict=True)]

    def check(self, lines: Path, count: int) -> None:
        """Check the header of a shard's file and its size.

        Raises:
            ValueError: It does not hold so many vectors, or is not there.
        """
        path = self.path(lines)
        try:
            if self._form == "parquet":
                with open_regular(path) as file:
                    parquet.check(file, count, self.dtype, self.tail)
                return
            mapped = map_array(path)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path.name}: {getattr(error, 'strerror', None) or error}") from error
        if (mapped.dtype, mapped.shape) != (self.dtype, (count, *self.tail)):
            raise ValueError(f"{path.name}: {mapped.dtype} {list(mapped.shape)}, {count} vectors in the lines")


def _text(vectors: NDArray[Any]) -> str:
    file = io.BytesIO()
    np.save(file, vectors, allow_pickle=False)
    return base64.b64encode(file.getvalue()).decode()


def _array(text: str) -> NDArray[Any]:
    return np.asarray(np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False))
