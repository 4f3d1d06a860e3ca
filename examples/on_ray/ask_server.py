"""Ray's own HTTP processor against ``luvc-export serve``: rows become chat requests, answers become rows.

    luvc-export serve qwen-bundle &
    python examples/on_ray/ask_server.py http://127.0.0.1:8000 qwen-bundle IN OUT

IN is a Parquet file or folder with the columns ``image`` (an encoded picture's bytes) and ``prompt``. Several servers
behind a balancer are one address here. Needs ``ray[data]`` and aiohttp; luvc-export itself is the server's.
"""

from __future__ import annotations

import base64
import sys
from typing import Any

import ray.data
from ray.data.llm import HttpRequestProcessorConfig, build_processor


def chat(row: dict[str, Any], model: str) -> dict[str, Any]:
    """A row as the body of a chat request."""
    address = "data:;base64," + base64.b64encode(row["image"]).decode()
    content = [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": row["prompt"]}]
    return {"payload": {"model": model, "messages": [{"role": "user", "content": content}]}}


def text(row: dict[str, Any]) -> dict[str, Any]:
    """The answer, beside the row's own columns."""
    own = {name: value for name, value in row.items() if name not in ("payload", "http_response")}
    return {**own, "text": row["http_response"]["choices"][0]["message"]["content"]}


def main() -> None:
    """Answer."""
    server, model, source, target = sys.argv[1:5]
    config = HttpRequestProcessorConfig(
        url=f"{server}/v1/chat/completions",
        headers={"content-type": "application/json"},
        batch_size=16,
        qps=None,
        max_retries=3,
    )
    processor = build_processor(config, preprocess=lambda row: chat(row, model), postprocess=text)
    processor(ray.data.read_parquet(source)).write_parquet(target)


if __name__ == "__main__":
    main()
