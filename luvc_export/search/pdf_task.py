"""What a helper process does for ``pdf``: how many pages a PDF has, or one of them as pixels."""

from __future__ import annotations

from typing import Any

import pypdfium2

from luvc_export.errors import UsageError

#: The newest file, by its hash: its pages are asked for one at a time.
_open: dict[str, Any] = {}


def task(request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    """Count or draw, ask for the file where it is not here, or say what is wrong."""
    key, page, side = request["sha256"], request["page"], request["side"]
    if key not in _open and not data:
        return {"lacks": True}, b""
    try:
        if key not in _open:
            _open.clear()
            _open[key] = pypdfium2.PdfDocument(data)
        document = _open[key]
        if page is None:
            return {"pages": len(document)}, b""
        width, height = document[page].get_size()
        picture = document[page].render(scale=side / max(width, height, 1.0)).to_pil().convert("RGB")
    except (pypdfium2.PdfiumError, ValueError, TypeError, OSError) as error:
        where = request["where"] if page is None else f"{request['where']}, page {page + 1}"
        fix = "open it in a viewer; one with a password is saved without it first"
        return UsageError("the PDF cannot be read", where=where, got=str(error)[:200], fix=fix).to_json(), b""
    return {"size": picture.size}, picture.tobytes()
