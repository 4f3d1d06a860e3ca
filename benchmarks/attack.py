"""Hostile files and requests by seed, all made here and tried here: bundles, checkpoints, plans, pictures, HTTP bodies.

``python benchmarks/attack.py --seed 1`` tries 2,000 bundles, 1,000 checkpoints, 1,000 plans, 1,000 pictures and 500
bodies, and 50 hostile samplers beside 100 ordinary requests; ``--share 0.05`` a twentieth of each. A case may take 30 s
and 4 GB. Wrong is any error that is not this package's, a process that ends by itself, an answer that is another than
alone, and any change in a home folder that is watched. The server is this machine's own, on loopback. Exit code 1 where
something is wrong; ``--careless`` compares no hash, which must be found.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "serving"), str(HERE.parent / "tests" / "runtime"), str(HERE.parent / "tests")]

import fuzz  # noqa: E402
import fuzz_guard  # noqa: E402
import fuzzed  # noqa: E402
import soak  # noqa: E402

COUNTS = {"bundles": 2000, "checkpoints": 1000, "plans": 1000, "pictures": 1000}
BODIES, SAMPLERS, ORDINARY = 500, 50, 100
#: What one case may take.
SECONDS, MEMORY = 30.0, 2**32
#: Samplers at the ends of what is allowed, and beyond.
HOSTILE: tuple[dict[str, Any], ...] = (
    {"repetition_penalty": 1e-38, "logit_bias": {"1": 100, "2": -100}},
    {"repetition_penalty": 0.01, "logit_bias": {str(token): 100 for token in range(200)}, "temperature": 2},
    {"repetition_penalty": 100, "presence_penalty": -2, "frequency_penalty": -2, "temperature": 1e-300},
    {"temperature": 5e-324, "top_p": 5e-324, "min_p": 1, "logit_bias": {str(token): -100 for token in range(256)}},
    {"response_format": {"type": "regex", "regex": "((((a{1000}){1000}){1000}){1000})"}},
    {"response_format": {"type": "regex", "regex": "(a{100}){99}b*"}, "temperature": 2, "n": 8},
    {"response_format": {"type": "json_schema", "json_schema": {"schema": {"pattern": "(x{999}){999}"}}}},
    {"stop": ["", "a"]},
    {"logprobs": True, "top_logprobs": 20, "n": 8, "temperature": 2, "top_k": 1, "seed": -(2**63)},
    {"logit_bias": {"99999999999": 100}, "temperature": 1.5, "max_tokens": 2**31},
)


@contextmanager
def watched_home(faults: list[str]) -> Iterator[Path]:
    """A home folder with files of somebody, which must be there unchanged afterwards, and nothing else."""
    with tempfile.TemporaryDirectory(prefix="luvc-attack-", ignore_cleanup_errors=True) as folder:
        root = Path(folder)
        home = root / "home"
        (home / "projects").mkdir(parents=True)
        for name in (".bashrc", ".netrc", "secret.txt", "projects/thesis.txt"):
            (home / name).write_text(f"somebody's own {name}\n")
        names, before_us = ("HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "TMPDIR"), tempfile.tempdir
        kept = {name: os.environ.get(name) for name in names}
        os.environ |= {"HOME": str(home), "XDG_CACHE_HOME": str(root / "cache"), "XDG_STATE_HOME": str(root / "state")}
        os.environ["TMPDIR"] = tempfile.tempdir = str(root / "tmp")
        (root / "tmp").mkdir()
        before = _contents(home)
        try:
            yield root
        finally:
            tempfile.tempdir = before_us
            for name, value in kept.items():
                os.environ.pop(name, None)
                os.environ |= {} if value is None else {name: value}
        after = _contents(home)
        faults += [f"the home folder: {name} was changed" for name in before if after.get(name) != before[name]]
        faults += [f"the home folder: {name} was written" for name in after.keys() - before.keys()]


def _contents(home: Path) -> dict[str, str]:
    contents = {}
    for path in home.rglob("*"):
        link = path.is_symlink()
        contents[str(path.relative_to(home))] = (
            "a link" if link else hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "a folder"
        )
    return contents


def files(kind: str, seed: int, count: int) -> list[str]:
    """Faults of ``count`` cases of a kind, each under watch in another process."""
    with tempfile.TemporaryDirectory(prefix="luvc-fuzz-") as folder:
        case_of = fuzz.cases(kind, Path(folder))
        outcomes = fuzz_guard.watched(case_of, range(seed, seed + count))
        return [f"{kind} --seed {number}: {one}" for number, one in outcomes]


def exported(folder: Path) -> Path:
    """The demo's bundle, whose graphs take several questions in a call."""
    from luvc_export.demo import CHECKPOINT, IMAGE_SIZE
    from luvc_export.pipeline import export_bundle

    export_bundle(str(CHECKPOINT), folder, "even", image_size=IMAGE_SIZE, text_capacity=256)
    return folder


def requests(bundle: Path, seed: int, bodies: int, samplers: int, ordinary: int) -> list[str]:
    """Faults of a server that is sent odd bodies, then hostile samplers beside ordinary requests."""
    with soak.serving(str(bundle), "cpu", 1) as client:
        model = client.call("GET", "/v1/models").json()["data"][0]["id"]
        statuses: Counter[int] = fuzzed.send(client, bodies, seed, model)
        faults = [f"{count} bodies ended in {status}" for status, count in statuses.items() if status >= 500]
        texts = [f"question {number}" for number in range(10)]

        def ask(text: str) -> str:
            messages = [{"role": "user", "content": text}]
            while (reply := client.chat(model=model, messages=messages, max_tokens=8)).status == 429:
                time.sleep(0.1)
            return reply.text if reply.status == 200 else f"{reply.status} {reply.body[:200].decode()}"

        alone = {text: ask(text) for text in texts}
        faults += [f"alone: {answer}" for answer in alone.values() if answer[:1].isdigit()]

        def one(number: int) -> str | None:
            if number < samplers:
                body = {"model": model, "messages": [{"role": "user", "content": "a"}], "max_tokens": 8}
                while (reply := client.chat(**{**body, **HOSTILE[number % len(HOSTILE)]})).status == 429:
                    time.sleep(0.1)
                return f"sampler {number}: {reply.status}" if reply.status >= 500 else None
            text = texts[number % len(texts)]
            got = ask(text)
            return None if got == alone[text] else f"request {number}: {got!r}, alone {alone[text]!r}"

        order = list(range(samplers + ordinary))
        random.Random(seed).shuffle(order)
        with ThreadPoolExecutor(8) as pool:
            faults += [fault for fault in pool.map(one, order) if fault]
        if client.call("GET", "/health").status != 200:
            faults.append("the server does not live any more")
    print(f"statuses of bodies: {dict(sorted(statuses.items()))}", flush=True)
    return faults


def main() -> int:
    """Run what was asked for; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--share", type=float, default=1.0, help="of the counts above")
    parser.add_argument("--only", choices=(*COUNTS, "requests"), action="append")
    parser.add_argument("--bundle", type=Path, help="of the server; default: the demo's, exported here")
    parser.add_argument("--careless", action="store_true")
    options, faults = parser.parse_args(), list[str]()
    if options.careless:
        fuzz.be_careless()
    fuzz_guard.SECONDS, fuzz_guard.MEMORY, fuzz_guard.CLOCK = SECONDS, MEMORY, 6 * SECONDS
    share = lambda count: max(1, round(options.share * count))  # noqa: E731
    with watched_home(faults) as root:
        for kind, count in COUNTS.items():
            if options.only is None or kind in options.only:
                begin, outcomes = time.monotonic(), files(kind, options.seed * 10**6, share(count))
                faults += outcomes
                spent = time.monotonic() - begin
                print(
                    f"{share(count)} {kind}: {len(outcomes)} faults, {spent:.0f} s", *outcomes, sep="\n  ", flush=True
                )
        if options.only is None or "requests" in options.only:
            bundle = options.bundle or exported(root / "bundle")
            begin = time.monotonic()
            outcomes = requests(bundle, options.seed, share(BODIES), share(SAMPLERS), share(ORDINARY))
            faults += outcomes
            note = f"{share(BODIES)} bodies, {share(SAMPLERS)} hostile samplers beside {share(ORDINARY)} requests"
            print(
                f"{note}: {len(outcomes)} faults, {time.monotonic() - begin:.0f} s", *outcomes, sep="\n  ", flush=True
            )
    print(json.dumps({"seed": options.seed, "share": options.share, "faults": len(faults)}))
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
