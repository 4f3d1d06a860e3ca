"""How work that takes long says how far it is."""

from __future__ import annotations

from collections.abc import Callable

#: Told (stage, share of that stage that is done, 0 to 1).
Progress = Callable[[str, float], None]
