"""Mutated bundles, pictures, plans and checkpoints, by seed: only our own errors, in time, or an unchanged answer.

    python tests/runtime/fuzz.py bundles --count 10000 --seed 1

A bundle's ``luvc.json`` gets another value somewhere, or a file other bytes; every second time the hashes are made
right again, as a stranger would. Nothing here looks at what the code does, so it stays true when the code changes.
``--careless`` leaves out the comparison of hashes, which the fuzzer must find.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import fuzz_guard
import tiny_bundle
from fuzz_guard import Case, fault
from fuzz_mutations import mutate_bytes, mutate_graph, mutate_json, mutate_template, picture
from PIL import Image

from luvc_export.bundle import folder as bundles
from luvc_export.bundle import hashing
from luvc_export.core.plan import Plan
from luvc_export.runtime.media.pictures import open_picture
from luvc_export.runtime.media.video import open_video
from luvc_export.runtime.session import Session

KINDS = ("bundles", "pictures", "plans", "checkpoints")


def bundle_case(original: Path, place: Path, dice: random.Random) -> Case:
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
        changed = _mutated(name, content, dice)
        (place / name).write_bytes(changed)
        if rehashed:
            data["files"][name] = {"sha256": hashlib.sha256(changed).hexdigest(), "bytes": len(changed)}
        elif changed == content:
            rehashed = True
    (place / "luvc.json").write_text(json.dumps(data))

    def ask() -> None:
        session = Session(bundles.load(place), threads=1)
        session.generate(Image.new("RGB", (4, 4)), "hello", max_new_tokens=2)
        if not rehashed:
            raise AssertionError(f"an answer from a changed {name}")

    return ask


def _mutated(name: str, content: bytes, dice: random.Random) -> bytes:
    """Another content of a bundle's file, mostly one that is still of its kind."""
    if dice.random() < 0.3:
        return mutate_bytes(content, dice)
    if name == "tokenizer_config.json" and dice.random() < 0.7:
        data = json.loads(content)
        return json.dumps({**data, "chat_template": mutate_template(data["chat_template"], dice)}).encode()
    if name.endswith(".json"):
        return json.dumps(mutate_json(json.loads(content), dice)).encode()
    return mutate_graph(content, dice) if name.endswith(".onnx") else mutate_bytes(content, dice)


def picture_case(place: Path, dice: random.Random) -> Case:
    """A mutated picture of one of Pillow's kinds, as bytes, as a file, or as a video."""
    kind, data = picture(dice)
    if kind in ("GIF", "WEBP", "PNG") and dice.random() < 0.2:
        place.write_bytes(data)
        return lambda: open_video(place, 4) and None
    return lambda: open_picture(data) and None


def plan_case(dice: random.Random) -> Case:
    """A mutated plan."""
    data = mutate_json(tiny_bundle.PLAN.to_json(), dice)

    def read() -> None:
        _ = Plan.from_json(data).prunes

    return read


def checkpoint_case(original: Path, place: Path, dice: random.Random) -> Case:
    """A checkpoint with a mutated config, processor, tokenizer or safetensors header; some are exported whole."""
    from luvc_export.export.checkpoint import open_checkpoint
    from luvc_export.export.processor import normalise
    from luvc_export.pipeline.exporting import export_bundle

    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(original, place)
    indexed = dice.random() < 0.1
    names = ["config.json", "config.json", "preprocessor_config.json", "model.safetensors", "tokenizer_config.json"]
    name = "model.safetensors.index.json" if indexed else dice.choice(names)
    whole = dice.random() < 0.01
    if indexed:
        index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": "model.safetensors"}}
        (place / name).write_text(json.dumps(index))
    content = (place / name).read_bytes()
    if name.endswith(".json"):
        changed = json.dumps(mutate_json(json.loads(content), dice)).encode()
    else:
        length = int.from_bytes(content[:8], "little")
        header = json.dumps(mutate_json(json.loads(content[8 : 8 + length]), dice)).encode()
        changed = len(header).to_bytes(8, "little") + header + content[8 + length :]
        if dice.random() < 0.2:
            changed = mutate_bytes(content[: 8 + length], dice) + content[8 + length :]
    (place / name).write_bytes(changed)

    def read() -> None:
        normalise(open_checkpoint(str(place)))

    def export() -> None:
        export_bundle(str(place), place.with_name("exported"), "even", overwrite=True)

    export.seconds = 120  # type: ignore[attr-defined]
    return export if whole else read


def cases(kind: str, folder: Path) -> Callable[[int], Case]:
    """What makes a case of its seed."""
    from luvc_export.demo import CHECKPOINT

    original, place = folder / "original", folder / "mutated"
    if kind == "bundles":
        os.environ["LUVC_TRUST_BUNDLES"] = "1"  # what this process outlives is the question, not a helper
        tiny_bundle.write(original)
    if kind == "checkpoints":
        from luvc_export.export.checkpoint import open_checkpoint

        open_checkpoint(str(CHECKPOINT))  # the first one imports torch and transformers

    def case_of(seed: int) -> Case:
        dice = random.Random(seed)
        if kind == "bundles":
            return bundle_case(original, place, dice)
        if kind == "checkpoints":
            return checkpoint_case(CHECKPOINT, place, dice)
        return picture_case(place, dice) if kind == "pictures" else plan_case(dice)

    return case_of


def run(kind: str, seed: int, count: int) -> list[str]:
    """Faults of ``count`` cases in this process."""
    with tempfile.TemporaryDirectory(prefix="luvc-fuzz-") as folder:
        case_of = cases(kind, Path(folder))
        outcomes = ((number, fault(case_of(number))) for number in range(seed, seed + count))
        return [f"{kind} --seed {number}: {one}" for number, one in outcomes if one]


def be_careless() -> None:
    """Sabotage: compare no hash."""
    hashing.read = lambda path, expected: path.read_bytes()
    hashing.verify = lambda path, *_: hashing.Identity.of(path.stat())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--careless", action="store_true")
    args, begin, faults = parser.parse_args(), time.monotonic(), 0
    if args.careless:
        be_careless()
    with tempfile.TemporaryDirectory(prefix="luvc-fuzz-") as folder:
        numbers = range(args.seed, args.seed + args.count)
        for number, fault_seen in fuzz_guard.watched(cases(args.kind, Path(folder)), numbers):
            faults += 1
            print(f"{args.kind} --seed {number}: {fault_seen}", flush=True)
    spent = time.monotonic() - begin
    print(f"{args.count} {args.kind} from seed {args.seed}: {faults} faults, {spent:.0f} s")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
