"""Triton's ModelConfig for tests: ``model_config.json`` is the descriptor of model_config.proto
(triton-inference-server/common, BSD-3-Clause) as tritonclient 2.73.0 has it, without the comments.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory, text_format


@cache
def _kind() -> Any:
    data = json.loads(Path(__file__).with_name("model_config.json").read_text(encoding="utf-8"))
    file = json_format.ParseDict(data, descriptor_pb2.FileDescriptorProto())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))


def parse(text: str) -> Any:
    """A ``config.pbtxt`` as a message; an unknown field or value raises ``text_format.ParseError``."""
    return text_format.Parse(text, _kind()())


def as_json(text: str) -> str:
    """The same as Triton hands it to ``initialize``."""
    return json_format.MessageToJson(parse(text), preserving_proto_field_name=True)
