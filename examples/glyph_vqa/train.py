"""Train the model, stage by stage: `python -m glyph_vqa.train --stage see --out runs/see --steps 3000`.

Every step draws its pictures and questions from the seed and the step number alone, so a run that was killed goes on
from its last checkpoint with exactly the batches it would have seen. No stage compresses anything.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch

from .model import build, configuration, export, warm_start
from .optimise import Optimiser
from .stages import STAGES, See
from .tokenizer import VOCABULARY, special_ids, write_tokenizer


def save(path: Path, state: dict) -> None:
    """Write a checkpoint so that a kill at any moment leaves either the old or the new one."""
    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def begin(stage: See, starts: list[Path]) -> None:
    """Start from earlier stages: `see` gives the encoder; `hop`, `read` and `join` all else, `join` the encoder too."""
    state = stage.state_dict()
    for folder in starts:
        earlier = torch.load(folder / "state.pt", map_location="cpu")
        name, saved = earlier["stage"], earlier["state"]
        for key, value in saved.pop("model").items():
            if name == "join" or ("visual" in key) == (name == "see"):
                state["model"][key] = value
        state.update(saved)
    stage.load_state_dict(state)


def train(args: argparse.Namespace) -> None:
    """Run one stage to its last step, writing `state.pt`, `log.txt` lines and an exported folder under `--out`."""
    torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer = write_tokenizer(args.out / "tokenizer")
    model = build(configuration(VOCABULARY, special_ids(tokenizer)), args.seed)
    if args.warm_start:
        print(f"warm start: {warm_start(model, args.warm_start)} tensors", flush=True)
    stage = STAGES[args.stage](model.to(device), tokenizer, args)
    begin(stage, args.start)
    optimiser = Optimiser(stage.parameters(), args.rate, args.steps, args.decay, args.optimiser == "muon")
    optimise(stage, optimiser, args, torch.autocast(device.type, torch.bfloat16))
    export(model, args.out / "tokenizer", args.out / "checkpoint")


def optimise(
    stage: object,
    optimiser: Optimiser,
    args: argparse.Namespace,
    arithmetic: torch.autocast,
    wait: Callable[[], None] = lambda: None,
) -> None:
    """Run a stage to its last step, from its last saved one; `wait` is called before each."""
    path, step = args.out / "state.pt", 0
    if path.exists():
        state = torch.load(path, map_location=next(stage.model.parameters()).device)
        stage.load_state_dict(state["state"])
        optimiser.load_state_dict(state["optimiser"])
        step = state["step"]
        print(f"resumed at step {step}", flush=True)
    tally, since = defaultdict(list), time.time()
    last = args.steps if args.stop is None else min(args.stop, args.steps)
    while step < last:
        wait()
        with arithmetic:
            loss, figures = stage.step(step)
        optimiser.step(loss, step)
        step += 1
        for name, value in {"loss": loss.item(), **figures}.items():
            tally[name].append(value)
        if step % args.report == 0 or step == last:
            shown = " ".join(f"{k} {sum(v) / len(v):.3f}" for k, v in sorted(tally.items()))
            print(f"step {step} {(time.time() - since) / len(tally['loss']):.2f} s/step {shown}", flush=True)
            tally, since = defaultdict(list), time.time()
        if step % args.save == 0 or step == last:
            state = {"stage": args.stage, "step": step, "state": stage.state_dict()}
            save(path, {**state, "optimiser": optimiser.state_dict()})


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=sorted(STAGES), required=True, help="see: encoder; hop: decoder; join: both")
    parser.add_argument("--out", type=Path, required=True, help="folder of this run; run again to resume")
    parser.add_argument("--start", type=Path, nargs="*", default=[], help="folders of earlier stages to start from")
    parser.add_argument("--warm-start", type=Path, help="checkpoint folder whose vision encoder to start from")
    parser.add_argument("--steps", type=int, default=3000, help="optimiser steps in all")
    parser.add_argument("--stop", type=int, help="end at this step, to go on later")
    parser.add_argument("--batch", type=int, default=16, help="pictures per step")
    parser.add_argument("--questions", type=int, default=16, help="questions per picture")
    parser.add_argument("--optimiser", choices=["muon", "adamw"], default="muon", help="for the blocks' matrices")
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--decay", type=float, default=0.3, help="last fraction of the steps in which the rate falls")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, pictures and questions")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--report", type=int, default=50, help="steps between progress lines")
    parser.add_argument("--save", type=int, default=100, help="steps between checkpoints")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
