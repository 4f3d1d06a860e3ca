"""One vector of a text, a picture or both, for retrieval: nothing is decoded."""

from __future__ import annotations

from luvc_export.core import graph_io
from luvc_export.core.tasks import Task

TASK = Task(
    name="embed",
    asked_by="luvc-export embed BUNDLE, Session.embed, POST /v1/embeddings",
    output=graph_io.VECTORS,
    decodes=False,
)
