"""Mutated bundles, pictures, plans and checkpoints, by seed: only our own errors, in time, or an unchanged answer.

    python tests/runtime/fuzz.py bundles --count 10000 --seed 1

A bundle's ``luvc.json`` gets another value somewhere, or a file other bytes; every second time the hashes are made
right again, as a stranger would. Nothing here looks at what the code does, so it stays true when the code changes.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import hashlib
import io
import json
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tiny_bundle
from PIL import Image

from luvc_export.bundle import folder as bundles
from luvc_export.core.plan import Plan
from luvc_export.errors import LuvcError
from luvc_export.runtime.media.pictures import open_picture
from luvc_export.runtime.session import Session

#: Seconds and bytes of memory that one case may take.
SECONDS, MEMORY = 10, 2**30
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**63, -(2**63), 10**9, 10**11, 10**40, 0.5, -0.0, 1e308),
    *(
        float("inf"),
        float("nan"),
        "",
        "x",
        "../x",
        "/etc/passwd",
        "[/bold]",
        "\x1b[2J",
        "\ud800",
        "a\0b",
        "x" * 100_000,
    ),
    *("x" * 100_000, [], {}, [[]], {"": 0}, [10**9, 10**9], [None] * 1000),
)


class Hang(Exception):  # noqa: N818
    """A case took longer than ``SECONDS``."""


@contextmanager
def limited() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fault(case: Callable[[], None]) -> str | None:
    """Run a case: what is wrong with how it ended, None if nothing is."""
    memory = _peak(anew=True)
    try:
        with limited():
            case()
    except LuvcError:
        pass
    except Hang:
        return f"no end after {SECONDS} s"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    grown = _peak() - memory
    return f"{grown / 2**20:,.0f} MiB" if grown > MEMORY else None


def _peak(anew: bool = False) -> int:
    """Most bytes this process held; ``anew`` counts from now on, where the system can forget what was before."""
    if anew:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak resident set size
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def mutate_json(data: Any, dice: random.Random) -> Any:
    """A copy with another value at a random place, or a field less."""
    changed = copy.deepcopy(data)
    places: list[tuple[Any, Any]] = []
    waiting = [changed]
    while waiting:
        inner = waiting.pop()
        keys = list(inner) if isinstance(inner, dict) else range(len(inner)) if isinstance(inner, list) else ()
        places += [(inner, key) for key in keys]
        waiting += [inner[key] for key in keys]
    inner, key = dice.choice(places)
    if dice.random() < 0.1:
        del inner[key]
    else:
        inner[key] = dice.choice(VALUES)
    return changed


def mutate_bytes(data: bytes, dice: random.Random) -> bytes:
    """Other bytes, some less, or some twice."""
    made, at = bytearray(data), dice.randrange(max(1, len(data)))
    kind = dice.randrange(4)
    if kind == 0:
        for _ in range(dice.choice((1, 4, 16))):
            made[dice.randrange(len(made))] = dice.randrange(256)
    elif kind == 1:
        del made[at : at + dice.choice((1, 100, len(made)))]
    elif kind == 2:
        made[at:at] = made[: dice.choice((1, 100, 1000))]
    else:
        made[at : at + 8] = dice.choice((b"\xff" * 8, bytes(8), b"\x80" * 8, b"\x7f" * 8))
    return bytes(made)


def bundle_case(original: Path, place: Path, dice: random.Random) -> Callable[[], None]:
    """A mutated copy of a bundle, to be asked something; an answer from changed bytes is a fault."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(original, place)
    data = json.loads((place / "luvc.json").read_text())
    name = dice.choice(["luvc.json", "luvc.json", *data["files"]])
    rehashed = name == "luvc.json" or dice.random() < 0.5
    if name == "luvc.json":
        data = mutate_json(data, dice)
    else:
        content = (place / name).read_bytes()
        made = mutate_bytes(content, dice)
        if name.endswith(".json") and dice.random() < 0.7:
            made = json.dumps(mutate_json(json.loads(content), dice)).encode()
        (place / name).write_bytes(made)
        if rehashed:
            data["files"][name] = {"sha256": hashlib.sha256(made).hexdigest(), "bytes": len(made)}
        elif made == content:
            rehashed = True
    (place / "luvc.json").write_text(json.dumps(data))

    def ask() -> None:
        session = Session(bundles.load(place), threads=1)
        session.generate(Image.new("RGB", (4, 4)), "hello", max_new_tokens=2)
        if not rehashed:
            raise AssertionError(f"an answer from a changed {name}")

    return ask


def picture_case(dice: random.Random) -> Callable[[], None]:
    """A mutated picture of one of Pillow's kinds."""
    stored = io.BytesIO()
    kind, options = dice.choice(
        [("JPEG", {"progressive": True}), *((kind, {}) for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"))]
    )
    Image.effect_noise((dice.choice((1, 33, 100)), 40), 60).convert("RGB").save(stored, kind, **options)
    data = mutate_bytes(stored.getvalue(), dice)
    return lambda: open_picture(data) and None


def plan_case(dice: random.Random) -> Callable[[], None]:
    """A mutated plan."""
    data = mutate_json(tiny_bundle.PLAN.to_json(), dice)

    def read() -> None:
        _ = Plan.from_json(data).prunes

    return read


def checkpoint_case(original: Path, place: Path, dice: random.Random) -> Callable[[], None]:
    """A checkpoint with a mutated config, processor or safetensors header."""
    from luvc_export.export.checkpoint import open_checkpoint
    from luvc_export.export.processor import normalise

    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(original, place)
    name = dice.choice(["config.json", "config.json", "preprocessor_config.json", "model.safetensors"])
    content = (place / name).read_bytes()
    if name.endswith(".json"):
        made = json.dumps(mutate_json(json.loads(content), dice)).encode()
    else:
        length = int.from_bytes(content[:8], "little")
        header = json.dumps(mutate_json(json.loads(content[8 : 8 + length]), dice)).encode()
        made = len(header).to_bytes(8, "little") + header + content[8 + length :]
    (place / name).write_bytes(made)

    def read() -> None:
        normalise(open_checkpoint(str(place)))

    return read


def cases(kind: str, seed: int, count: int, folder: Path) -> Iterator[tuple[int, Callable[[], None]]]:
    """``count`` cases from ``seed`` on, each with the seed that makes it again alone."""
    from luvc_export.demo import CHECKPOINT
    from luvc_export.export.checkpoint import open_checkpoint

    original = folder / "original"
    if kind == "bundles":
        tiny_bundle.write(original)
    if kind == "checkpoints":
        open_checkpoint(str(CHECKPOINT))  # the first one imports torch and transformers
    for number in range(seed, seed + count):
        dice = random.Random(number)
        if kind == "bundles":
            yield number, bundle_case(original, folder / "mutated", dice)
        elif kind == "checkpoints":
            yield number, checkpoint_case(CHECKPOINT, folder / "mutated", dice)
        else:
            yield number, picture_case(dice) if kind == "pictures" else plan_case(dice)


def run(kind: str, seed: int, count: int) -> list[str]:
    """Faults of ``count`` cases."""
    faults = []
    with tempfile.TemporaryDirectory(prefix="luvc-fuzz-") as folder:
        for number, case in cases(kind, seed, count, Path(folder)):
            if found := fault(case):
                faults.append(f"{kind} --seed {number}: {found}")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("bundles", "pictures", "plans", "checkpoints"))
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given, begin = parser.parse_args(), time.monotonic()
    faults = run(given.kind, given.seed, given.count)
    print(*faults, sep="\n")
    print(f"{given.count} {given.kind} from seed {given.seed}: {len(faults)} faults, {time.monotonic() - begin:.0f} s")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
