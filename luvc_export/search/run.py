"""Pages to an index, and a query to the pages that answer it: of one vector a page, or of many (late interaction)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from luvc_export.batch.job import sha256_read
from luvc_export.core.files.folders import make_folder
from luvc_export.core.files.safe_files import locked
from luvc_export.errors import Progress, UsageError
from luvc_export.runtime.engine.embed import BATCH, check_query, rows_of
from luvc_export.runtime.engine.vector_form import VectorOptions, check_options
from luvc_export.runtime.session import Session
from luvc_export.search.index import Index, IndexedFile, Origin
from luvc_export.search.pages import PDF, Page, list_files, pages_of, read_file

#: Seconds, and bytes of vectors, after which what was embedded is written.
_SECONDS, _BYTES = 30.0, 2**26
#: Pages of a PDF that may be bad; a file with more is refused, for each may take as long as ``pages.SECONDS``.
MOST_BAD = 32


@dataclass(frozen=True)
class Hit:
    """A page that was found.

    Args:
        name: Of its file.
        number: In a PDF, from 1.
        score: The sum, over the query's vectors, of the largest product with one of the page's.
        page: Hash of what it shows.
    """

    name: str
    number: int | None
    score: float
    page: str


class _Read(NamedTuple):
    """A file of pages that are to be embedded, and how the index will have it."""

    name: str
    path: Path
    data: bytes
    file: IndexedFile


class Search:
    """Pages that are searched.

    Args:
        session: Whose bundle embeds.
        pages: A folder of pictures and PDFs, or one of them.
        index: Folder of the index; None for one beside the pages, of their name and ``.index``.
        options: What is set of vectors. ``prompt`` and ``instruction`` are the query's; pages have the bundle's own.

    Attributes:
        files: Of pages, by name.
        folder: Of the index.
        embedded: Pages that the last ``update`` embedded.
        errors: What is wrong with files of pages, by name, and with pages of a PDF, by ``NAME, page N``; these are not
            in the index, and the next ``update`` tries them again.

    Raises:
        UsageError: There are no pages, the bundle does not embed or cannot do what is set.
    """

    def __init__(
        self,
        session: Session,
        pages: Path,
        index: Path | None = None,
        options: VectorOptions | None = None,
    ) -> None:
        manifest = session.bundle.manifest
        if manifest.does.decodes or manifest.does.pairs:
            session.bundle.check_task("embed")
        self.session, self.options = session, options or VectorOptions()
        check_options(session.bundle, self.options)
        self._many = manifest.does.pooling == "every"
        self.files, self.embedded, self.errors = list_files(pages), 0, dict[str, str]()
        self.folder = index or pages.absolute().with_name(pages.absolute().name + ".index")
        if pages.is_dir() and self.folder.resolve().is_relative_to(pages.resolve()):
            what, fix = "the index is inside the folder of pages", "name another folder"
            raise UsageError(what, where=f"--index {self.folder}", fix=fix)
        numbers = self.options.dimensions or manifest.row_width
        read = sha256_read(session.bundle.folder, session.plan_name, False)
        form = self.options.embed_dtype, numbers, self.options.pool
        self._origin = Origin(manifest.source.model, read, session.plan_name, *form)

    def update(self, tell: Progress = lambda stage, done: None) -> None:
        """Embed pages that are new or changed, and drop those that are gone; wherever it ends, what was embedded stays.

        Raises:
            UsageError: See ``Index``.
            MachineError: See ``Session``; or pypdfium2 is not installed.
            OSError: The disk is full, or refuses.
        """
        make_folder(self.folder)
        with locked(self.folder):
            table = self._table = Index(self.folder, self._origin)
            before, self._saved, self.embedded, self.errors = dict(table.files), monotonic(), 0, {}
            try:
                self._take_all(tell)
            except BaseException:
                table.save()
                raise
            keys = {key_of(name) for name in self.files if name not in self.errors}
            table.files = {key: one for key, one in table.files.items() if key in keys}
            if self.embedded or table.files != before:
                table.save(whole=True)

    def _take_all(self, tell: Progress) -> None:
        """Have all files' pages in the index; pictures as many at a time as one call takes."""
        pictures = list[_Read]()
        for at, (name, path) in enumerate(self.files.items()):
            tell("embedding pages", at / len(self.files))
            if (read := self._read(name, path)) is None:
                continue
            if path.suffix.lower() == PDF:
                self._take([read])
            else:
                pictures.append(read)
            if len(pictures) == BATCH:
                self._take(pictures)
                pictures = []
        self._take(pictures)
        tell("embedding pages", 1.0)

    def _read(self, name: str, path: Path) -> _Read | None:
        """A file that is new or changed."""
        known = self._table.files.get(key_of(name))
        whole = known is not None and all(page in self._table for page in known.pages)
        try:
            status = path.stat()
            facts = status.st_size, status.st_mtime_ns
            if known is not None and whole and (known.bytes, known.mtime_ns) == facts:
                return None
            data, sha256 = read_file(path)
        except (UsageError, OSError) as error:
            self._refuse(name, error)
            return None
        if known is not None and whole and known.sha256 == sha256:  # touched, or a copy
            self._table.files[key_of(name)] = replace(known, bytes=facts[0], mtime_ns=facts[1])
            return None
        return _Read(name, path, data, IndexedFile(*facts, sha256, ()))

    def _take(self, files: Sequence[_Read]) -> None:
        """Embed pages of one PDF, or of several pictures; one that cannot be read costs no other."""
        hashes = {one.name: list[str]() for one in files}
        pages = ((one.name, page) for one in files for page in pages_of(one.path, one.data, one.file.sha256))
        try:
            for some in _some(pages):
                for (name, _), page in zip(some, self._embed(some), strict=True):
                    hashes[name].append(page)
        except UsageError as error:
            self._refuse(files[0].name, error)  # a PDF as a whole
            return
        for one in files:
            if any(hashes[one.name]):
                self._table.files[key_of(one.name)] = replace(one.file, pages=tuple(hashes[one.name]))

    def _refuse(self, name: str, error: UsageError | OSError) -> None:
        if isinstance(error, OSError):
            self.errors[name] = str(error.strerror)
            return
        parts = ("", error.what), ("got ", error.got), ("expected ", error.expected), ("", error.fix)
        self.errors[name] = "; ".join(f"{label}{part}" for label, part in parts if part is not None)

    def _embed(self, pages: Sequence[tuple[str, Page]]) -> list[str]:
        """Embed pages of named files that have no vectors; all their hashes, "" of one that cannot be read.

        Raises:
            UsageError: Too many pages of a PDF cannot be read.
        """
        try:
            if bad := next((page.error for _, page in pages if page.error is not None), None):
                raise bad
            self._embed_missing([page for _, page in pages])
        except UsageError as error:
            if len(pages) > 1:
                return [page for one in pages for page in self._embed([one])]
            ((name, page),) = pages
            title = name if page.number is None else f"{name}, page {page.number}"
            self._refuse(title, error)
            if sum(one.startswith(f"{name}, page ") for one in self.errors) > MOST_BAD:
                raise
            return [""]
        return [page.sha256 for _, page in pages]

    def _embed_missing(self, pages: Sequence[Page]) -> None:
        table = self._table
        missing = [page for page in {page.sha256: page for page in pages}.values() if page.sha256 not in table]
        if not missing:
            return
        of_pages = replace(self.options, prompt=None, instruction=None)
        vectors = rows_of(self.session, of_pages, images=[page.picture for page in missing])
        for page, one in zip(missing, vectors, strict=True):
            table.add(page.sha256, one)
        self.embedded += len(missing)
        if monotonic() - self._saved > _SECONDS or table.waiting > _BYTES:
            table.save()
            self._saved = monotonic()

    @property
    def indexed(self) -> Mapping[str, IndexedFile]:
        """Files whose pages are in the index, by ``key_of`` their names."""
        return self._table.files

    def vectors(self, hit: Hit) -> NDArray[np.float32]:
        """A page's vectors, float32 [n, D]."""
        return self._table.rows(hit.page)

    def query(self, text: str) -> NDArray[np.float32]:
        """A query's vectors, float32 [n, D].

        Raises:
            UsageError: It is empty, or too long.
        """
        check_query(text)
        if self._many:
            return self.session.embed_many(texts=[text])[0]
        asked = self.options
        how: dict[str, Any] = {"prompt": asked.prompt, "instruction": asked.instruction, "dimensions": asked.dimensions}
        return self.session.embed(texts=[text], **how)

    def rank(self, query: NDArray[np.float32], top: int) -> list[Hit]:
        """The ``top`` pages of the last ``update`` for a query, the best first; of equal ones the first by name."""
        names = {key_of(name): name for name in self.files}
        every = [
            (names[key], at, page)
            for key, one in sorted(self._table.files.items())
            for at, page in enumerate(one.pages, 1)
            if page
        ]
        scores = self._table.scores(query, [page for _, _, page in every])
        best = [(*every[at], float(scores[at])) for at in np.argsort(-scores, kind="stable")[:top]]
        return [
            Hit(name, at if Path(name).suffix.lower() == PDF else None, score, page) for name, at, page, score in best
        ]


def key_of(name: str) -> str:
    """A file's name as an index has it: ASCII, whatever bytes the system's name has."""
    return quote(os.fsencode(name).replace(os.sep.encode(), b"/"), safe="/ ")


def _some(pages: Iterator[tuple[str, Page]]) -> Iterator[list[tuple[str, Page]]]:
    """Pages and their files' names, as many at a time as one call takes."""
    some = list[tuple[str, Page]]()
    for page in pages:
        some.append(page)
        if len(some) == BATCH:
            yield some
            some = []
    if some:
        yield some
