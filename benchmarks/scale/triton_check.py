"""Ask a tritonserver over HTTP and gRPC: 100 questions, streams, seeds, chats, a cancelled one, a broken picture.

Reads JSON from standard input: ``model``, ``ports`` (HTTP, gRPC, metrics), ``questions`` (prompt, images as base64, the
text that Session answers). Ends with exit code 1 and a line for each check that fails.
"""

from __future__ import annotations

import base64
import http.client
import json
import queue
import re
import sys
import time
from typing import Any

import numpy as np
import tritonclient.grpc as grpc

facts = json.load(sys.stdin)
MODEL, (HTTP, GRPC, METRICS), QUESTIONS = facts["model"], facts["ports"], facts["questions"]
failed: list[str] = []


def check(name: str, good: bool, detail: object = "") -> None:
    """One line, and whether all is well so far."""
    print(f"{'ok' if good else 'FAILED'}: {name} {detail}".rstrip(), flush=True)
    if not good:
        failed.append(name)


def call(method: str, path: str, body: Any = None, port: int = HTTP) -> tuple[int, bytes]:
    """Status and body of an HTTP request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    data = None if body is None else json.dumps(body)
    connection.request(method, path, data, {"content-type": "application/json"} if data else {})
    answer = connection.getresponse()
    reply = answer.status, answer.read()
    connection.close()
    return reply


def generate(body: dict[str, Any]) -> dict[str, Any]:
    """The answer over HTTP."""
    status, data = call("POST", f"/v2/models/{MODEL}/generate", body)
    fields = json.loads(data)
    return {"status": status, **fields}


def events(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Server-sent events over HTTP."""
    status, data = call("POST", f"/v2/models/{MODEL}/generate_stream", {**body, "stream": True})
    assert status == 200, data
    return [json.loads(line[6:]) for line in data.decode().splitlines() if line.startswith("data: ")]


_TYPES = {"max_tokens": ("INT32", np.int32), "temperature": ("FP32", np.float32), "seed": ("UINT64", np.uint64)}


def tensors(asked: dict[str, Any]) -> list[grpc.InferInput]:
    """Inputs of a gRPC request."""
    arrays = []
    for name, value in asked.items():
        kind, dtype = _TYPES.get(name, ("BOOL", np.bool_) if name == "stream" else ("BYTES", np.object_))
        items = value if isinstance(value, list) else [value]
        array = np.array([one.encode() if isinstance(one, str) else one for one in items], dtype)
        arrays.append(grpc.InferInput(name, array.shape, kind))
        arrays[-1].set_data_from_numpy(array)
    return arrays


class Caller:
    """A gRPC stream."""

    def __init__(self) -> None:
        self._client = grpc.InferenceServerClient(f"127.0.0.1:{GRPC}")
        self.found: queue.Queue[tuple[Any, Any]] = queue.Queue()
        self._client.start_stream(lambda result, error: self.found.put((result, error)))

    def send(self, asked: dict[str, Any]) -> None:
        """Ask."""
        self._client.async_stream_infer(MODEL, tensors(asked), enable_empty_final_response=True)

    def pieces(self) -> list[dict[str, Any]]:
        """All responses of one request."""
        pieces = []
        while True:
            result, error = self.found.get(timeout=120)
            if error is not None:
                pieces.append({"error": str(error)})
                return pieces
            response = result.get_response()
            if response.outputs:
                pieces.append(
                    {name: result.as_numpy(name)[0] for name in ("text", "finish_reason", "completion_tokens")}
                )
            if response.parameters["triton_final_response"].bool_param:
                return pieces

    def close(self, cancel: bool = False) -> None:
        """End the stream; with ``cancel``, its requests too."""
        self._client.stop_stream(cancel_requests=cancel)
        self._client.close()


#: Letters with blanks between, a token each: about 220 tokens.
LONG = "([a-z] ){110}"


def gauge(name: str) -> float:
    """A metric of this model."""
    text = call("GET", "/metrics", port=METRICS)[1].decode()
    values = re.findall(rf'^{name}{{[^}}]*model="{MODEL}"[^}}]*}} ([0-9.e+]+)$', text, re.M)
    return sum(map(float, values))


check("health", call("GET", "/v2/health/live")[0] == 200 and call("GET", "/v2/health/ready")[0] == 200)
check("the model is ready", call("GET", f"/v2/models/{MODEL}/ready")[0] == 200)
check("a foreign model is not", call("GET", "/v2/models/nothing/ready")[0] != 200)
described = json.loads(call("GET", f"/v2/models/{MODEL}")[1])
check("it names its inputs", {"prompt", "image", "messages"} <= {one["name"] for one in described["inputs"]})

right = 0
for one in QUESTIONS:
    reply = generate({"prompt": one["prompt"], "image": one["images"]})
    right += reply.get("text") == one["text"] and reply["finish_reason"] == "stop"
check("HTTP answers as Session does", right == len(QUESTIONS), f"{right} of {len(QUESTIONS)}")

caller, right, pieces = Caller(), 0, 0
for one in QUESTIONS:
    images = [base64.b64decode(image) for image in one["images"]]
    caller.send({"prompt": one["prompt"], "image": images, "stream": True})
    parts = caller.pieces()
    right += "".join(part.get("text", b"").decode() for part in parts) == one["text"]
    pieces += len(parts)
caller.close()
check("gRPC streams answer as Session does", right == len(QUESTIONS), f"{right} of {len(QUESTIONS)}, {pieces} pieces")
check("answers come in pieces", pieces > 2 * len(QUESTIONS))

first = QUESTIONS[0]
parts = events({"prompt": first["prompt"], "image": first["images"]})
check("server-sent events", "".join(part["text"] for part in parts) == first["text"] and len(parts) > 1)
content = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}} for image in first["images"]]
chat = json.dumps([{"role": "user", "content": [*content, {"type": "text", "text": first["prompt"]}]}])
check("messages", generate({"messages": chat}).get("text") == first["text"])

drawn = {"prompt": first["prompt"], "image": first["images"], "temperature": 100.0, "max_tokens": 12}
same = {generate({**drawn, "seed": 7})["text"] for _ in range(3)}
others = {generate({**drawn, "seed": seed})["text"] for seed in range(4)}
check("a seed draws the same, others draw others", len(same) == 1 and len(others) > 1)

for name, body in {
    "a broken picture": {"prompt": "x", "image": base64.b64encode(b"\x89PNG broken").decode()},
    "a path for a picture": {"prompt": "x", "image": "/etc/hostname"},
    "neither prompt nor messages": {"image": first["images"]},
    "a temperature below 0": {"prompt": "x", "temperature": -1.0},
    "messages that are none": {"messages": "{"},
    "an option that is no input": {"prompt": "x", "max_new_tokens": 3},
    "a prompt that is too long": {"prompt": "row " * 5000},
}.items():
    reply = generate(body)
    check(f"{name} is refused", reply["status"] == 400 and "error" in reply, reply.get("error", reply))

caller = Caller()
caller.send({"prompt": first["prompt"], "regex": LONG, "stream": True})
begun = caller.found.get(timeout=120)
caller.close(cancel=True)
check("a long answer has begun", begun[1] is None)
began = time.monotonic()
answered = generate({"prompt": first["prompt"], "image": first["images"]}).get("text") == first["text"]
check("after a cancelled answer the next is right", answered, f"{time.monotonic() - began:.2f} s later")
began = time.monotonic()
whole = generate({"prompt": first["prompt"], "regex": LONG})
took = time.monotonic() - began
check("the same, not cancelled, is long", len(whole["text"]) >= 219, f"{took:.2f} s")
success = gauge("nv_inference_request_success")
check("metrics count answers", success >= 2 * len(QUESTIONS), success)
check("still ready", call("GET", "/v2/health/ready")[0] == 200)
print("failed: " + ", ".join(failed) if failed else "tritonserver: all checks pass")
sys.exit(bool(failed))
