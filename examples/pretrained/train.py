"""Train projection and LoRA: `python -m pretrained.train --base runs/base --out runs/a --start small.safetensors`.

Every step answers questions about a picture of glyph_deep's and replays a text: the KL of its next tokens to the base
model's own (the same weights, LoRA off). The weight of that KL grows while it is above `--drift` and falls while it is
below, so what the model may forget is set, not found. Without `--start`, or with none of its LoRA, pictures show two
digits at first, and one more whenever questions that take one look are answered; until then what takes two looks is
seldom asked. Every step draws from the seed and its number alone; a run that was ended goes on from its last state,
written every three minutes, when the same command is given again.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from glyph_deep.data import pictures
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from luvc_export.demo.scene import Scene

from . import texts
from .layers import FUSED, Instrument
from .packing import GRID, Packer
from .questions import KINDS, questions
from .sight import Sight
from .start import begin

WARM, LEAST_RATE = 30, 0.02  # steps in which the rate rises; share of it at the end
FEWEST, ALL, WHOLE = 2, 10, 0.15  # digits shown at first and at last; pictures that show all from the beginning
ANSWERED, BACK = 0.75, 0.08  # share of right answers at which one digit more is shown, and by how much it falls then
ONE_LOOK = ("colour_of_digit", "digit_of_colour", "at_place", "where_is")


def rate_at(step: int, steps: int, decay: float) -> float:
    """Return the share of the peak rate: it rises, stays, and falls in a straight line over the last `decay`."""
    return min((step + 1) / WARM, 1.0, max(LEAST_RATE, (steps - step) / (decay * steps)))


def fewer(rng: np.random.Generator, scene: Scene, most: int) -> tuple[Scene, list[int], list[int]]:
    """Return a scene of at most `most` of its digits, the units of the others, and empty ones to put over them."""
    count = most if rng.random() < 0.5 else int(rng.integers(1, most + 1))
    stay = sorted(rng.permutation(len(scene.marks))[:count].tolist())
    owner = scene.owner.ravel()
    gone = np.flatnonzero((owner >= 0) & ~np.isin(owner, stay))
    bare = rng.choice(np.flatnonzero(owner < 0), len(gone))
    return Scene(tuple(scene.marks[i] for i in stay), scene.owner), gone.tolist(), bare.tolist()


class Training:
    """Model, optimiser and what they have come to; `step` is one step."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.at, self.pressure = args, 0, math.log(args.weight)
        self.model = Instrument(args.base, args.rank)
        self.sight, self.tokenizer = Sight(args.base), Tokenizer.from_file(str(args.base / "tokenizer.json"))
        if args.bf16:  # autocast casts frozen weights at each call
            self.model.layers = [
                {n: w.bfloat16() if n in FUSED else w for n, w in x.items()} for x in self.model.layers
            ]
        self.packer = Packer(self.tokenizer)
        self.replies = json.loads(args.replies.read_text()) if args.replies else []
        self.ability, self.level = dict.fromkeys(KINDS, 0.0), 0.0
        self.most = ALL if args.start and args.share else FEWEST
        if args.projection_alone:
            self.model.a.requires_grad_(False)
            self.model.b.requires_grad_(False)
        trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.optimiser = torch.optim.AdamW(trained, lr=args.rate, betas=(0.9, 0.98), weight_decay=0.0)

    def answer(self, rng: np.random.Generator) -> tuple[Tensor, float]:
        """Return the loss of questions about a picture and the share answered, every kind asked by what it lacks."""
        ground = "textured" if rng.random() < self.args.textured else "plain"
        image, scene = pictures.render(rng, "train", ground)
        features, whole = self.sight(image[None]), self.most == ALL or rng.random() < WHOLE
        if not whole:
            scene, gone, bare = fewer(rng, scene, self.most)
            features[0, gone] = features[0, bare]
        weights = np.array([max(0.15, 1.0 - self.ability[kind]) for kind in KINDS])
        if self.most < ALL:
            known = np.mean([self.ability[kind] for kind in ONE_LOOK])
            weights *= [1.0 if kind in ONE_LOOK else 0.08 + min(1.0, 1.5 * known) for kind in KINDS]
        rows = questions(rng, scene, self.args.questions, weights)
        ids, targets = self.packer.pack([asked for _, asked in rows])
        hidden = self.model.answer(self.packer.head, features, GRID, ids[None])[0]
        wanted = targets >= 0
        logits = self.model.logits(hidden[wanted]).float()
        hit = torch.ones_like(wanted)
        hit[wanted] = logits.argmax(-1) == targets[wanted]
        right = hit.all(-1).tolist()
        for (kind, _), ok in zip(rows, right, strict=True):
            self.ability[kind] = 0.97 * self.ability[kind] + 0.03 * ok
        looked = [ok for (kind, _), ok in zip(rows, right, strict=True) if kind in ONE_LOOK]
        if looked and not whole:
            self.level = 0.9 * self.level + 0.1 * sum(looked) / len(looked)
            if self.level > ANSWERED:
                self.most, self.level = self.most + 1, self.level - BACK
        return cross_entropy(logits, targets[wanted]), sum(right) / len(right)

    def replay(self, rng: np.random.Generator) -> Tensor:
        """Return the mean KL of a text's next tokens to the base model's, in nats a token."""
        ids = torch.tensor([texts.draw(rng, self.tokenizer, self.replies)])
        with torch.no_grad():
            self.model.bare = True
            target = log_softmax(self.model.logits(self.model.read(ids)).float(), -1)
            self.model.bare = False
        own = log_softmax(self.model.logits(self.model.read(ids)).float(), -1)
        return (target.exp() * (target - own)).sum(-1).mean()

    def step(self) -> dict[str, float]:
        """Take one step and return its losses, the gradient's norm and the weight of the KL."""
        rng = np.random.default_rng([9, self.args.seed, self.at])
        self.optimiser.param_groups[0]["lr"] = self.args.rate * rate_at(self.at, self.args.steps, self.args.decay)
        self.optimiser.zero_grad()
        with self.products():
            loss, right = self.answer(rng)
        loss.backward()
        drift, weight = torch.zeros(()), math.exp(self.pressure)
        if not self.args.projection_alone and self.args.drift < math.inf:  # no text passes through a projection
            with self.products():
                drift = self.replay(rng)
            (weight * drift).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        # dual ascent on the bound of the drift, at most a factor of 1.05 a step
        self.pressure += 0.05 * min(1.0, drift.item() / self.args.drift - 1.0)
        self.pressure = min(max(self.pressure, math.log(0.3)), math.log(30.0))
        self.at += 1
        return {"loss": loss.item(), "kl": drift.item(), "right": right, "norm": float(norm), "weight": weight}

    def products(self) -> torch.autocast:
        """Return the context in which a step's products are computed: in bfloat16 with `--bf16`."""
        return torch.autocast(torch.get_default_device().type, torch.bfloat16, enabled=self.args.bf16)

    def state(self) -> dict:
        """Return all that a resumed run needs."""
        own = {"step": self.at, "pressure": self.pressure, "ability": self.ability}
        own |= {"most": self.most, "level": self.level}
        return own | {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict()}

    def restore(self, state: dict) -> None:
        """Go on from `state()`."""
        self.at, self.pressure, self.ability = state["step"], state["pressure"], state["ability"]
        self.most, self.level = state["most"], state["level"]
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])


def save(state: dict, file: Path) -> None:
    """Write a state beside the file, then put it in its place."""
    beside = file.with_suffix(".part")
    torch.save(state, beside)
    beside.replace(file)


def train(args: argparse.Namespace) -> None:
    """Run to the last step, writing `state.pt` every three minutes and a line every ten steps."""
    args.out.mkdir(parents=True, exist_ok=True)
    training, file = Training(args), args.out / "state.pt"
    if file.exists():
        training.restore(torch.load(file, map_location="cpu"))
    elif args.start is not None:
        begin(training.model, args.start, args.share)
    saved = since = time.monotonic()
    lines: list[dict[str, float]] = []
    last = args.steps if args.stop is None else min(args.steps, args.stop)
    while training.at < last:
        lines.append(training.step())
        if len(lines) == args.report or training.at == last:
            mean = {name: round(float(np.mean([line[name] for line in lines])), 4) for name in lines[0]}
            took = round((time.monotonic() - since) / len(lines), 2)
            kinds = {kind: round(value, 2) for kind, value in training.ability.items()}
            text = json.dumps({"step": training.at, **mean, "seconds": took, "digits": training.most, "ability": kinds})
            print(text, flush=True)
            with (args.out / "log.jsonl").open("a") as log:
                log.write(text + "\n")
            lines, since = [], time.monotonic()
        if training.at == last or time.monotonic() - saved > args.save:
            save(training.state(), file)
            saved = time.monotonic()


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="folder that `pretrained.base` wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder of this run; run again to resume")
    parser.add_argument("--start", type=Path, help="small weights to start from")
    parser.add_argument("--replies", type=Path, help="conversations to replay too (`pretrained.replies`)")
    parser.add_argument("--share", type=float, default=1.0, help="share of the start's LoRA; 0: its projection alone")
    parser.add_argument("--steps", type=int, default=3000, help="optimiser steps in all")
    parser.add_argument("--stop", type=int, help="end at this step, to go on later")
    parser.add_argument("--questions", type=int, default=12, help="questions a step, about one picture")
    parser.add_argument("--textured", type=float, default=0.5, help="share of textured pictures")
    parser.add_argument("--rank", type=int, default=8, help="rank of the LoRA")
    parser.add_argument("--projection-alone", action="store_true", help="a control: no LoRA is trained")
    parser.add_argument("--rate", type=float, default=3e-4, help="peak learning rate")
    parser.add_argument("--decay", type=float, default=0.4, help="last fraction of the steps in which the rate falls")
    parser.add_argument(
        "--drift", type=float, default=0.05, help="KL to the base, nats a token, aimed at; inf: no replay"
    )
    parser.add_argument("--weight", type=float, default=3.0, help="weight of the KL at first")
    parser.add_argument("--seed", type=int, default=0, help="seed of pictures, questions and texts")
    parser.add_argument("--report", type=int, default=10, help="steps between lines")
    parser.add_argument("--save", type=float, default=180, help="seconds between states")
    parser.add_argument("--bf16", action="store_true", help="compute products in bfloat16: sooner where the CPU has it")
    parser.add_argument("--device", default="cpu", help="where torch trains: cpu, cuda")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_device(args.device)
    train(args)


if __name__ == "__main__":
    main()
