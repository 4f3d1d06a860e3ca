"""Formats of quantised checkpoints, one a file, found by the ``quant_method`` of their config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luvc_export.errors import CheckpointError, did_you_mean
from luvc_export.export.stored.base import Reader, Stored, StoredTensor
from luvc_export.registry import Registry

ENTRY_POINTS = "luvc_export.stored"
_CALIBRATE = "take the 16-bit checkpoint it was made from and quantise its bundle: luvc-export calibrate"
#: Methods that are refused, and what to do instead.
REFUSED = {
    "bitsandbytes": "its codes are looked up in tables of its own kernels; " + _CALIBRATE + " --precision q4",
    "torchao": "no reader of its tensor classes is written here; " + _CALIBRATE + " --precision q4",
    "modelopt": "no reader of its NVFP4 tensors is written here; " + _CALIBRATE + " --precision nvfp4",
    "gguf": "its blocks are those of another engine; " + _CALIBRATE + " --precision q4",
}


def _misfit(name: str, module: Any) -> str | None:
    return None if callable(getattr(module, "read", None)) else "a module with a function read"


_READERS: Registry[Reader] = Registry("format", __name__, ENTRY_POINTS, "", _misfit, CheckpointError, dashes=True)


#: Every ``quant_method`` that is read.
names = _READERS.names


def settings(raw: Mapping[str, Any], where: str) -> Mapping[str, Any] | None:
    """The ``quantization_config`` of a config, wherever makers write it; None where there is none.

    Raises:
        CheckpointError: It is no object, or its method is not read; says what to do.
    """
    inner = raw.get("text_config")
    places = (raw, inner if isinstance(inner, dict) else {})
    stated = [place[key] for place in places for key in ("quantization_config", "compression_config") if place.get(key)]
    if not stated:
        return None
    config = stated[0]
    method = config.get("quant_method") if isinstance(config, dict) else None
    if not isinstance(method, str):
        raise CheckpointError(
            "the config does not say how this checkpoint is quantised",
            where=where,
            got=repr(config)[:80],
            expected='"quantization_config": {"quant_method": ...}',
            fix=_CALIBRATE,
        )
    refused = next((name for name in REFUSED if method.startswith(name)), None)
    if refused is not None or method not in names():
        raise CheckpointError(
            "checkpoints quantised in this way are not read",
            where=where,
            got=f"quant_method {method}",
            expected=did_you_mean(method, names()),
            fix=REFUSED[refused] if refused else _CALIBRATE,
        )
    assert isinstance(config, dict)
    return config


def read(config: Mapping[str, Any], tensors: Mapping[str, StoredTensor], where: str) -> Stored:
    """The quantised modules of a checkpoint; see ``base.Reader``.

    Raises:
        CheckpointError: They cannot be read, or there are none.
    """
    reader = _READERS.get(str(config["quant_method"]))
    assert reader is not None
    stored = reader.read(config, tensors, where)
    if not stored.linears:
        raise CheckpointError(
            "the config says that this checkpoint is quantised, and no tensor of it is",
            where=where,
            got=f"quant_method {config['quant_method']}",
            fix="download the checkpoint again",
        )
    return stored
