"""Adapters of a session by name: loaded and let go while it answers."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from luvc_export.bundle.manifest import Manifest
from luvc_export.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from luvc_export.bundle.adapters.peft_folder import Adapter

#: Adapters that one session has at a time.
MOST = 64


class Adapters:
    """What ``adapter=NAME`` means to a session. Any thread may call it.

    An answer that has begun keeps its adapter to the end, whatever happens to the name.

    Args:
        manifest: Of the bundle, whose slots they must fit.
        forget: Told of an adapter that no question can ask for any more.
        folders: Of the first ones, by name.

    Raises:
        UsageError: See ``load``.
    """

    def __init__(
        self,
        manifest: Manifest,
        forget: Callable[[Adapter], object],
        folders: Mapping[str, str | os.PathLike[str]] | None = None,
    ) -> None:
        self._manifest, self._forget = manifest, forget
        self._lock = threading.Lock()
        self._by_name: dict[str, Adapter] = {}
        for name, folder in (folders or {}).items():
            self.load(name, folder)

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    @property
    def names(self) -> list[str]:
        """Those there are, as they were loaded."""
        return list(self._by_name)

    def load(self, name: str, folder: str | os.PathLike[str]) -> Adapter:
        """Read the peft adapter in ``folder`` and call it ``name``.

        Raises:
            UsageError: The name is taken or none, there are too many, or see ``read_adapter``.
        """
        from luvc_export.bundle.adapters.peft_folder import check_name, read_adapter

        check_name(name)
        self._check_free(name)
        adapter = read_adapter(Path(folder), self._manifest)
        with self._lock:
            self._check_free(name)
            self._by_name[name] = adapter
        return adapter

    def unload(self, name: str) -> None:
        """Forget an adapter; answers that have begun with it go on.

        Raises:
            UsageError: There is none of that name.
        """
        with self._lock:
            adapter = self.find(name)
            del self._by_name[name]
        assert adapter is not None
        self._forget(adapter)

    def find(self, name: str | None) -> Adapter | None:
        """The adapter of that name; None for the base model.

        Raises:
            UsageError: There is none of that name.
        """
        if name is None:
            return None
        known = dict(self._by_name)
        if name not in known:
            expected = did_you_mean(name, known) if known else "no adapter: none was loaded"
            raise UsageError("there is no such adapter", where="adapter", got=str(name)[:100], expected=expected)
        return known[name]

    def _check_free(self, name: str) -> None:
        if name in self._by_name:
            raise UsageError("an adapter of that name is loaded already", where=name, fix="unload it first")
        if len(self._by_name) >= MOST:
            raise UsageError("there are too many adapters", where=name, got=MOST, fix="unload one first")
