"""What docs/serving.md says of the server, measured: ``python benchmarks/serving/figures.py WHAT BUNDLE [--plan P]``.

Every figure is a ratio of runs in turns on one machine, so that other work on it falls on both.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from statistics import median
from typing import Any

import numpy as np
from calling import Client, png, user

from luvc_export.demo.questions import cases
from luvc_export.runtime.session import Session
from luvc_export.serve.models import Models, ServedModel
from luvc_export.serve.options import ServeOptions
from luvc_export.serve.server import Server


@contextmanager
def serving(session: Session, **options: Any) -> Iterator[tuple[Server, Client]]:
    """A server in this process."""
    server = Server(ServeOptions(port=0, **options), Models([ServedModel("model", session)]))
    listening, up = server.listen(), threading.Event()
    thread = threading.Thread(target=server.run, args=(listening, up.set))
    thread.start()
    up.wait()
    server.engine.ready.wait()
    try:
        yield server, Client("127.0.0.1", listening.getsockname()[1])
    finally:
        server.stop()
        thread.join()


def equal(session: Session, count: int) -> dict[str, Any]:
    """Held-out questions over HTTP, 8 at a time, against ``Session.generate`` one by one."""
    asked = list(cases("heldout", count))
    alone = [session.generate(list(case.images), case.prompt).text for case in asked]
    with serving(session) as (_, client):

        def ask(case: Any) -> str:
            return client.chat(model="model", messages=user(case.prompt, *case.images)).text

        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(ask, asked))
        steps = client.metric("luvc_inter_token_seconds_count")
        tokens = client.metric("luvc_completion_tokens_total")
        hits = client.metric("luvc_image_cache_hits_total")
    same = sum(one == other for one, other in zip(alone, together, strict=True))
    differ = [
        [case.prompt, one, other] for case, one, other in zip(asked, alone, together, strict=True) if one != other
    ]
    right = sum(text == case.answer for text, case in zip(together, asked, strict=True))
    return {
        "questions": count,
        "same": same,
        "right": right,
        "differ": differ[:5],
        "rows_a_step": (tokens - count) / steps,
        "cache_hits": hits,
    }


def decode(session: Session, tokens: int, rounds: int) -> dict[str, Any]:
    """Forced answers of ``tokens`` tokens: 8 at once against 8 one after another, in turns, decode steps alone."""
    ends = session.bundle.manifest.prompt.eos_token_ids
    forced = {"max_tokens": tokens, "logit_bias": {str(end): -100 for end in ends}}
    height, width = session.size
    pictures = np.random.default_rng(0).integers(0, 256, (8, height, width, 3)).astype(np.uint8)
    pairs = []
    with serving(session) as (_, client):

        def ask(number: int) -> int:
            messages = user(f"Describe picture {number}.", pictures[number])
            return int(client.chat(model="model", messages=messages, **forced).json()["usage"]["completion_tokens"])

        def spent(workers: int) -> tuple[float, float]:
            before = client.metric("luvc_inter_token_seconds_sum"), client.metric("luvc_inter_token_seconds_count")
            with ThreadPoolExecutor(workers) as pool:
                lengths = sum(pool.map(ask, range(8)))
            assert lengths == 8 * tokens, lengths
            after = client.metric("luvc_inter_token_seconds_sum"), client.metric("luvc_inter_token_seconds_count")
            return after[0] - before[0], after[1] - before[1]

        spent(8)
        for _ in range(rounds):
            pairs.append((spent(1), spent(8)))
    ratios = [alone[0] / together[0] for alone, together in pairs]
    return {
        "tokens": tokens,
        "decode_ratio": median(ratios),
        "ratios": ratios,
        "ms_a_step_of_one_row": 1000 * median(alone[0] / alone[1] for alone, _ in pairs),
        "steps_of_8_answers": [together[1] for _, together in pairs],
    }


def cached(session: Session, rounds: int) -> dict[str, Any]:
    """First token with the picture in the cache against a new picture, in turns; and what cutting the prompt costs."""
    height, width = session.size
    random = np.random.default_rng(1)
    times: dict[str, list[float]] = {"none": [], "prefix": []}
    with serving(session) as (_, client):
        for number in range(rounds + 1):
            picture = random.integers(0, 256, (height, width, 3)).astype(np.uint8)
            for wanted, text in (("none", "What is this?"), ("prefix", "And what is that?")):
                timings = client.chat(model="model", messages=user(text, picture), max_tokens=1).json()["timings"]
                assert timings["cache"] == wanted, timings
                if number:
                    times[wanted].append(timings["vision_ms"] + timings["prefix_ms"] + timings["question_ms"])
    split, whole = [], []
    for _ in range(rounds):
        request = session.prepare(random.integers(0, 256, (height, width, 3)).astype(np.uint8), "What is this?")
        seen = session.default.encode_images(request.images)
        cut = request.token_ids.index(session.bundle.manifest.prompt.image_token_id) + 2
        for prefix, parts in (
            (whole, (request.token_ids,)),
            (split, (request.token_ids[:cut], request.token_ids[cut:])),
        ):
            begin, state = time.process_time(), None
            for number, ids in enumerate(parts):
                state = session.default.run(ids, None if number else seen, state).state
            prefix.append(time.process_time() - begin)
    return {
        "first_token_ms_new": median(times["none"]),
        "first_token_ms_hit": median(times["prefix"]),
        "times_sooner": median(times["none"]) / median(times["prefix"]),
        "prefill_cpu_ms_whole": 1000 * median(whole),
        "prefill_cpu_ms_cut_in_two": 1000 * median(split),
    }


def first(session: Session, rounds: int) -> dict[str, Any]:
    """First token over HTTP against ``Session``: one user in turns with it, then eight at once; new pictures always."""
    height, width = session.size
    random, ends = np.random.default_rng(3), session.bundle.manifest.prompt.eos_token_ids
    bias = dict.fromkeys(ends, -100.0)

    def asked() -> tuple[str, bytes]:
        pixels = random.integers(0, 256, (height // 8, width // 8, 3)).astype(np.uint8)
        return f"What is {random.integers(10**6)}?", png(pixels.repeat(8, 0).repeat(8, 1))

    def alone(prompt: str, picture: bytes) -> float:
        begin = time.perf_counter()
        session.generate(picture, prompt, max_new_tokens=1, logit_bias=bias)
        return time.perf_counter() - begin

    def over_http(client: Client, request: dict[str, Any]) -> float:
        begin = time.perf_counter()
        for event in client.events(**request):
            if any(choice["delta"].get("content") or choice["finish_reason"] for choice in event["choices"]):
                return time.perf_counter() - begin
        raise RuntimeError("a stream without a token")

    def request(prompt: str, picture: bytes) -> dict[str, Any]:
        forced = {"max_tokens": 1, "logit_bias": {str(end): value for end, value in bias.items()}}
        return {"model": "model", "messages": user(prompt, picture), **forced}

    pairs, queues = list[tuple[float, float]](), list[list[float]]()
    with serving(session) as (_, client), ThreadPoolExecutor(8) as pool:
        for number in range(rounds + 2):
            pair = alone(*asked()), over_http(client, request(*asked()))
            together = sorted(pool.map(lambda one: over_http(client, one), [request(*asked()) for _ in range(8)]))
            if number > 1:
                pairs.append(pair)
                queues.append(together)
    session_s = median(one for one, _ in pairs)
    return {
        "session_ms": 1000 * session_s,
        "http_adds_ms": 1000 * median(other - one for one, other in pairs),
        "http_by_session": median(other / one for one, other in pairs),
        "nth_of_eight_by_n_sessions": [
            median(each[place] for each in queues) / ((place + 1) * session_s) for place in range(8)
        ],
    }


def late(session: Session, tokens: int) -> dict[str, Any]:
    """What the engine runs between a late comer's arrival and its first token, while another answer grows."""
    ends = session.bundle.manifest.prompt.eos_token_ids
    forced = {"max_tokens": tokens, "logit_bias": {str(end): -100 for end in ends}}
    height, width = session.size
    pictures = np.random.default_rng(2).integers(0, 256, (2, height, width, 3)).astype(np.uint8)
    with serving(session) as (server, client):
        server.engine.trace = trace = []
        first = client.events(model="model", messages=user("Count.", pictures[0]), **forced)
        for _ in range(4):
            next(first)
        real, at = server.engine.submit, []

        def submit(job: Any) -> None:
            at.append(len(trace))
            real(job)

        server.engine.submit = submit  # type: ignore[method-assign]
        second = client.events(model="model", messages=user("And these?", pictures[1]), **forced)
        next(second)
        between = trace[at[0] : trace.index("prefill", at[0])]
        for stream in (first, second):
            for _ in stream:
                pass
    return {"ran_before_its_prefill": between, "rows_after": sorted(set(trace), key=len)}


def schema(session: Session, count: int) -> dict[str, Any]:
    """Answers of a finite JSON schema, drawn at temperature 1: how many parse and fit; and greedy text under a mask."""
    finite = {
        "type": "object",
        "properties": {
            "colour": {"enum": ["red", "green", "blue", "black"]},
            "digit": {"type": "integer", "minimum": 0, "maximum": 9},
            "sure": {"type": "boolean"},
            "places": {"type": "array", "items": {"enum": ["left", "right"]}, "minItems": 1, "maxItems": 2},
        },
        "required": ["colour", "digit", "sure", "places"],
        "additionalProperties": False,
    }
    shape = {"type": "json_schema", "json_schema": {"name": "mark", "schema": finite, "strict": True}}
    asked = list(cases("heldout", count))
    parsed = same = 0
    with serving(session) as (_, client):

        def ask(number: int) -> bool:
            case = asked[number]
            drawn = {"temperature": 1.0, "seed": number, "response_format": shape, "max_tokens": 120}
            value = json.loads(client.chat(model="model", messages=user(case.prompt, *case.images), **drawn).text)
            good = value["colour"] in ("red", "green", "blue", "black") and 0 <= value["digit"] <= 9
            return good and isinstance(value["sure"], bool) and 1 <= len(value["places"]) <= 2 and len(value) == 4

        with ThreadPoolExecutor(8) as pool:
            parsed = sum(pool.map(ask, range(count)))
        for case in asked[:20]:
            request = {"model": "model", "messages": user(case.prompt, *case.images)}
            masked = client.chat(**request, response_format={"type": "regex", "regex": "(?s:.*)"}).text
            same += client.chat(**request).text == masked
    return {"asked": count, "parse_and_fit": parsed, "greedy_text_unchanged": f"{same} of 20"}


def main() -> None:
    """Measure one thing and print it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("equal", "decode", "cached", "first", "late", "schema"))
    parser.add_argument("bundle")
    parser.add_argument("--plan")
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--count", type=int, default=504)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    session = Session(options.bundle, options.backend, options.plan, options.threads)
    ways: dict[str, Callable[[], dict[str, Any]]] = {
        "equal": lambda: equal(session, options.count),
        "decode": lambda: decode(session, options.tokens, options.rounds),
        "cached": lambda: cached(session, options.rounds),
        "first": lambda: first(session, options.rounds),
        "late": lambda: late(session, options.tokens),
        "schema": lambda: schema(session, options.count),
    }
    facts = {"what": options.what, "plan": session.plan_name, "backend": session.backend.name}
    print(json.dumps({**facts, "arithmetic": session.backend.arithmetic, **ways[options.what]()}))


if __name__ == "__main__":
    main()
