"""Stands in for Triton's module of this name, as far as ``luvc_export.triton.model`` uses it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1


class TritonModelException(Exception):  # noqa: N818
    pass


class TritonError(Exception):
    INTERNAL, INVALID_ARG, UNAVAILABLE, CANCELLED = "INTERNAL", "INVALID_ARG", "UNAVAILABLE", "CANCELLED"

    def __init__(self, message: str, code: str = INTERNAL) -> None:
        super().__init__(message)
        self.code = code


class Logger:
    lines: list[str] = []  # noqa: RUF012

    @classmethod
    def log_info(cls, line: str) -> None:
        cls.lines.append(line)

    log_error = log_info


class Tensor:
    def __init__(self, name: str, values: NDArray[Any]) -> None:
        self.name, self._values = name, values

    def as_numpy(self) -> NDArray[Any]:
        return self._values


@dataclass
class InferenceResponse:
    output_tensors: list[Tensor]
    error: TritonError | None = None

    def said(self) -> dict[str, Any]:
        outputs = {tensor.name: tensor.as_numpy()[0] for tensor in self.output_tensors}
        return {name: value.decode() if isinstance(value, bytes) else int(value) for name, value in outputs.items()}


@dataclass
class Request:
    """A request and its sender. ``cancel_after`` responses nobody waits any more."""

    inputs: dict[str, NDArray[Any]]
    cancel_after: int = 10**9
    options: dict[str, Any] = field(default_factory=dict)
    sent: list[tuple[InferenceResponse, int]] = field(default_factory=list)

    def get_response_sender(self) -> Request:
        return self

    def parameters(self) -> str:
        return json.dumps(self.options) if self.options else ""

    def send(self, response: InferenceResponse, flags: int = 0) -> None:
        self.sent.append((response, flags))

    def is_cancelled(self) -> bool:
        return len(self.sent) >= self.cancel_after


def get_input_tensor_by_name(request: Request, name: str) -> Tensor | None:
    return Tensor(name, request.inputs[name]) if name in request.inputs else None


def bytes_array(*items: bytes | str) -> NDArray[Any]:
    return np.array([item.encode() if isinstance(item, str) else item for item in items], np.object_)
