"""A quiet server against that of another checkout: first token and step, in alternating pairs.

``python benchmarks/serving/quiet.py OTHER BUNDLE [--pairs 30]``: both serve BUNDLE on one thread, each its code;
the same question goes to one and then to the other, which is first takes turns. Every pair asks about another picture,
so that no cache helps. Exit code 1 where a median of the pairs' ratios is above 1.02.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from calling import Client, user

HERE = Path(__file__).resolve().parents[2]
TOKENS, MOST = 40, 1.02


def served(stack: ExitStack, code: Path, bundle: str) -> Client:
    """A server of the code in a checkout, until the stack ends."""
    words = ["-m", "luvc_export", "serve", bundle, "--backend", "cpu", "--threads", "1", "--port", "0", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(code)}
    process = subprocess.Popen([sys.executable, *words, "--quiet"], stdout=subprocess.PIPE, text=True, env=environment)
    stack.callback(process.wait, 150)
    stack.callback(process.send_signal, signal.SIGTERM)
    assert process.stdout is not None
    client = Client("127.0.0.1", int(json.loads(process.stdout.readline())["address"].rpartition(":")[2]))
    while client.call("GET", "/ready").status != 200:
        time.sleep(0.2)
    return client


def asked(client: Client, messages: Any) -> tuple[float, float]:
    """Milliseconds to the first token, and of a further one."""
    begin, moments = time.perf_counter(), []
    for event in client.events(messages=messages, temperature=0, max_tokens=TOKENS, ignore_eos=True):
        if event["choices"] and event["choices"][0]["delta"].get("content"):
            moments.append(time.perf_counter())
    return 1000 * (moments[0] - begin), 1000 * (moments[-1] - moments[0]) / (TOKENS - 1)


def main() -> int:
    """Compare; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="a checkout")
    parser.add_argument("bundle")
    parser.add_argument("--pairs", type=int, default=30)
    options, random = parser.parse_args(), np.random.default_rng(0)
    ratios: dict[str, list[float]] = {"first token": [], "step": []}
    times: dict[str, list[float]] = {f"{name} {which}": [] for name in ratios for which in ("here", "there")}
    with ExitStack() as stack:
        clients = [served(stack, code, options.bundle) for code in (HERE, options.other)]
        for number in range(-3, options.pairs):
            messages = user("What is it?", random.integers(0, 256, (224, 224, 3), np.uint8))
            order = (0, 1) if number % 2 else (1, 0)
            both = {one: asked(clients[one], messages) for one in order}
            for place, name in enumerate(ratios):
                if number >= 0:  # the first ones warm up
                    times[f"{name} here"].append(both[0][place])
                    times[f"{name} there"].append(both[1][place])
                    ratios[name].append(both[0][place] / both[1][place])
    medians = {name: round(statistics.median(values), 4) for name, values in ratios.items()}
    print(
        json.dumps({"ratios": medians, "ms": {name: round(statistics.median(one), 2) for name, one in times.items()}})
    )
    return int(max(medians.values()) > MOST)


if __name__ == "__main__":
    sys.exit(main())
