"""What a helper process does for ``decoding``: any picture, decoded there."""

from __future__ import annotations

import io
from typing import Any

from luvc_export.errors import UsageError
from luvc_export.runtime.media import picture_limits
from luvc_export.runtime.media.pictures import open_stream


def task(request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    """Decode, or say what is wrong."""
    picture_limits.allow(request["allowed"])
    need = None if request["need"] is None else (request["need"][0], request["need"][1])
    try:
        stream = open_stream(io.BytesIO(data), request["max_pixels"], request["where"], need, here=True)
    except UsageError as error:
        parts = {"where": error.where, "got": error.got, "expected": error.expected, "fix": error.fix}
        return {"what": error.what, **{key: None if text is None else str(text) for key, text in parts.items()}}, b""
    return {"size": stream.size, "true_size": stream.info.get(picture_limits.TRUE_SIZE)}, stream.tobytes()
