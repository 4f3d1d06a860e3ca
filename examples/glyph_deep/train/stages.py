"""Train the model, stage by stage: `python -m glyph_deep.train --stage see --out runs/see --steps 3000`.

Every step draws its pictures and questions from the seed and the step number alone; a run that was killed goes on from
its last checkpoint when the same command is given again. While the file named by `--pause` exists, a run waits. No
stage that made the checkpoint drops or merges tokens or shrinks pictures; `distil`, a study, prunes.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from glyph_vqa.model import export
from glyph_vqa.optimise import Optimiser
from glyph_vqa.train import optimise

from glyph_deep.data.tokenizer import write_tokenizer

from .distil import Distil
from .model import fresh, load
from .see import See

GROUNDS = ("plain", "textured", "short", "page", "wide")


ENCODERS = {"see": See, "distil": Distil}  # stages of the encoder alone


def stages() -> dict[str, type]:
    """Return the stages by name."""
    from .answer import Hop, Read

    return {**ENCODERS, "hop": Hop, "read": Read}


def begin(stage: object, starts: list[Path]) -> None:
    """Start from earlier stages: `see` gives the encoder, `hop` and `read` all else; a checkpoint folder gives both."""
    state = stage.state_dict()
    for folder in starts:
        if not (folder / "state.pt").exists():
            state["model"] = load(folder).state_dict()
            continue
        earlier = torch.load(folder / "state.pt", map_location="cpu")
        name, saved = earlier["stage"], earlier["state"]
        for key, value in saved.pop("model").items():
            if ("visual" in key) == (name == "see"):
                state["model"][key] = value
        state.update({key: value for key, value in saved.items() if key in state})
    stage.load_state_dict(state)


def wait(pause: Path | None) -> None:
    """Return once the file `pause` is not there."""
    while pause is not None and pause.exists():
        time.sleep(1)


def train(args: argparse.Namespace) -> None:
    """Run one stage to its last step, writing `state.pt` and an exported folder under `--out`."""
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    write_tokenizer(args.out / "tokenizer")
    model, tokenizer = fresh()
    encoder = ENCODERS.get(args.stage)
    stage = encoder(model, args) if encoder else stages()[args.stage](model, tokenizer, args)
    begin(stage, args.start)
    optimiser = Optimiser(stage.parameters(), args.rate, args.steps, args.decay)
    arithmetic = torch.autocast("cpu", torch.bfloat16, enabled=args.bfloat16)
    optimise(stage, optimiser, args, arithmetic, lambda: wait(args.pause))
    export(model, args.out / "tokenizer", args.out / "checkpoint")


def mix(words: list[str]) -> dict[str, int]:
    """Return {ground: pictures a step} of words such as `textured=4`."""
    counts = dict.fromkeys(GROUNDS, 0)
    for word in words:
        ground, _, count = word.partition("=")
        if ground not in counts or not count.isdigit():
            raise SystemExit(f"--mix takes words such as textured=4, one of {', '.join(GROUNDS)}; got {word!r}")
        counts[ground] = int(count)
    return counts


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--stage", choices=["see", "distil", "hop", "read"], required=True, help="see, distil: encoder; hop, read: LLM"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of this run; run again to resume")
    parser.add_argument(
        "--start", type=Path, nargs="*", default=[], help="runs, or a checkpoint folder first, to start from"
    )
    parser.add_argument("--steps", type=int, default=3000, help="optimiser steps in all")
    parser.add_argument("--stop", type=int, help="end at this step, to go on later")
    parser.add_argument("--mix", nargs="+", default=["plain=2", "textured=4", "short=6"], help="pictures a step")
    parser.add_argument("--questions", type=int, default=16, help="questions per picture")
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--decay", type=float, default=0.3, help="last fraction of the steps in which the rate falls")
    parser.add_argument("--seed", type=int, default=0, help="seed of pictures and questions")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--bfloat16", action=argparse.BooleanOptionalAction, default=True, help="products in bfloat16")
    parser.add_argument("--report", type=int, default=20, help="steps between progress lines")
    parser.add_argument("--save", type=int, default=50, help="steps between checkpoints")
    parser.add_argument("--pause", type=Path, help="wait while this file exists")
    args = parser.parse_args()
    args.mix = mix(args.mix)
    train(args)
