"""Learn a scorer from the uncompressed model's own answers: `python -m learned_scorer.train -o scorer.safetensors`.

The model stays as it is; W_q and W_k alone learn. Each step asks questions about pictures of one ground, with gates in
place of a prune (see `gates.py`), and pulls the gated model's predictions at every token of the answer to those of the
uncompressed one. Only questions that the uncompressed model answers by itself with the tokens it is shown are taken, so
every answer learned from is its own. Pictures are those of the train split. Minutes on a CPU.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from glyph_deep.data.cases import SIZES, cases
from glyph_deep.data.splits import GROUNDS
from safetensors.torch import save
from torch import Tensor

from luvc_export.calibration.ablation.evaluator import PlanEvaluator
from luvc_export.calibration.runners.canvas import uncompressed
from luvc_export.calibration.runners.compressed import TorchCalls, load_model
from luvc_export.core import graph_io
from luvc_export.core.files.safe_files import write_whole
from luvc_export.demo.questions import GlyphCase
from luvc_export.export.checkpoint import open_checkpoint
from luvc_export.runtime import batching
from luvc_export.runtime.model import TokensPrompt

from .gates import gated, scores, soften

CHECKPOINT = Path(__file__).parents[1] / "glyph_deep" / "checkpoint"


@dataclass(frozen=True)
class Lesson:
    """Questions about one ground with the uncompressed model's predictions at their answers.

    Attributes:
        calls: The uncompressed model.
        feeds: Decoder inputs by question.
        wanted: Log probabilities fp32 [tokens of the answer, vocabulary] by question.
        units: Visual tokens of a picture.
    """

    calls: TorchCalls
    feeds: Sequence[Any]
    wanted: Sequence[Tensor]
    units: int


def lesson(checkpoint: Any, model: Any, ground: str, count: int, share: str = "train", seed: int = 0) -> Lesson:
    """Return what a ground teaches: up to `count` questions about one picture each."""
    asked = [case for case in some(f"{share}-{ground}", count, seed) if len(case.images) == 1]
    engine = PlanEvaluator(checkpoint, model, asked, True)
    unit = checkpoint.family.unit_pixels(checkpoint.config)
    rows, columns = (side // unit for side in SIZES[ground])
    none = uncompressed(checkpoint, SIZES[ground])
    calls = TorchCalls(checkpoint, model, none)
    seen = engine.encode_images(calls)
    wanted = engine.predictions(none, range(len(asked)))
    feeds, own = [], []
    for question, logits in zip(engine.asked(none), wanted, strict=True):
        if logits.argmax(-1).tolist() != question.answer:
            continue
        shown = seen.some(question.pictures)
        passage = TokensPrompt([*question.prompt, *question.answer[:-1]], blocks=question.blocks)
        (layout,), _ = engine.feeds(none, [passage], shown)
        feeds.append((layout, shown.embeds, len(question.answer)))
        own.append(logits)
    return Lesson(calls, feeds, own, rows * columns)


def some(split: str, count: int, seed: int) -> Iterator[GlyphCase]:
    """Yield `count` questions of a split, one or two kinds a picture, so that there are many pictures."""
    random = np.random.default_rng([seed, 7])
    taken = 0
    for case in cases(split, 1 << 40, seed):
        if taken == count:
            return
        if random.random() < 0.2:
            taken += 1
            yield case


def ask(taught: Lesson, chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return log probabilities [n, vocabulary] of the model as it is now at the chosen answers, and what is wanted."""
    layouts = [taught.feeds[index][0] for index in chosen]
    inputs = batching.feeds(layouts, np.stack([taught.feeds[index][1] for index in chosen]))
    lengths = [taught.feeds[index][2] for index in chosen]
    last, longest = inputs[graph_io.TEXT_MASK].sum(1), max(lengths)
    rows = [[last[i] - n + min(j, n - 1) for j in range(longest)] for i, n in enumerate(lengths)]
    inputs[graph_io.LOGITS_INDICES] = np.array(rows)
    logits = taught.calls.decode_tensors(inputs, taught.calls.empty(len(chosen)))[0]
    answer_logits = torch.cat([logits[row, :n] for row, n in enumerate(lengths)])
    return answer_logits.log_softmax(-1), torch.cat([taught.wanted[index] for index in chosen])


def learn(
    lessons: Sequence[Lesson],
    layer: int,
    inner: int,
    steps: int,
    batch: int,
    seed: int,
    rate: float,
    shares: tuple[float, float],
    temperatures: tuple[float, float],
) -> Tensor:
    """Return W_q and W_k [2, inner, D] of the prune before `layer`."""
    channels = lessons[0].calls.decoder.hidden
    draw, random = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    begun_with = torch.randn(inner, channels, generator=draw) * channels**-0.5
    maps = torch.stack([-begun_with, begun_with]).requires_grad_()  # at first: what is least like the mean
    optimiser = torch.optim.Adam([maps], rate)
    begun, running = time.time(), 0.0
    for step in range(steps):
        done = step / max(1, steps - 1)
        temperature = temperatures[0] * (temperatures[1] / temperatures[0]) ** done
        for group in optimiser.param_groups:
            group["lr"] = rate * (1 - done) + 0.05 * rate * done
        taught = lessons[step % len(lessons)]
        share = float(np.exp(random.uniform(np.log(shares[0]), np.log(shares[1]))))
        chosen = random.choice(len(taught.feeds), min(batch, len(taught.feeds)), replace=False)
        keep = max(1, round(share * taught.units))

        def choose(normed: Tensor, keep: int = keep, temperature: float = temperature) -> Tensor:
            return soften(scores(maps, normed), keep, temperature)

        with gated(taught.calls.decoder, layer, taught.units, choose, min(8.0, max(2.0, 0.8 / temperature))):
            logits, wanted = ask(taught, chosen)
        loss = (wanted.exp() * (wanted - logits)).sum(-1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        running += (loss.item() - running) / min(step + 1, 50)
        if step % 50 == 49:
            print(f"layer {layer} step {step + 1}: {running:.3f} nats, {time.time() - begun:.0f} s", flush=True)
    return maps.detach()


def command(parser: argparse.ArgumentParser, args: argparse.Namespace) -> str:
    """Return the command line that learns the same again."""
    words = f"python -m learned_scorer.train -o {args.output.name}"
    for name, value in vars(args).items():
        usual = parser.get_default(name)
        if name not in ("output", "checkpoint", "threads") and value != usual:
            words += f" --{name} {' '.join(map(str, value)) if isinstance(value, list | tuple) else value}"
    return words


def main() -> None:
    """Read the command line, learn, write the scorer and beside it what it was learned from."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="file to write, .safetensors")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--layers", type=int, nargs="*", default=[], help="layers to prune before; none: any, from 0")
    parser.add_argument("--grounds", nargs="*", choices=GROUNDS, default=list(GROUNDS))
    parser.add_argument("--questions", type=int, default=1500, help="questions a ground")
    parser.add_argument("--inner", type=int, default=64, help="rows of W_q and W_k")
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--batch", type=int, default=24, help="questions a step")
    parser.add_argument("--rate", type=float, default=0.003, help="learning rate, falling to a twentieth")
    parser.add_argument("--shares", type=float, nargs=2, default=(0.07, 0.4), help="of the tokens kept, least and most")
    parser.add_argument("--temperatures", type=float, nargs=2, default=(0.7, 0.1), help="of the gates, first and last")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    begun, checkpoint = time.time(), open_checkpoint(str(args.checkpoint))
    model = load_model(checkpoint)
    lessons = [lesson(checkpoint, model, ground, args.questions) for ground in args.grounds]
    print(f"{sum(len(each.feeds) for each in lessons)} questions, {time.time() - begun:.0f} s", flush=True)
    tensors = {}
    for layer in args.layers or [0]:
        learned = learn(lessons, layer, args.inner, args.steps, args.batch, args.seed, args.rate, tuple(args.shares),
                     tuple(args.temperatures))  # fmt: skip
        suffix = f".{layer}" if args.layers else ""
        tensors |= {f"{name}{suffix}": part.clone() for name, part in zip(("query", "key"), learned, strict=True)}
    write_whole(args.output, save(tensors, {"command": command(parser, args), "checkpoint": checkpoint.sha256}))
    print(f"wrote {args.output}, {(time.time() - begun) / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    main()
