"""The index on disk: vectors in npy files that are mapped, and ``index.json``, which says whose they are.

Pages are known by the hash of what they show, so that one that moves or comes twice is embedded once. Files of vectors
are written under new names and ``index.json`` is renamed into place behind them: a process that ends anywhere leaves
the old index or the new one. Indexes may be a stranger's: no pickle is read, no name in one is opened but those of
files of vectors, which lie beside it, and sizes and shapes are compared before anything is mapped.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.bundle import hashing
from luvc_export.bundle.engines.records import FileRecord
from luvc_export.core.files import safe_files
from luvc_export.core.files.folders import list_names, make_folder, writing_to
from luvc_export.core.files.json_file import dumps, read_json
from luvc_export.core.files.json_records import ENTRIES, from_json_data
from luvc_export.errors import BundleError, UsageError, first_few
from luvc_export.runtime.engine.vector_form import layout, map_array, unpack

INDEX = "index.json"
_MOST_BYTES = 2**28
_NAME = re.compile(r"vectors-([0-9]{6,12})\.npy")
#: Vectors that a query meets in one product, or a page's, if it has more.
_TOGETHER = 2**14
#: Files of vectors above which all are written as one, as where more than half of their vectors are no page's any more.
_MOST_FILES = 16


@dataclass(frozen=True)
class Origin:
    """What vectors depend on.

    Args:
        model: The checkpoint's name, for people.
        bundle: SHA-256 of what the plan reads of the bundle.
        plan: Its name.
        embed_dtype: See ``vector_form.pack``.
        numbers: Of each vector.
        pool: Of a page's many vectors one is left for so many.
    """

    model: str
    bundle: str
    plan: str
    embed_dtype: str
    numbers: int
    pool: int = 1


@dataclass(frozen=True)
class Place:
    """Where a page's vectors lie: which file, the first of them, and how many."""

    file: int
    first: int
    count: int


@dataclass(frozen=True)
class IndexedFile:
    """A file of pages as it was read, and its pages' hashes, which are the file's own where it is a picture.

    The hash of a page that could not be read is empty: it has no vectors, and the others keep their numbers.
    """

    bytes: int
    mtime_ns: int
    sha256: str
    pages: tuple[str, ...]

    @property
    def count(self) -> int:
        """Pages that have vectors."""
        return sum(map(bool, self.pages))


@dataclass(frozen=True)
class _Contents:
    schema: int
    origin: Origin
    vectors: tuple[tuple[str, FileRecord], ...] = ()
    places: dict[str, Place] = field(default_factory=dict)
    files: dict[str, IndexedFile] = field(default_factory=dict)


class Index:
    """An index in memory: its tables, and the files of vectors mapped.

    Args:
        folder: Where it is, or shall be.
        origin: What its vectors depend on.

    Attributes:
        files: Files of pages, by the names of ``pages.list_files`` as they are written (``key_of``).

    Raises:
        UsageError: The folder holds another index, one that is damaged, or something else.
    """

    def __init__(self, folder: Path, origin: Origin) -> None:
        self._folder, self.origin = folder, origin
        contents = _read(folder, origin)
        self.files = dict(contents.files)
        self._places, self._records = dict(contents.places), list(contents.vectors)
        self._mapped = [self._map(*one) for one in self._records]
        for page, place in self._places.items():
            inside = 0 <= place.file < len(self._mapped) and place.first >= 0 and place.count >= 1
            if not inside or place.first + place.count > len(self._mapped[place.file]):
                raise _damaged(folder / INDEX, f"places.{page[:16]}: {place}")
        self._new: dict[str, NDArray[Any]] = {}
        self._newest = max((int(_NAME.sub(r"\1", name)) for name, _ in self._records), default=0)
        self._tidy()

    def __contains__(self, page: str) -> bool:
        return page in self._places or page in self._new

    def rows(self, page: str) -> NDArray[np.float32]:
        """A page's vectors, float32 [n, D]."""
        place = self._places[page]
        rows = self._mapped[place.file][place.first : place.first + place.count]
        return unpack(rows, self.origin.embed_dtype, self.origin.numbers)

    def scores(self, query: NDArray[np.float32], pages: Sequence[str]) -> NDArray[np.float32]:
        """Late interaction (``embed.late_interaction``) of a query with pages that are saved, which lie side by side.

        Args:
            query: float32 [n, D].
            pages: N of them.

        Returns:
            float32 [N]; of one vector a page and one of the query, their products.
        """
        places = [self._places[page] for page in pages]
        table = np.array([(one.file, one.first, one.count) for one in places], np.int64).reshape(-1, 3)
        order = np.lexsort(table.T[::-1])  # which is several times as fast as ``unique`` of rows
        new = np.diff(table[order], axis=0, prepend=-1).any(1)
        file, first, count = table[order[new]].T
        end, part = first + count, np.cumsum(count) // _TOGETHER
        apart = (file[1:] != file[:-1]) | (first[1:] != end[:-1]) | (part[1:] != part[:-1])
        scores = np.zeros(len(file), np.float32)
        for run in np.split(np.arange(len(file)), np.flatnonzero(apart) + 1) if pages else ():
            rows = self._mapped[file[run[0]]][first[run[0]] : end[run[-1]]]
            products = query @ unpack(rows, self.origin.embed_dtype, self.origin.numbers).T
            scores[run] = np.maximum.reduceat(products, first[run] - first[run[0]], axis=1).sum(0)
        every = np.empty(len(order), np.float32)
        every[order] = scores[np.cumsum(new) - 1]
        return every

    def add(self, page: str, vectors: NDArray[Any]) -> None:
        """Take a page's vectors, as ``vector_form.pack`` gives them, until they are saved.

        Raises:
            UsageError: There are too many.
        """
        if len(self._places) + len(self._new) >= ENTRIES:
            raise UsageError("an index holds no more pages", where=str(self._folder), expected=f"at most {ENTRIES:,}")
        self._new[page] = vectors

    @property
    def waiting(self) -> int:
        """Bytes that are not saved."""
        return sum(one.nbytes for one in self._new.values())

    def save(self, whole: bool = False) -> None:
        """Write what is new; ``whole``: every file of pages was seen, and vectors of no page go.

        Raises:
            OSError: The disk is full, or refuses; the old index stays.
        """
        if whole:
            live = {page for one in self.files.values() for page in one.pages}
            self._places = {page: place for page, place in self._places.items() if page in live}
            self._new = {page: vectors for page, vectors in self._new.items() if page in live}
        if self._new:
            self._places |= self._write(self._new)
            self._new = {}
        held, used = sum(map(len, self._mapped)), sum(place.count for place in self._places.values())
        if whole and (len(self._mapped) > _MOST_FILES or held > 2 * used):
            every = {page: self._raw(page) for page in self._places}
            self._records, self._mapped = [], []
            self._places = self._write(every)
        data = dataclasses.asdict(_Contents(1, self.origin, tuple(self._records), self._places, self.files))
        with writing_to(self._folder / INDEX):
            safe_files.write_whole(self._folder / INDEX, dumps(data) + "\n")
        self._tidy()

    def _tidy(self) -> None:
        """Remove files of vectors that are no longer named, or are not yet: their process was ended."""
        named = {name for name, _ in self._records}
        for name in list_names(self._folder):
            if _NAME.fullmatch(name) and name not in named:
                safe_files.remove(self._folder / name)

    def _raw(self, page: str) -> NDArray[Any]:
        place = self._places[page]
        return self._mapped[place.file][place.first : place.first + place.count]

    def _write(self, pages: Mapping[str, NDArray[Any]]) -> dict[str, Place]:
        """A new file of vectors: where each page's are."""
        dtype, tail = layout(self.origin.embed_dtype, self.origin.numbers)
        self._newest += 1
        path = self._folder / f"vectors-{self._newest:06}.npy"
        shape = (sum(map(len, pages.values())), *tail)
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        with writing_to(path), safe_files.whole(path) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for vectors in pages.values():
                file.write(np.ascontiguousarray(vectors, dtype).tobytes())
        self._records.append((path.name, hashing.record(path)))
        self._mapped.append(self._map(*self._records[-1]))
        places, first = {}, 0
        for page, vectors in pages.items():
            places[page] = Place(len(self._records) - 1, first, len(vectors))
            first += len(vectors)
        return places

    def _map(self, name: str, record: FileRecord) -> NDArray[Any]:
        path = self._folder / name
        if not _NAME.fullmatch(name):
            raise _damaged(self._folder / INDEX, f"a file called {name[:80]!r}")
        dtype, tail = layout(self.origin.embed_dtype, self.origin.numbers)
        try:
            hashing.verify(path, record)
            mapped = map_array(path)
        except BundleError as error:
            raise _damaged(path, str(error.got)) from error
        except (OSError, ValueError) as error:
            raise _damaged(path, str(error)) from error
        if (mapped.dtype, mapped.shape[1:]) != (dtype, tail) or not mapped.ndim:
            raise _damaged(path, f"{mapped.dtype} {list(mapped.shape)}")
        return mapped


def _read(folder: Path, origin: Origin) -> _Contents:
    path = folder / INDEX
    if not path.exists():
        others = [name for name in list_names(folder) if not (safe_files.is_scratch(name) or _NAME.fullmatch(name))]
        if others:
            expected = "a folder that is empty, missing, or an index"
            what, got = "this folder holds something else", first_few(others, 3)
            raise UsageError(what, where=f"--index {folder}", got=got, expected=expected)
        make_folder(folder)
        return _Contents(1, origin)
    data = read_json(path, _MOST_BYTES, UsageError, "this index")
    try:
        contents = from_json_data(_Contents, data, str(path))
    except BundleError as error:
        raise _damaged(path, f"{error.what}: {error.where}: {error.got}") from error
    if contents.schema != 1:
        raise _damaged(path, f"schema {contents.schema}")
    if contents.origin != origin:
        before, now = dataclasses.asdict(contents.origin), dataclasses.asdict(origin)
        differs = [name for name in now if now[name] != before[name]]
        raise UsageError(
            "this index was made by another model or plan, or with other options",
            where=f"--index {folder}",
            got="; ".join(f"{name} {str(now[name])[:40]}" for name in differs),
            expected="; ".join(f"{name} {str(before[name])[:40]}" for name in differs),
            fix="search as it was made, or name another --index",
        )
    for name in contents.files:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
            raise _damaged(path, f"a page called {name[:80]!r}, which leaves the folder")
    return contents


def _damaged(path: Path, got: str) -> UsageError:
    fix = "remove the folder: its pages are embedded again; if it is not your own, do not trust it"
    return UsageError("this index is not as it was written", where=str(path), got=got[:200], fix=fix)
