"""The type of the fixture ``cli``."""

from __future__ import annotations

from collections.abc import Callable

#: Takes words, gives (exit code, stdout, stderr).
Cli = Callable[..., tuple[int, str, str]]
