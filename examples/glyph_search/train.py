"""Train the small weights: `python -m glyph_search.train --out runs/a`.

Pages of the train split are seen once by the frozen encoder (`seen-*.pt` in the run's folder); a step takes some of one
ground, draws queries about them and asks that each has the highest score for its own page (InfoNCE; other pages that
answer it too are left out). With `--one` pages have one vector, taught as `one_vector.py` says. Every step draws from
the seed and its number alone; a run that was ended goes on from its last state, written every three minutes, when the
same command is given again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from pretrained.train import rate_at, save
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, pad

from glyph_search.checkpoint import BASE
from glyph_search.corpus import GROUNDS, SIZES, Query, Sheet, asked, relevant, sheet
from glyph_search.model import UNIT, Embedder, OneVector
from glyph_search.one_vector import FACTS, losses

BEFORE = 4  # tokens before a page: `<|im_start|>user\n<|vision_start|>`


def late_interaction(queries: Tensor, real: Tensor, pages: Tensor) -> Tensor:
    """Scores [Q, B] of queries [Q, T, D] and pages [B, S, D]: sums of the largest products of each real vector."""
    best = torch.stack([(queries @ page.T).amax(-1) for page in pages], -1)
    return (best * real[..., None]).sum(1)


def placed(
    queries: Tensor, pages: Tensor, wanted: list[Query], shown: list[Sheet], ends: list[tuple[int, int]], grid: tuple
) -> Tensor:
    """How little a vector that ends a fact in a query prefers units that show it to all others of the pages."""
    count, begins = grid[0] * grid[1], BEFORE
    units = pages[:, begins : begins + count].flatten(0, 1)
    facts = [fact for query in wanted for fact in query.facts]
    where: dict[str, list[int]] = {}
    for at, one in enumerate(shown):
        for fact, places in zip(one.facts, one.units, strict=True):
            where.setdefault(fact, []).extend(at * count + unit for unit in places)
    right = torch.zeros(len(facts), len(units), dtype=torch.bool)
    for at, fact in enumerate(facts):
        right[at, where[fact]] = True
    chosen = queries[tuple(torch.tensor(ends).T)]
    products = 14 * chosen @ units.T
    return (products.logsumexp(1) - products.masked_fill(~right, -1e4).logsumexp(1)).mean()


def merged(pages: Tensor, grid: tuple[int, int], cells: tuple[int, int]) -> Tensor:
    """Vectors [B, n, D] of pages whose units merge in cells, as `--merge-vectors` does it."""
    count, (high, wide) = grid[0] * grid[1], cells
    units = pages[:, BEFORE : BEFORE + count].unflatten(1, grid)
    padded = pad(units, (0, 0, 0, -grid[1] % wide, 0, -grid[0] % high))
    means = padded.unflatten(2, (-1, wide)).unflatten(1, (-1, high)).mean((2, 4)).flatten(1, 2)
    return torch.cat([pages[:, :BEFORE], normalize(means, dim=-1), pages[:, BEFORE + count :]], 1)


class Training:
    """Model, optimiser and pages that were seen; `step` is one step."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.at = args, 0
        self.model = OneVector(args.base, len(FACTS)) if args.one else Embedder(args.base)
        trained = {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}
        loras = [weight for name, weight in trained.items() if name.endswith((".a", ".b"))]
        others = [weight for name, weight in trained.items() if not name.endswith((".a", ".b"))]
        groups = [{"params": loras, "share": 1.0}, {"params": others, "share": 4.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=args.rate, betas=(0.9, 0.98), weight_decay=0.0)
        self.seen = {ground: self.all_seen(ground) for ground in args.grounds}

    def all_seen(self, ground: str) -> tuple[Tensor, list[Sheet]]:
        """Visual embeddings of a ground's pages, float16 [pages, N, D], and what they show; kept in a file."""
        file = self.args.out.parent / f"seen-{ground}-{self.args.pages}.pt"
        if not file.exists():
            shown, rows = list[Sheet](), []
            for first in range(0, self.args.pages, 8):
                drawn = [sheet("train", ground, 0, first + i) for i in range(8)]
                shown += [one for _, one in drawn]
                with torch.autocast("cpu", torch.bfloat16):
                    rows.append(self.model.see(np.stack([pixels for pixels, _ in drawn])).half())
            facts = [(one.facts, one.units) for one in shown]
            save({"rows": torch.cat(rows), "facts": facts}, file)
        stored = torch.load(file)
        return stored["rows"], [Sheet(*one) for one in stored["facts"]]

    def step(self) -> dict[str, float]:
        """Take one step and return its loss and the share of queries whose page came first."""
        args, rng = self.args, np.random.default_rng([61, self.args.seed, self.at])
        ground = args.grounds[self.at % len(args.grounds)]
        rows, sheets = self.seen[ground]
        chosen = rng.choice(len(rows), args.batch if ground == "pages" else 2 * args.batch, replace=False)
        shown = [sheets[i] for i in chosen]
        for group in self.optimiser.param_groups:
            group["lr"] = group["share"] * args.rate * rate_at(self.at, args.steps, args.decay)
        self.optimiser.zero_grad()
        seen = rows[torch.from_numpy(chosen)].float()
        if isinstance(self.model, OneVector):
            loss, figures = losses(self.model, rng, seen, shown, args.facts, args.ends, args.along)
        else:
            loss, figures = self.many(rng, ground, seen, shown)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.at += 1
        return {f"{name}_{ground}": value for name, value in figures.items()} | {"norm": float(norm)}

    def many(
        self, rng: np.random.Generator, ground: str, seen: Tensor, shown: list[Sheet]
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss of a step of many vectors a page, and its figures."""
        args = self.args
        wanted = [
            asked(rng, page.facts, int(rng.choice(args.facts)), at)
            for at, page in enumerate(shown)
            for _ in range(args.queries)
        ]
        also = torch.from_numpy(relevant(wanted, shown))
        own = torch.tensor([query.page for query in wanted])
        also[torch.arange(len(own)), own] = False
        grid = tuple(side // UNIT for side in SIZES[ground])
        with torch.autocast("cpu", torch.bfloat16):
            pages = self.model.pages(seen)
            queries, real, ends = self.model.queries([query.facts for query in wanted])

        def contrast(scores: Tensor) -> Tensor:
            return cross_entropy((self.model.scale.exp() * scores).masked_fill(also, -1e4), own)

        scores = late_interaction(queries, real, pages)
        taught = placed(queries, pages, wanted, shown, ends, grid)
        if args.merge:
            cells = ((1, 2), (2, 2), (3, 3))[self.at // len(args.grounds) % 3]
            taught = taught + contrast(late_interaction(queries, real, merged(pages, grid, cells)))
        loss = contrast(scores)
        right = (scores.argmax(1) == own).float().mean().item()
        return loss + taught, {"loss": loss.item(), "taught": taught.item(), "first": right}

    def state(self) -> dict:
        """Return all that a resumed run needs."""
        trained = {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}
        return {"step": self.at, "model": trained, "optimiser": self.optimiser.state_dict()}

    def restore(self, state: dict) -> None:
        """Go on from `state()`."""
        self.at = state["step"]
        self.model.load_state_dict(state["model"], strict=False)
        self.optimiser.load_state_dict(state["optimiser"])


def train(args: argparse.Namespace) -> None:
    """Run to the last step, writing `state.pt` every three minutes and a line every 20 steps."""
    args.out.mkdir(parents=True, exist_ok=True)
    training, file = Training(args), args.out / "state.pt"
    if file.exists():
        training.restore(torch.load(file))
    saved = since = time.monotonic()
    lines: list[dict[str, float]] = []
    last = args.steps if args.stop is None else min(args.steps, args.stop)
    while training.at < last:
        lines.append(training.step())
        if len(lines) == 20 or training.at == last:
            names = dict.fromkeys(name for line in lines for name in line)
            mean = {name: round(float(np.mean([line[name] for line in lines if name in line])), 4) for name in names}
            took = round((time.monotonic() - since) / len(lines), 2)
            text = json.dumps({"step": training.at, **mean, "seconds": took, "scale": training.model.scale.item()})
            print(text, flush=True)
            with (args.out / "log.jsonl").open("a") as log:
                log.write(text + "\n")
            lines, since = [], time.monotonic()
        if training.at == last or time.monotonic() - saved > args.save:
            save(training.state(), file)
            training.model.save(args.out / "small.safetensors")
            saved = time.monotonic()


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=BASE, help="folder of the glyph model")
    parser.add_argument("--out", type=Path, required=True, help="folder of this run; run again to resume")
    parser.add_argument("--one", action="store_true", help="one vector a page; of pictures of digits alone")
    parser.add_argument("--ends", action="store_true", help="with --one: tokens that end a fact in a query say it too")
    parser.add_argument("--along", type=float, default=3.0, help="with --one: weight of queries' loss")
    parser.add_argument("--grounds", nargs="+", choices=GROUNDS, default=list(GROUNDS))
    parser.add_argument("--merge", action="store_true", help="also with vectors merged, by turns in 1x2, 2x2 and 3x3")
    parser.add_argument("--pages", type=int, default=1000, help="pages of each ground, drawn and seen once")
    parser.add_argument("--batch", type=int, default=6, help="pages a step; of digits twice as many")
    parser.add_argument("--queries", type=int, default=4, help="queries about each page of a step")
    parser.add_argument("--facts", type=int, nargs="+", default=[1, 1, 2, 3], help="facts a query has, drawn of these")
    parser.add_argument("--steps", type=int, default=500, help="optimiser steps in all")
    parser.add_argument("--stop", type=int, help="end at this step, to go on later")
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--decay", type=float, default=0.4, help="last fraction of the steps in which the rate falls")
    parser.add_argument("--seed", type=int, default=0, help="seed of batches and queries")
    parser.add_argument("--save", type=float, default=180, help="seconds between states")
    args = parser.parse_args()
    if args.one and args.grounds != ["textured"]:
        parser.error("--one takes pictures of digits: --grounds textured")
    torch.set_num_threads(1)
    train(args)


if __name__ == "__main__":
    main()
