"""How many sets of adapters a session keeps ready, and the memory that they take where engines read them."""

from __future__ import annotations

from luvc_export.bundle.manifest import LoraSlots

#: Sets of adapters whose factors are kept as a back-end takes them. A server's prompts take turns with its rows.
MOST_SETS = 3


def kept_bytes(slots: LoraSlots, ranks: int, itemsize: int) -> int:
    """Bytes of all sets that are kept, each with ``ranks`` side by side of numbers of ``itemsize`` bytes."""
    return MOST_SETS * ranks * itemsize * sum(entering + leaving for entering, leaving in slots.slots.values())
