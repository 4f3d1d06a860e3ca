"""Load: thousands of requests, some cancelled, malformed or read slowly; memory, rows and other answers are checked.

``python benchmarks/serving/soak.py BUNDLE [--requests 2000]``, ``... --fuzz 10000`` for mutated bodies. Ends with exit
code 1 where something is wrong. The bundle answers the demo's questions or not: answers are compared with
``Session.generate``, asked one by one before.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import fuzzed
from calling import Client, user

from luvc_export.demo.questions import cases
from luvc_export.runtime.session import Session

#: Shares of requests that are cancelled, malformed and read slowly.
SHARE = 0.05
#: Requests before memory is first looked at: caches, pools and the picture cache fill.
FILL = 400


@contextmanager
def serving(bundle: str, backend: str, threads: int) -> Iterator[Client]:
    """A server in a process of its own, and that it ends as it should."""
    words = ["-m", "luvc_export", "serve", bundle, "--backend", backend, "--threads", str(threads)]
    words += ["--port", "0", "--json", "--quiet", "--image-cache", "8MiB"]
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        client = Client("127.0.0.1", int(ready["address"].rpartition(":")[2]))
        while client.call("GET", "/ready").status != 200:
            time.sleep(0.2)
        try:
            yield client
        finally:
            process.send_signal(signal.SIGTERM)
            if process.wait(150) != 0:
                raise SystemExit(f"the server ended with {process.returncode}")


class Soak:
    """One run.

    Args:
        client: Of the server.
        model: Its model.
        asked: Messages and the answers they must get.
    """

    def __init__(self, client: Client, model: str, asked: list[tuple[Any, str]]) -> None:
        self.client, self.model, self.asked = client, model, asked
        self.counts: Counter[str] = Counter()
        self.wrong: list[Any] = []

    def __call__(self, number: int) -> None:
        """Send request ``number``; its kind follows from it."""
        chance = random.Random(number)
        drawn = chance.random()
        messages, wanted = chance.choice(self.asked)
        if drawn < SHARE:
            kind, got = "cancelled", self.cancelled(messages)
        elif drawn < 2 * SHARE:
            kind, got = "malformed", self.malformed(number)
        elif drawn < 3 * SHARE:
            kind, got = "slow", self.streamed(messages, wanted, 0.05)
        elif drawn < 0.6:
            kind, got = "streamed", self.streamed(messages, wanted, 0.0)
        else:
            kind, got = "whole", self.whole(messages, wanted)
        self.counts[kind] += 1
        if got is not None:
            self.wrong.append([number, kind, got])

    def whole(self, messages: Any, wanted: str) -> Any:
        """An answer at once, asked again where the queue is full."""
        while (reply := self.client.chat(model=self.model, messages=messages)).status == 429:
            self.counts["told to come back"] += 1
            time.sleep(float(reply.headers["retry-after"]) / 4)
        return None if reply.status == 200 and reply.text == wanted else [reply.status, reply.body[:200].decode()]

    def streamed(self, messages: Any, wanted: str, pause: float) -> Any:
        """An answer as it grows, read with pauses."""
        text, started = "", False
        while not started:
            try:
                for event in self.client.events(model=self.model, messages=messages):
                    started = True
                    time.sleep(pause)
                    text += (event["choices"][0]["delta"].get("content") or "") if event["choices"] else ""
            except RuntimeError as error:
                if not str(error).startswith("429"):
                    return str(error)
                self.counts["told to come back"] += 1
                time.sleep(0.25)
        return None if text == wanted else text

    def cancelled(self, messages: Any) -> Any:
        """Gone after the first event."""
        stream = self.client.events(model=self.model, messages=messages, max_tokens=100, temperature=1.0)
        try:
            next(stream)
        except RuntimeError as error:
            return None if str(error).startswith("429") else str(error)
        finally:
            stream.close()  # type: ignore[attr-defined]
        return None

    def malformed(self, number: int) -> Any:
        """A mutated body: anything but a crash."""
        status = self.client.call("POST", "/v1/chat/completions", fuzzed.body(number, self.model)).status
        return None if status in (200, 400, 404, 413, 415, 429) else status


def soak(bundle: str, backend: str, threads: int, count: int) -> dict[str, Any]:
    """Run and say what was seen."""
    folder, _, plan = bundle.partition("#")
    session = Session(folder, backend, plan or None, threads)
    asked = []
    for case in cases("heldout", 112):
        asked.append((user(case.prompt, *case.images), session.generate(list(case.images), case.prompt).text))
    with serving(bundle, backend, threads) as client:
        model = client.call("GET", "/v1/models").json()["data"][0]["id"]
        run = Soak(client, model, asked)
        memory = []
        with ThreadPoolExecutor(8) as pool:
            for first in range(0, count, 200):
                list(pool.map(run, range(first, min(first + 200, count))))
                memory.append(client.metric("luvc_anonymous_bytes") / 2**20)
                print(f"{first + 200} of {count}: {memory[-1]:.1f} MiB", file=sys.stderr, flush=True)
        time.sleep(1)
        left = client.metric("luvc_rows"), client.metric("luvc_queue")
        body, status = asked[0][1], run.whole(*asked[0])
    filled = memory[min(FILL // 200, len(memory)) - 1]
    growth = memory[-1] / filled - 1
    good = not run.wrong and left == (0, 0) and abs(growth) < 0.05 and status is None
    facts = {"requests": count, **run.counts, "wrong": run.wrong[:5], "rows_and_queue_left": left}
    return {
        **facts,
        "memory_mib": memory,
        "growth": growth,
        "answers_after": body if status is None else status,
        "good": good,
    }


def fuzz(bundle: str, backend: str, threads: int, count: int) -> dict[str, Any]:
    """Mutated bodies; every status must be one that says what is wrong, and the server must answer afterwards."""
    with serving(bundle, backend, threads) as client:
        model = client.call("GET", "/v1/models").json()["data"][0]["id"]
        statuses = fuzzed.send(client, count, 7, model)
        after = client.chat(model=model, messages=[{"role": "user", "content": "Hello"}], max_tokens=2).status
        left = client.metric("luvc_rows"), client.metric("luvc_queue")
    good = set(statuses) <= {200, 400, 404, 413, 415, 429} and after == 200 and left == (0, 0)
    return {
        "bodies": count,
        "statuses": dict(statuses),
        "answers_after": after,
        "rows_and_queue_left": left,
        "good": good,
    }


def main() -> None:
    """Run one and print it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--fuzz", type=int)
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    ways = (fuzz, options.fuzz) if options.fuzz else (soak, options.requests)
    result = ways[0](options.bundle, options.backend, options.threads, ways[1])
    print(json.dumps(result))
    sys.exit(not result["good"])


if __name__ == "__main__":
    main()
