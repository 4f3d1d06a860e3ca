"""A checkpoint from the Hugging Face hub, or its cache."""

from __future__ import annotations

from pathlib import Path

from luvc_export.errors import CheckpointError, LuvcError, MachineError

#: What a bundle needs beside weights: nothing else of a repository is downloaded.
_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]

#: Libraries that versions of the hub's client speak HTTP with; not all of their errors derive from OSError.
_TRANSPORTS = ("httpx", "httpx2", "requests", "urllib3")

#: HTTP codes by which the hub says that there is nothing for us under a name.
_REFUSED = (401, 403, 404)


def download(model: str, revision: str | None, weights: bool) -> Path:
    """Folder of hub repository ``model`` in the local cache, downloaded where it is not there.

    Raises:
        CheckpointError: There is no such repository or revision, or it may not be read.
        MachineError: The hub cannot be reached, or fails, and the cache does not hold the checkpoint.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    patterns = _FILES if weights else [name for name in _FILES if name != "*.safetensors"]
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=patterns))
    except Exception as error:
        if isinstance(error, HFValidationError | OSError) or type(error).__module__.split(".")[0] in _TRANSPORTS:
            raise _refusal(model, error) from error
        raise


def _refusal(model: str, error: Exception) -> LuvcError:
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RevisionNotFoundError

    message = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
    code = _http_code(error)
    if isinstance(error, GatedRepoError):
        return CheckpointError(
            "this checkpoint is gated", where=model, got=message, fix="ask for access on its page, then 'hf auth login'"
        )
    if isinstance(error, RevisionNotFoundError):
        return CheckpointError("the checkpoint has no such revision", where=model, got=message, fix="check --revision")
    if isinstance(error, HFValidationError) or code in _REFUSED:
        return CheckpointError(
            "there is no such checkpoint",
            where=model,
            got=f"no folder of that name, and the hub says: {message}",
            expected="a local folder with config.json, or a hub id OWNER/NAME",
            fix="check the spelling, or run 'hf auth login' if the repository is private",
        )
    return MachineError(
        "the hub cannot be reached, and its cache here does not hold this checkpoint"
        if code is None
        else "the hub does not answer as it should",
        where=model,
        got=f"no folder of that name, and: {message}",
        expected="a network that reaches the hub, or a local folder with config.json",
        fix="check the path, the network, its proxy and HF_HUB_OFFLINE; or download it elsewhere and give the folder",
    )


def _http_code(error: BaseException | None) -> int | None:
    """What the hub answered with, by ``error`` or what caused it; None if nothing answered."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        code = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(code, int):
            return code
        seen.append(error)
        error = error.__cause__ or error.__context__
    return None
