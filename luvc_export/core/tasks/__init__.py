"""What a bundle is made for, one task a file, found by its name as scores are; ``luvc.json`` names it.

A task is a file of this folder with ``TASK``. A bundle that names none generates, as every bundle did before there were
tasks; one that names a task that is not here is refused by that name.
"""

from __future__ import annotations

from typing import Any

from luvc_export.core.tasks.base import Task
from luvc_export.errors import BundleError
from luvc_export.registry import Registry

ENTRY_POINTS = "luvc_export.tasks"


def _misfit(name: str, task: Any) -> str | None:
    return None if isinstance(task, Task) and task.name == name else f"a Task called {name!r}"


_TASKS: Registry[Task] = Registry(
    "task", __name__, ENTRY_POINTS, "TASK", _misfit, BundleError,
    where="luvc.json: task", fix="pip install --upgrade luvc-export",
)  # fmt: skip

#: Every task there is; the one of a name.
names, find = _TASKS.names, _TASKS.find
