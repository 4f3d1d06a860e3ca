"""A vector of every token of a page or a query, for late interaction: each of a query's takes the page's nearest."""

from __future__ import annotations

from luvc_export.core import graph_io
from luvc_export.core.tasks import Task

TASK = Task(
    name="embed-many",
    asked_by="luvc-export embed BUNDLE, Session.embed_many, Session.score, POST /pooling",
    output=graph_io.VECTORS,
    decodes=False,
    pooling="every",
)
