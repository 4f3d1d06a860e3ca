"""Errors of the system that do not say which file they are about."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def writing_to(path: str | os.PathLike[str]) -> Iterator[None]:
    """Give ``path`` to an OSError of this block that names no file: a full disk, a file that is too large.

    Raises:
        OSError: As it came, with ``filename``.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = os.fspath(path)
        raise
