"""What a client builds of the pieces of an answer that calls tools."""

from __future__ import annotations

import json
import re
from typing import Any

from calling import Client


def streamed(client: Client, **asked: Any) -> tuple[dict[str, Any], str]:
    """The message of a chat's chunks, and why it ended."""
    whole: dict[str, Any] = {"role": "assistant", "content": "", "refusal": None}
    calls: list[dict[str, Any]] = []
    reason = ""
    for event in client.events(**asked):
        (choice,) = event["choices"]
        delta, reason = choice["delta"], choice["finish_reason"] or reason
        whole["content"] += delta.get("content") or ""
        for call in delta.get("tool_calls", ()):
            if call["index"] == len(calls):
                calls.append({"id": call["id"], "type": call["type"], "function": {**call["function"]}})
            else:
                calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
    if calls:
        whole |= {"content": whole["content"] or None, "tool_calls": calls}
    return whole, reason


def responded(client: Client, **asked: Any) -> list[tuple[str, ...]]:
    """Calls that a client builds of a response's events, which are those of the whole at its end."""
    asked["input"], asked["max_output_tokens"] = asked.pop("messages"), asked.pop("max_tokens")
    asked["tools"] = [{"type": "function", **tool["function"]} for tool in asked["tools"]]
    raw = client.call("POST", "/v1/responses", json.dumps({**asked, "stream": True}).encode()).body.decode()
    events = [json.loads(line.removeprefix("data: ")) for line in raw.splitlines() if line.startswith("data: ")]
    calls: dict[int, list[str]] = {}
    for event in events:
        if event["type"] == "response.output_item.added" and event["item"]["type"] == "function_call":
            calls[event["output_index"]] = [event["item"]["name"], event["item"]["arguments"]]
        elif event["type"] == "response.function_call_arguments.delta":
            calls[event["output_index"]][1] += event["delta"]
        elif event["type"] == "response.function_call_arguments.done":
            assert calls[event["output_index"]] == [event["name"], event["arguments"]]
    output = events[-1]["response"]["output"]
    assert {
        number: [item["name"], item["arguments"]]
        for number, item in enumerate(output)
        if item["type"] == "function_call"
    } == calls
    return [tuple(call) for call in calls.values()]


def without_ids(answer: dict[str, Any]) -> dict[str, Any]:
    """A message without its calls' ids, which are of a kind that templates take, and each another."""
    calls = answer.get("tool_calls", [])
    assert all(re.fullmatch("call_[0-9a-f]{24}|[A-Za-z0-9]{9}", call["id"]) for call in calls)
    assert len({call["id"] for call in calls}) == len(calls)
    return {**answer, "tool_calls": [call["function"] for call in calls]}
