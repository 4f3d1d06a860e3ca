"""A stream of pictures for different buckets at `luvc-export serve`: `python serve.py BUNDLE openvino 1`.

Arguments: bundle, back-end, and what follows `--open-plans`. 24 questions with pictures for the plan and its buckets in
turns, six at a time; 8 tokens each. Shown are seconds for all, the median and the longest time to a first token, MiB
of the server at the end (no file behind them, and of files), and how many of the plans answered. `old` in place of the
number leaves the option out.
"""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from memory import page
from PIL import Image

from luvc_export.bundle.folder import load

COUNT, AT_ONCE, TOKENS = 24, 6, 8


def question(bundle: Any, number: int) -> dict[str, Any]:
    """A picture that just fits into one of the plan and its buckets, in turns."""
    plan = bundle.entry().plan
    units = [plan.units, *sorted(bundle.buckets_of(), reverse=True)]
    share = units[number % len(units)] / plan.units - plan.grid[1] / plan.units * (number % len(units) > 0)
    picture = page(*bundle.manifest.image.size, share)
    picture[:8, :8] = number  # no two are the same
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what?"}]
    return {"messages": [{"role": "user", "content": content}], "max_tokens": TOKENS}


def main(folder: str, backend: str, open_plans: str = "1") -> None:
    """Print a row."""
    bundle = load(folder)
    asked = [{"model": Path(folder).name, **question(bundle, number)} for number in range(COUNT)]
    command = [sys.executable, "-m", "luvc_export", "serve", folder, "--backend", backend, "--port", "0", "--json"]
    command += ["--queue", str(COUNT), "--image-cache", "0", "--threads", "1"]
    command += [] if open_plans == "old" else ["--open-plans", open_plans]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = json.loads(server.stdout.readline())["address"]
        while True:
            try:
                urllib.request.urlopen(f"{address}/ready", timeout=60).read()
                break
            except OSError:
                time.sleep(0.2)

        def ask(body: dict[str, Any]) -> dict[str, Any]:
            sent = urllib.request.Request(
                f"{address}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
            )
            reply: dict[str, Any] = json.load(urllib.request.urlopen(sent, timeout=600))
            return reply

        begin = time.perf_counter()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            answers = list(pool.map(ask, asked))
        spent = time.perf_counter() - begin
        first = [answer["timings"]["ttft_ms"] / 1000 for answer in answers]
        fields = dict(
            line.split(":", 1)
            for line in Path(f"/proc/{server.pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
        )
        own, files = (int(fields[name].split()[0]) / 1024 for name in ("Pss_Anon", "Pss_File"))
        taken = {str(answer["usage"]["luvc"]["visual_tokens"]) for answer in answers}
        times = f"{spent:.1f} | {median(first):.1f}, {max(first):.1f}"
        print(f"| {backend} | {open_plans} | {times} | {own:.0f}, {files:.0f} | {len(taken)} |")
    finally:
        server.terminate()
        server.wait(120)


if __name__ == "__main__":
    main(*sys.argv[1:])
