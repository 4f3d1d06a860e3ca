"""Names that no file can have, given to the Python API: an error of ours, before any work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luvc_export.batch.job import BatchJob
from luvc_export.calibration.cases import read_jsonl
from luvc_export.errors import UsageError
from luvc_export.pipeline import export_bundle
from luvc_export.triton.repository import RepositoryOptions, write_repository

NAMES = ["n" * 300, "n/" * 3000, "a\0b", "half \ud800"]
OPTIONS = RepositoryOptions()
ENTRIES: dict[str, Callable[[str], Any]] = {
    "export_bundle output": lambda name: export_bundle("demo", name),
    "export_bundle lora": lambda name: export_bundle("demo", "new", lora=name),
    "read_jsonl": lambda name: read_jsonl(Path(name)),
    "batch source": lambda name: BatchJob(Path("bundle"), Path(name), Path("out")).check(),
    "batch output": lambda name: BatchJob(Path("bundle"), Path("in"), Path(name)).check(),
    "batch bundle": lambda name: BatchJob(Path(name), Path("in"), Path("out")).check(),
    "triton folder": lambda name: write_repository(Path(name), ["bundle"], OPTIONS),
    "triton bundle": lambda name: write_repository(Path("repository"), [name], OPTIONS),
}


@pytest.mark.parametrize("name", NAMES, ids=["long", "long path", "NUL", "half a character"])
@pytest.mark.parametrize("entry", ENTRIES)
def test_it_is_refused_by_name(entry: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="has a name that no file can have"):
        ENTRIES[entry](name)
    assert not [*tmp_path.iterdir()]
