"""``config.pbtxt``: Triton's ModelConfig as text.

Inputs and outputs have the names and types of NVIDIA's VLM tutorial (triton-inference-server/tutorials,
Popular_Models_Guide/Llava1.5), and more that are optional.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

#: Name, type, dims; all optional, as ``messages`` may stand for ``prompt`` and a question may have no picture.
INPUTS = (
    ("prompt", "TYPE_STRING", 1),
    ("image", "TYPE_STRING", -1),
    ("video", "TYPE_STRING", -1),
    ("fps", "TYPE_FP32", 1),
    ("max_tokens", "TYPE_INT32", 1),
    ("temperature", "TYPE_FP32", 1),
    ("top_k", "TYPE_INT32", 1),
    ("frequency_penalty", "TYPE_FP32", 1),
    ("seed", "TYPE_UINT64", 1),
    ("messages", "TYPE_STRING", 1),
    ("stream", "TYPE_BOOL", 1),
    ("top_p", "TYPE_FP32", 1),
    ("stop", "TYPE_STRING", -1),
    ("json_schema", "TYPE_STRING", 1),
    ("regex", "TYPE_STRING", 1),
)
OUTPUTS = (
    ("text", "TYPE_STRING"),
    ("finish_reason", "TYPE_STRING"),
    ("prompt_tokens", "TYPE_INT32"),
    ("completion_tokens", "TYPE_INT32"),
    ("total_tokens", "TYPE_INT32"),
)
#: Of a model that decodes nothing: texts, pictures, or as many of both, and vectors of each, one's behind another's.
VECTOR_INPUTS = (
    ("prompt", "TYPE_STRING", -1),
    ("image", "TYPE_STRING", -1),
    ("prompt_name", "TYPE_STRING", 1),
    ("instruction", "TYPE_STRING", 1),
    ("dimensions", "TYPE_INT32", 1),
    ("pool", "TYPE_INT32", 1),
)
VECTOR_OUTPUTS = (("vectors", "TYPE_FP32", "-1, -1"), ("counts", "TYPE_INT32", "-1"))
#: Of back-ends that need no GPU of NVIDIA's.
_KINDS = {"auto": "KIND_AUTO", "cpu": "KIND_CPU", "openvino": "KIND_CPU"}
#: First line of every file written here.
MARK = "# Written by luvc-export triton."


@dataclass(frozen=True)
class ModelConfig:
    """What differs between models.

    Args:
        name: Of the model.
        backend: See ``runtime.backends``.
        instances: Sessions, on each device.
        warm_up: Ask a picture, or a clip, before the model is ready.
        parameters: For ``triton.model``: bundle, and options of its session as ``SessionOptions.texts`` has them.
        frames: Of the clip that warms up a plan for whole clips; 0 for a picture.
        decodes: It answers; else it gives vectors.
    """

    name: str
    backend: str
    instances: int = 1
    warm_up: bool = True
    parameters: dict[str, str] = field(default_factory=dict)
    frames: int = 0
    decodes: bool = True

    def text(self) -> str:
        """The file."""
        lines = [MARK, f"name: {_quoted(self.name)}", 'backend: "python"', "max_batch_size: 0"]
        lines.append("model_transaction_policy { decoupled: true }")
        lines += [
            f"input {{ name: {_quoted(name)} data_type: {kind} dims: [ {dims} ] optional: true }}"
            for name, kind, dims in (INPUTS if self.decodes else VECTOR_INPUTS)
        ]
        outputs = [(name, kind, "1") for name, kind in OUTPUTS] if self.decodes else VECTOR_OUTPUTS
        lines += [
            f"output {{ name: {_quoted(name)} data_type: {kind} dims: [ {dims} ] }}" for name, kind, dims in outputs
        ]
        kind = _KINDS.get(self.backend.partition(":")[0], "KIND_GPU")
        lines.append(f"instance_group {{ count: {self.instances} kind: {kind} }}")
        lines += [
            f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(value)} }} }}"
            for key, value in sorted(self.parameters.items())
        ]
        if self.warm_up:
            lines.append(f'model_warmup {{\n  name: "{"clip" if self.frames else "picture"}"')
            lines += [
                f"  inputs {{ key: {_quoted(name)} value {{ data_type: {kind} dims: [ {dims} ] "
                f"input_data_file: {_quoted(name)} }} }}"
                for name, kind, dims in warm_up_inputs(self.frames, self.decodes)
            ]
            lines.append("}")
        return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A string of protobuf's text format: bytes that are not printable ASCII as escapes."""
    plain = "".join(
        letter if letter.isascii() and letter.isprintable() else "".join(f"\\{byte:03o}" for byte in letter.encode())
        for letter in text.replace("\\", "\\\\").replace('"', '\\"')
    )
    return f'"{plain}"'


def bytes_tensor(*items: bytes) -> bytes:
    """Elements of a TYPE_STRING tensor as Triton keeps them: each with its length, four bytes, little end first."""
    return b"".join(len(item).to_bytes(4, "little") + item for item in items)


def warm_up_inputs(frames: int, decodes: bool = True) -> tuple[tuple[str, str, int], ...]:
    """What a model is asked before it is ready, files of the folder ``warmup``: name, type, dims."""
    shown = ("video", "TYPE_STRING", frames) if frames else ("image", "TYPE_STRING", 1)
    return (("prompt", "TYPE_STRING", 1), shown, ("max_tokens", "TYPE_INT32", 1)) if decodes else (shown,)


def warm_up_files(picture: bytes, frames: int = 0, decodes: bool = True) -> dict[str, bytes]:
    """Files of the folder ``warmup``: a picture (PNG, say) or a clip of so many such frames, a prompt, two tokens."""
    files = {
        "prompt": bytes_tensor(b"What is this?"),
        "video" if frames else "image": bytes_tensor(*[picture] * max(frames, 1)),
        "max_tokens": (2).to_bytes(4, "little"),
    }
    return {name: files[name] for name, _, _ in warm_up_inputs(frames, decodes)}


def parameters_of(config: str) -> dict[str, str]:
    """``parameters`` of a model's configuration as Triton gives it to ``initialize``: JSON."""
    parameters = json.loads(config).get("parameters", {})
    return {key: value["string_value"] for key, value in parameters.items()}
