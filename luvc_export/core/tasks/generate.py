"""Text, token by token: what bundles do that name no task."""

from __future__ import annotations

from luvc_export.core import graph_io
from luvc_export.core.tasks import Task

TASK = Task(
    name="generate",
    asked_by="luvc-export run BUNDLE, Session.generate, POST /v1/chat/completions",
    output=graph_io.LOGITS,
    decodes=True,
)
