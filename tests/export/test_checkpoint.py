"""What the hub, or its absence, says: each in its own words and exit code."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from luvc_export.errors import CheckpointError, LuvcError, MachineError
from luvc_export.export.checkpoint import open_checkpoint

#: The library that the hub's client speaks HTTP with; it differs by version.
http: Any = import_module(HfHubHTTPError.__mro__[1].__module__.split(".")[0])


def answered(kind: type[HfHubHTTPError], code: int, text: str = "no") -> HfHubHTTPError:
    request = http.Request("GET", "https://hub.invalid/owner/name")
    return kind(text, response=http.Response(code, request=request))


def missing(cause: BaseException) -> LocalEntryNotFoundError:
    """What ``snapshot_download`` raises when the cache does not hold what it could not ask for."""
    error = LocalEntryNotFoundError("cannot find an appropriate cached snapshot folder")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind", "refusal"),
    [
        (missing(http.ConnectError("Name or service not known")), MachineError, "the hub cannot be reached"),
        (missing(OfflineModeIsEnabled("offline")), MachineError, "HF_HUB_OFFLINE"),
        (http.ProxyError("refused"), MachineError, "the hub cannot be reached"),
        (missing(answered(HfHubHTTPError, 503)), MachineError, "does not answer as it should"),
        (answered(RepositoryNotFoundError, 401), CheckpointError, "there is no such checkpoint"),
        (missing(answered(RepositoryNotFoundError, 404)), CheckpointError, "there is no such checkpoint"),
        (answered(RevisionNotFoundError, 404), CheckpointError, "has no such revision"),
        (answered(GatedRepoError, 403), CheckpointError, "is gated"),
    ],
)
def test_each_refusal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, kind: type[LuvcError], refusal: str
) -> None:
    def refuse(*positional: Any, **named: Any) -> None:
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(kind, match=refusal) as caught:
        open_checkpoint("owner/name")
    assert "owner/name" in str(caught.value) and caught.value.fix


def test_a_name_that_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="there is no such checkpoint"):
        open_checkpoint("a/b/c")
