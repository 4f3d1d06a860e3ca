"""``/v1/load_lora_adapter`` and ``/v1/unload_lora_adapter``: bodies as vLLM has them, folders the server was told of.

vLLM takes any path where an environment variable allows it; here ``--lora-dir`` says below which folders.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from luvc_export.bundle.adapters.peft_config import CONFIG
from luvc_export.bundle.adapters.peft_folder import TENSORS
from luvc_export.errors import LuvcError
from luvc_export.serve.http.api_errors import ApiError, bad_request, explained
from luvc_export.serve.http.json_bodies import decoded, require
from luvc_export.serve.models import Models
from luvc_export.serve.options import ServeOptions

#: A body to what is answered.
AdapterChange = Callable[[bytes, Models, ServeOptions], str]
_LONGEST = 4096
_CLOSED = "clients may load and unload no adapters here: serve with --lora-dir FOLDER"


def load_adapter(body: bytes, models: Models, options: ServeOptions) -> str:
    """Load ``lora_name`` from ``lora_path``; what is answered.

    Raises:
        ApiError: 403 where no ``--lora-dir`` allows it, 400 for whatever else is wrong.
    """
    data = _fields(body, options, "lora_name", "lora_path")
    name, path = data["lora_name"], Path(data["lora_path"])
    try:
        resolved = path.resolve()
        read = [
            resolved,
            *((resolved / file).resolve() for file in (CONFIG, TENSORS)),
        ]  # which may be links, as a hub's
        inside = [folder for folder in options.lora_dirs if all(one.is_relative_to(folder) for one in read)]
        allowed = bool(inside) and resolved.is_dir()
    except (OSError, ValueError, RuntimeError):
        allowed = False
    if not allowed:  # whatever the reason: nobody learns here which folders there are
        message = "that folder, or a file of it, is below none of the server's --lora-dir, or is not there"
        raise ApiError(403, message, "lora_path")
    try:
        models.load_adapter(name, resolved)
    except LuvcError as error:
        raise explained(error, "lora_path") from error
    return f"Success: LoRA adapter '{name}' added successfully."


def unload_adapter(body: bytes, models: Models, options: ServeOptions) -> str:
    """Let ``lora_name`` go; what is answered.

    Raises:
        ApiError: 403 without ``--lora-dir``, 404 where there is none of that name.
    """
    name = _fields(body, options, "lora_name")["lora_name"]
    try:
        models.unload_adapter(name)
    except LuvcError as error:
        raise ApiError(404, f"there is no adapter {name[:100]!r}", "lora_name", "model_not_found") from error
    return f"Success: LoRA adapter '{name}' removed successfully."


def _fields(body: bytes, options: ServeOptions, *names: str) -> Mapping[str, Any]:
    if not options.lora_dirs:
        raise ApiError(403, _CLOSED, code="forbidden")
    data = decoded(body)
    require(data, *names)
    for name in names:
        value = data[name]
        if not isinstance(value, str) or not 0 < len(value) <= _LONGEST or "\0" in value:
            raise bad_request(f"{name} is a text of 1 to {_LONGEST} characters", name)
    return data
