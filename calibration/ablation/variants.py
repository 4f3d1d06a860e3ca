"""What is compared: groups of plans, each group one question, all plans of a group at the same budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from luvc_export.core.budgets import by_thirds, prefill_flops, rectangles, solve_speedup
from luvc_export.core.plan import MergePass, Plan
from luvc_export.core.planning import place_merges
from luvc_export.core.shapes import DecoderShape, EncoderShape
from luvc_export.export.compression import scores

SEEDS = (0, 1, 2)
RHOS = (0.05, 0.1, 0.25, 0.5)
#: Baselines in the order of the tables; installed scores follow.
SCORES = ("stride", "norm", "keynorm", "v2drop", "dart", "scope", "maxmin", "fastv", "pyramiddrop")
SPEEDUPS = (1.4, 2.0, 2.4)

#: The low-pass filter as the abstract reads at first sight: the tokens it passes stay (sign and rho: reconstruction).
LITERAL = {"score": "low", "rho": 0.25, "axis": "token", "spectrum": "1d"}


@dataclass(frozen=True)
class Variant:
    """One row of a table: ``name`` for people, plans whose accuracy is averaged (seeds), and a remark."""

    name: str
    plans: tuple[Plan, ...]
    remark: str = ""


@dataclass(frozen=True)
class Shapes:
    """What plans are made for."""

    grid: tuple[int, int]
    llm: DecoderShape
    encoder: EncoderShape

    @property
    def units(self) -> int:
        """Visual tokens of a picture, uncompressed."""
        return self.grid[0] * self.grid[1]

    def none(self) -> Plan:
        """The uncompressed plan."""
        return Plan(self.grid, (self.units,) * self.llm.layers, last_layer="full", schedule="none")


def horizon(shapes: Shapes) -> list[Variant]:
    """All visual tokens go before layer l."""
    found = []
    for layer in range(shapes.llm.layers):
        keep = (shapes.units,) * layer + (0,) * (shapes.llm.layers - layer)
        found.append(Variant(str(layer), (Plan(shapes.grid, keep, schedule="horizon"),)))
    return found


def readings(plan: Plan) -> Iterator[Variant]:
    """Every reading of the spectrum score at the budgets of ``plan``: sign, rho, axis, 1-D and 2-D."""
    ways = (("token", "1d"), ("token", "2d"), ("channel", "1d"))
    for score in ("low", "residual", "ratio"):
        for axis, spectrum in ways:
            for rho in RHOS:
                made = dataclasses.replace(plan, score=score, rho=rho, axis=axis, spectrum=spectrum)  # type: ignore[arg-type]
                yield Variant(f"{score}, {axis} {spectrum}, rho {rho:g}", (made,))


def methods(plan: Plan, tuned: Plan, skip: Sequence[str] = (), scorer: str = "") -> list[Variant]:
    """Every score and reducer at the budgets of ``plan``.

    Args:
        plan: Budgets.
        tuned: Carries the settings that a search chose.
        skip: Scores that are left out.
        scorer: Hash of a learned scorer, to be one of them.
    """
    chosen = {name: getattr(tuned, name) for name in ("score", "rho", "axis", "spectrum")}
    best = dataclasses.replace(plan, **chosen)
    found = [
        Variant(
            "SPU, the abstract's reading",
            (dataclasses.replace(plan, **LITERAL),),  # type: ignore[arg-type]
            "low, token 1d, rho 0.25",
        ),
        Variant("SPU, settings searched", (best,), f"{best.score}, {best.axis} {best.spectrum}, rho {best.rho:g}"),
        Variant(
            "random", tuple(dataclasses.replace(plan, score="random", seed=seed) for seed in SEEDS), "mean of 3 seeds"
        ),
    ]
    early = plan.keep[0] < plan.vision_tokens
    installed = [name for name in scores.names() if name not in scores.built_in()]
    usable = [
        name
        for name in (*SCORES, *installed)
        if name not in skip and not (early and scores.find(name).needs_layer_before)
    ]
    found += [Variant(name, (dataclasses.replace(plan, score=name),)) for name in usable]
    if scorer:
        found.append(Variant("learned", (dataclasses.replace(plan, score="learned", scorer=scorer),)))
    return [*found, Variant("merge", (merged(plan),), "ours: merging inside the LLM")]


def merged(plan: Plan) -> Plan:
    """The merging plan next to the budgets of ``plan``."""
    return dataclasses.replace(plan, keep=rectangles(plan.merged_grid, plan.keep), reducer="merge")


def halved(shapes: Shapes, text: int, speedup: float = 2.0) -> Plan:
    """No merging in the encoder; LLM prefill FLOPs divided by ``speedup``."""
    keep = solve_speedup(shapes.llm, shapes.units, shapes.units, text, speedup, fading=by_thirds)
    return Plan(shapes.grid, keep, schedule=f"speedup {speedup:g}")


def shaped(shapes: Shapes, text: int, weights: Sequence[float], name: str, speedup: float = 2.0) -> Plan:
    """Budgets in the proportions ``weights``, at most all tokens, scaled until FLOPs are divided by ``speedup``."""
    target = sum(prefill_flops(shapes.llm, shapes.none().keep, text)) / speedup
    low, high = 0.0, 1.0 * shapes.units / max(min(w for w in weights if w), 1e-9)
    for _ in range(60):
        middle = (low + high) / 2
        keep = [min(shapes.units, round(middle * weight)) for weight in weights]
        low, high = (middle, high) if sum(prefill_flops(shapes.llm, keep, text)) <= target else (low, middle)
    keep = [min(shapes.units, round(low * weight)) for weight in weights]
    return Plan(shapes.grid, tuple(keep), last_layer="drop" if keep[-1] == 0 else "full", schedule=name)


def shapes_of_schedule(shapes: Shapes, text: int) -> list[Plan]:
    """Other ways to spend half of the FLOPs than ``halved``: where along the depth the tokens are."""
    layers = shapes.llm.layers
    line = [1 - layer / (layers - 1) for layer in range(layers)]
    return [
        shaped(shapes, text, [1.0] * layers, "even, none dropped at the end"),
        shaped(shapes, text, [*[1.0] * (layers - 1), 0.0], "even, none at the last layer"),
        shaped(shapes, text, line, "straight line to none"),
        shaped(shapes, text, [100.0, *[1.0] * (layers - 2), 0.0], "all at layer 0, then even, none at the last"),
    ]


def one_shot(shapes: Shapes, count: int) -> Plan:
    """``count`` tokens from before the first layer to the end: what host-side pruning does."""
    return Plan(shapes.grid, (count,) * shapes.llm.layers, last_layer="full", schedule="one shot")


def smaller(shapes: Shapes, tokens: float) -> Plan:
    """The uncompressed model on a smaller picture: the largest grid of its shape with at most ``tokens`` tokens."""
    rows, columns = shapes.grid
    fits = [
        (r, c)
        for r in range(1, rows + 1)
        for c in {max(1, int(r * columns / rows)), min(columns, -(-r * columns // rows))}
        if r * c <= tokens
    ]
    grid = max(fits, key=lambda size: (size[0] * size[1], -abs(size[0] / rows - size[1] / columns)))
    return Plan(grid, (grid[0] * grid[1],) * shapes.llm.layers, last_layer="full", schedule="none")


def encoder_merges(shapes: Shapes, share: float) -> list[Variant]:
    """Ways to leave about ``share`` of the units before the LLM, which then prunes nothing."""
    blocks = [block for block in shapes.encoder.full_attention if 2 * (block + 1) >= shapes.encoder.blocks]
    last = place_merges(shapes.grid, share, shapes.encoder, (blocks[-1],))
    spread = place_merges(shapes.grid, share, shapes.encoder)

    def after(merges: tuple[MergePass, ...], name: str, remark: str, **switches: str) -> Variant:
        probe = Plan(shapes.grid, (0,), merges)
        keep = (probe.vision_tokens,) * shapes.llm.layers
        plan = Plan(shapes.grid, keep, merges, last_layer="full", schedule="merge only", **switches)  # type: ignore[arg-type]
        return Variant(name, (plan,), remark)

    found = [after(last, "OIM, mean", f"after block {blocks[-1]}")]
    count = found[0].plans[0].vision_tokens
    found.append(after(last, "OIM, max", f"after block {blocks[-1]}", merge_mode="max"))
    found.append(after(last, "OIM, several positions", f"after block {blocks[-1]}", positions="multi"))
    if spread != last:
        found.append(after(spread, "OIM, spread", f"after blocks {', '.join(str(m.block) for m in spread)}"))
    if len(shapes.encoder.full_attention) > 1:
        early = place_merges(shapes.grid, share, shapes.encoder, shapes.encoder.full_attention[:1])
        found.append(after(early, "OIM, early", f"after block {shapes.encoder.full_attention[0]}"))
    shot = one_shot(shapes, count)
    found += methods(shot, dataclasses.replace(shot, rho=0.5), skip=("v2drop", "fastv", "norm"))[2:]
    return [*found, Variant("downsampling", (smaller(shapes, count),), "bicubic, before the processor")]
