"""``luvc.json`` of schema 1, whose entries did not say what they are: it stood in their names."""

from __future__ import annotations

from typing import Any

from luvc_export.core.plan.names import variant_of
from luvc_export.core.precision import PRECISIONS

VERSION = 1


def with_facts(data: dict[str, Any], version: int) -> dict[str, Any]:
    """JSON of a manifest of schema 1 as that of schema ``version``: each entry with size, precision and ``variant_of``.

    What is missing or of another type stays so: whoever reads the fields says what is wrong.
    """
    plans, image = data.get("plans"), data.get("image")
    if not isinstance(plans, dict) or not isinstance(image, dict):
        return data
    entries: dict[str, Any] = {}
    for name, entry in plans.items():
        if isinstance(entry, dict):
            quantised, precision = entry.get("quantised"), data.get("dtype")
            if isinstance(quantised, dict):
                precision = quantised.get("precision")
            known = PRECISIONS.get(precision) if isinstance(precision, str) else None
            beside = variant_of(name, plans, known.suffix if known else "")
            entry = {**entry, "precision": precision, "variant_of": beside}
            if entry.get("size") is None:
                entry["size"] = image.get("size")
        entries[name] = entry
    return {**data, "plans": entries, "schema_version": version}
