"""What choosing in rounds keeps of the greedy loop's gain, and what one prune costs: writes prune.md and prune.json.

python benchmarks/measure/pruning/prune.py docs/results            # all of it
python benchmarks/measure/pruning/prune.py docs/results --only gain   # one part: gain, quotas or cost

Gain: pictures of the search split of examples/glyph_deep, visual tokens after the first layer's input norm. What
SCOPE's greedy loop covers over TopK of the saliency, and how much of that the unrolled rounds keep. Quotas: the same
tokens, four pictures to a budget, an empty one among them. Cost: the prune
before layer 0 of Qwen2.5-VL-3B's widths at 4,096 units, half of them kept, against the prefill of those units, one
layer timed and multiplied by 36. ONNX Runtime, fp32, one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from torch import Tensor, nn

from luvc_export.core.plan import EncoderPlan, LlmPlan, Plan, Quota, Sharing
from luvc_export.export.compression import quotas, scores, spu
from luvc_export.export.compression.scorer_file import remember
from luvc_export.export.compression.scores import _greedy, _spectrum

ROOT = Path(__file__).resolve().parents[3]
GROUNDS, SHARES, PICTURES = ("plain", "textured", "pages"), (0.1, 0.25, 0.5), 20
#: Rounds (`--steps`; 12 is the default), and how they share K: growing, or equal, as plans without `rounds` mean it.
STEPS: tuple[tuple[int, _greedy.Rounds], ...] = (
    (8, "growing"),
    (12, "growing"),
    (16, "growing"),
    (12, "equal"),
    (16, "equal"),
)
#: Layer shapes of Qwen2.5-VL-3B, units of a picture of 1792 x 1792, rounds of the cost.
WIDTH, INNER, HEADS, KV_HEADS, HEAD, LAYERS, GRID = 2048, 11008, 16, 2, 128, 36, (64, 64)
ROUNDS = 5
COST: dict[str, dict[str, Any]] = {
    name: {"score": name} for name in ("residual", "scope", "maxmin", "keynorm", "learned")
}
#: A budget of 16 images: the first prune, and one that meets what another left of 32.
COST |= {
    "residual, quota": {"score": "residual", "grid": (16, 16), "joint_images": 16, "quota": "v-cast"},
    "residual, quota, pruned before": {"score": "residual", "grid": (16, 16), "joint_images": 32, "quota": "v-cast"},
}
QUOTAS: tuple[Quota, ...] = ("none", "uniform", "spread")


def seen(ground: str) -> tuple[tuple[int, int], Tensor]:
    """Return the grid of a ground, and its pictures' tokens after the first layer's input norm [pictures, N, D]."""
    sys.path.append(str(ROOT / "examples"))
    from glyph_deep.data.cases import SIZES, cases

    from luvc_export.calibration.ablation.evaluator import PlanEvaluator
    from luvc_export.calibration.runners.compressed import TorchCalls, load_model
    from luvc_export.export.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(str(ROOT / "examples/glyph_deep/checkpoint"))
    model = load_model(checkpoint)
    asked = [case for case in cases(f"search-{ground}", 30 * PICTURES) if len(case.images) == 1]
    first = list({case.picture: case for case in asked}.values())[:PICTURES]
    grid = (SIZES[ground][0] // 28, SIZES[ground][1] // 28)
    none = Plan(EncoderPlan(grid), LlmPlan((grid[0] * grid[1],) * 8, last_layer="full"))
    calls = TorchCalls(checkpoint, model, none)
    embeds = torch.from_numpy(PlanEvaluator(checkpoint, model, first, True).encode_images(calls).embeds)
    empty = np.full((1, 1, *SIZES[ground], 3), 235, np.uint8)
    embeds = torch.cat([embeds, torch.from_numpy(calls.vision(empty, None)[0]).to(embeds)])
    normed: Tensor = calls.decoder.norm_of(calls.decoder.layers[0].input_layernorm, embeds)
    return grid, normed.float().flatten(1, -2)


def gain() -> list[dict[str, Any]]:
    """Return a row a ground and share."""
    gains = []
    for ground in GROUNDS:
        grid, normed = seen(ground)
        for share in SHARES:
            keep = round(share * grid[0] * grid[1])
            sums = np.array([_gained(picture[None, None], grid, keep) for picture in normed[:-1]])
            top, exact, *rounds = sums.sum(0).tolist()
            row = {"ground": ground, "tokens": grid[0] * grid[1], "keep": keep, "pictures": len(normed) - 1}
            kept = {name(*how): (each - top) / (exact - top) for how, each in zip(STEPS, rounds, strict=True)}
            gains.append({**row, "topk": top, "greedy": exact, "kept": kept})
            print(json.dumps(gains[-1]), flush=True)
    return gains


def shared() -> list[dict[str, Any]]:
    """Return what a quarter of three pictures and an empty one covers, by quota: of the pictures, and the least one."""
    shares = []
    for ground in GROUNDS:
        grid, normed = seen(ground)
        tokens, keep = grid[0] * grid[1], grid[0] * grid[1]
        llm = LlmPlan((keep,), scores.method("residual", rho=0.5), last_layer="full")
        plan = Plan(EncoderPlan(grid), llm, Sharing(4))
        for quota in QUOTAS:
            covered, kept = [], []
            for first in range(0, len(normed) - 3, 3):
                group = torch.cat([normed[first : first + 3], normed[-1:]]).flatten(0, 1)[None, None]
                basis = _spectrum.basis(plan, 4 * tokens, group.shape[3])
                score = scores.find("residual").score(scores.ScoreInput(group, basis, "token", keep))
                if quota != "none":
                    own = quotas.members(torch.arange(4 * tokens)[None, None], 4, tokens, padded=False)
                    limits = quotas.quotas(quotas.weights(quota, group, own), own, keep)
                    score = quotas.keys(score, own, limits)
                chosen = spu.select(score, keep)[0, 0]
                along = _greedy.unit(group)[0, 0].unflatten(0, (4, tokens))
                places = [chosen[chosen // tokens == image] % tokens for image in range(4)]
                kept.append([len(place) for place in places])
                alike = [(along[image] @ along[image][place].T) for image, place in enumerate(places[:3])]
                covered.append([float(one.amax(1).mean()) if one.shape[1] else 0.0 for one in alike])
            row = {"ground": ground, "quota": quota, "keep": keep, "groups": len(kept)}
            row |= {"kept": np.mean(np.sort(np.array(kept)[:, :3]), 0).tolist(), "empty": float(np.mean(kept, 0)[3])}
            shares.append({**row, "covered": float(np.mean(covered)), "least": float(np.mean(np.min(covered, 1)))})
            print(json.dumps(shares[-1]), flush=True)
    return shares


def name(steps: int, how: _greedy.Rounds) -> str:
    """Return the name of a column."""
    return f"{steps} rounds" + ", equal" * (how == "equal")


def _gained(normed: Tensor, grid: tuple[int, int], keep: int) -> list[float]:
    """Return what TopK, the greedy loop and the rounds reach on one picture [1, 1, N, D]."""
    plan = Plan(EncoderPlan(grid), LlmPlan((keep,), scores.method("scope", rho=0.5), last_layer="full"))
    inputs = scores.ScoreInput(normed, _spectrum.basis(plan, normed.shape[2], normed.shape[3]), "token", keep)
    inputs = replace(inputs, grid=grid)
    saliency = (normed - _spectrum.filtered(inputs))[0, 0].norm(dim=1)
    along = _greedy.unit(normed)[0, 0]
    alike = (along @ along.T).clamp(min=0)
    cover, taken = torch.zeros(len(saliency)), list[int]()
    for _ in range(keep):
        more = saliency * torch.relu(alike - cover).sum(1)
        more[taken] = -1.0
        taken.append(int(more.argmax()))
        cover = torch.maximum(cover, alike[taken[-1]])
    every_score = (replace(inputs, settings={"steps": min(steps, keep), "rounds": how}) for steps, how in STEPS)
    ranked = [scores.find("scope").score(each) for each in every_score]
    top = spu.select(saliency[None, None], keep)[0, 0].tolist()
    every = [top, taken, *(spu.select(score, keep)[0, 0].tolist() for score in ranked)]
    return [float(alike[chosen].amax(0).mean()) for chosen in every]


class Prune(nn.Module):
    """What a prune adds to a decoder: norm, score, choice, gather of hidden states, angles and order."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan, self.norm = plan, nn.RMSNorm(WIDTH)
        self.keys = nn.Linear(WIDTH, KV_HEADS * HEAD)
        self.register_buffer("basis", scores.constant(plan, 0, GRID[0] * GRID[1], WIDTH))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, order: Tensor) -> tuple[Tensor, ...]:
        """Return the kept rows, and which they are."""
        tokens, keep = x.shape[1], self.plan.keep[0]
        normed = self.norm(x).float()[:, None]
        context = scores.LayerContext(normed, None, lambda earlier: normed[..., 0], lambda: self.keys(normed))
        settings = dict(self.plan.llm.method.settings)
        settings = dict(self.plan.llm.method.settings)
        inputs = scores.ScoreInput(normed, self.basis, "token", keep, context, self.plan.grid, settings=settings)
        score = scores.find(self.plan.llm.method.name).score(inputs)
        if self.plan.sharing.quota != "none":
            own = quotas.members(order[:, None], self.plan.sharing.images, self.plan.units, padded=False)
            share = quotas.weights(self.plan.sharing.quota, normed, own)
            score = quotas.keys(score, own, quotas.quotas(share, own, keep))
        chosen = spu.select(score, keep)
        flat = spu.flat_index(chosen, tokens)
        return (*(spu.gather(part, flat, 1, tokens, keep) for part in (x, cos, sin, order)), chosen)


class Layer(nn.Module):
    """One layer's products and attention, without the element-wise rest: less than a layer takes."""

    def __init__(self) -> None:
        super().__init__()
        sizes = {"q": HEADS * HEAD, "k": KV_HEADS * HEAD, "v": KV_HEADS * HEAD, "gate": INNER, "up": INNER}
        self.into = nn.ModuleDict({name: nn.Linear(WIDTH, size, bias=False) for name, size in sizes.items()})
        self.out, self.down = nn.Linear(HEADS * HEAD, WIDTH, bias=False), nn.Linear(INNER, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return hidden states [1, S, D]."""
        q, k, v = (self.into[name](x).unflatten(-1, (-1, HEAD)).transpose(1, 2) for name in ("q", "k", "v"))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.silu(self.into["gate"](x)) * self.into["up"](x))


def session(module: nn.Module, inputs: tuple[Tensor, ...]) -> onnxruntime.InferenceSession:
    """Return the module in ONNX Runtime on one thread, as exports are optimised."""
    from luvc_export.export.trace import simplify

    with torch.no_grad():
        program = torch.onnx.export(module.eval(), inputs, dynamo=True, opset_version=23, verbose=False)
    model = program.model
    simplify(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def seconds(run: onnxruntime.InferenceSession, inputs: tuple[Tensor, ...], rounds: int) -> float:
    """Return processor seconds of a call, median; the first warms up."""
    feeds = {item.name: value.numpy() for item, value in zip(run.get_inputs(), inputs, strict=True)}
    taken = []
    for _ in range(rounds + 1):
        begin = time.process_time()
        run.run(None, feeds)
        taken.append(time.process_time() - begin)
    return statistics.median(taken[1:])


def price() -> dict[str, Any]:
    """Return seconds of a layer, and of each prune."""
    from safetensors.torch import save

    torch.manual_seed(0)
    units = GRID[0] * GRID[1]
    x = torch.randn(1, units, WIDTH)
    layer = seconds(session(Layer(), (x,)), (x,), 2)
    print(json.dumps({"layer": layer}), flush=True)
    maps = {name: torch.randn(WIDTH // 8 * 7, WIDTH) for name in ("query", "key")}  # VisionSelector's 1,792
    scorer = remember(save(maps), "made here").sha256
    inputs = (x, torch.randn(1, units, HEAD // 2), torch.randn(1, units, HEAD // 2), torch.arange(units)[None])
    prices = {}
    for name, switches in COST.items():
        more = {"scorer": scorer} if name == "learned" else {}
        own: dict[str, Any] = {**switches, **more}
        encoder = EncoderPlan(own.pop("grid", GRID))
        sharing = Sharing(own.pop("joint_images", 1), quota=own.pop("quota", "none"))
        method = scores.method(own.pop("score", scores.DEFAULT), **own)
        plan = Plan(encoder, LlmPlan((units // 2,), method, last_layer="full"), sharing)
        prices[name] = seconds(session(Prune(plan), inputs), inputs, ROUNDS)
        print(json.dumps({name: prices[name]}), flush=True)
    return {"units": units, "keep": units // 2, "layers": LAYERS, "layer": layer, "prunes": prices}


def page(data: dict[str, Any]) -> str:
    """Return the document; every figure in it was measured by the run that wrote the data."""
    lines = ["# Choosing in rounds, and what a prune costs: measurements", ""]
    lines += ["Written by `python benchmarks/measure/pruning/prune.py docs/results`. Do not edit: run it again.", ""]
    if "gain" in data:
        lines += [
            "## What the rounds keep of the greedy loop",
            "",
            "Coverage of all tokens (the mean over tokens of the largest cosine to a kept one) by TopK of the "
            "saliency and by SCOPE's greedy loop, one token at a time, sums over the pictures of a search split, "
            "tokens after the first layer's input norm; then what `scope` keeps of the loop's gain over TopK in so "
            "many rounds (`--steps`; 12 is the default) that grow, and in equal ones, as before.",
            "",
            "| ground | tokens | kept tokens | pictures | TopK | greedy loop | "
            + " | ".join(name(*how) for how in STEPS)
            + " |",
            "|---|---|---|---|---|---|" + "---|" * len(STEPS),
        ]
        for row in data["gain"]:
            sums = " | ".join(f"{row[name]:.3f}" for name in ("topk", "greedy"))
            named = " | ".join(str(row[name]) for name in ("ground", "tokens", "keep", "pictures"))
            kept = " | ".join(f"{value:.1%}" for value in row["kept"].values())
            lines.append(f"| {named} | {sums} | {kept} |")
        lines.append("")
    if "quotas" in data:
        lines += [
            "## What quotas keep",
            "",
            "Three pictures of a search split and an empty one share a budget of a quarter of their tokens, before the "
            "first layer, by the residual (rho 0.5). Tokens kept of the three, least first, and of the empty one; then "
            "the coverage of the three, their mean and the least of them, means over groups. Accuracy is not measured: "
            "the instrument answers on no clips and no tiles.",
            "",
            "| ground | quota | groups | budget | kept | of the empty one | covered | the least covered |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for row in data["quotas"]:
            kept = " ".join(f"{count:.0f}" for count in row["kept"])
            lines.append(
                f"| {row['ground']} | {row['quota']} | {row['groups']} | {row['keep']} | {kept} | {row['empty']:.0f} |"
                f" {row['covered']:.4f} | {row['least']:.4f} |"
            )
        lines.append("")
    if "cost" in data:
        cost = data["cost"]
        whole = cost["layer"] * cost["layers"]
        lines += [
            f"## One prune of {cost['units']:,} units",
            "",
            f"{cost['keep']:,} of {cost['units']:,} units kept, widths of Qwen2.5-VL-3B, fp32, one thread of ONNX "
            f"Runtime, processor seconds. Prefill: {cost['layers']} times the products and the attention of one layer "
            f"({cost['layer']:.2f} s) over those units, {whole:.0f} s.",
            "",
            "| prune by | seconds | of the prefill |",
            "|---|---|---|",
        ]
        lines += [f"| {name} | {value:.3f} | {value / whole:.2%} |" for name, value in cost["prunes"].items()]
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Read the command line, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder of prune.json and prune.md")
    parser.add_argument("--only", choices=("gain", "quotas", "cost"), help="measure this; the rest stays as it was")
    args = parser.parse_args()
    torch.set_num_threads(1)
    file = args.output / "prune.json"
    data = json.loads(file.read_text()) if args.only and file.is_file() else {}
    for part, measure in {"gain": gain, "quotas": shared, "cost": price}.items():
        if args.only in (None, part):
            data[part] = measure()
    file.write_text(json.dumps(data, indent=1) + "\n")
    (args.output / "prune.md").write_text(page(data), encoding="utf-8")


if __name__ == "__main__":
    main()
