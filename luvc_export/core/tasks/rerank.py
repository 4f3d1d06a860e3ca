"""How well a document answers a query: one number of both in one prompt, for the order of a search's candidates."""

from __future__ import annotations

from luvc_export.core import graph_io
from luvc_export.core.tasks import Task

TASK = Task(
    name="rerank",
    asked_by="luvc-export embed BUNDLE --query TEXT, Session.score, POST /v1/rerank, POST /v1/score",
    output=graph_io.VECTORS,
    decodes=False,
    pairs=True,
)
