"""The plan: image grid, merge passes and per-layer budgets, frozen and JSON both ways.

The vocabulary (unit, grid, budget, merge pass, prune) is that of docs/algorithm.md. The abstract of arXiv 2512.09010
states merging per spatial axis in the encoder and gradual low-pass pruning to zero in the LLM; every switch below is a
reconstruction.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

from luvc_export.core import bucket_rules, encoder_prune, llm_rules, merging, sharing_rules
from luvc_export.core.encoder_prune import EncoderPrune as EncoderPrune
from luvc_export.core.merging import MergePass as MergePass
from luvc_export.errors import PlanError

SCHEMA_VERSION = 1

#: TensorRT and TensorRT-RTX refuse TopK above this K (NvInfer.h, ITopKLayer: "K <= 3840"; tried on RTX 1.7.1).
TENSORRT_TOPK_LIMIT = 3840

#: LLM layers or merge passes; a number; units a side (65,536 pixels in patches of 14 are 4,681).
_MOST_ENTRIES, _MOST, _MOST_SIDE = 4096, 2**31, 8192

#: What fields that came later hold where they say nothing.
_UNSAID: tuple[Any, ...] = (None, [], 0, "none")

#: Bytes of the largest plan file.
MAX_PLAN_BYTES = 2**22

LastLayer = Literal["drop", "kv_only", "full"]
Axis = Literal["token", "channel"]
Spectrum = Literal["1d", "2d"]
MergeMode = Literal["mean", "max"]
Positions = Literal["mean", "multi"]
Windows = Literal["units", "area"]
Reducer = Literal["prune", "merge"]
Quota = Literal["none", "uniform", "spread", "v-cast"]
Rounds = Literal["growing", "equal"]


#: Scores that keep the same tokens of a picture whatever is asked (``Score.reads_text`` False). A score that is not
#: here, such as one of another package, is taken to read the question.
TEXT_FREE = frozenset(
    ("dart", "keynorm", "learned", "low", "maxmin", "norm", "random", "ratio", "residual", "scope", "stride", "v2drop")
)


@dataclass(frozen=True)
class Plan:
    """Everything about compression that is fixed at export.

    Args:
        grid: Units (rows, columns) of one image before merging.
        keep: Visual tokens per image (with ``joint_images``, of all of them together) that enter each LLM layer; one
            int per layer, never growing.
        merges: OIM passes in the order in which they run, along the axes or inside windows; blocks never descend.
        last_layer: ``drop`` lets no visual token into the last layer (``keep[-1] == 0``); ``kv_only`` gives the last
            layer their keys and values but computes nothing else for them (exact for the logits); ``full`` is the
            uncompressed layer.
        score: Name of the score that decides what a prune keeps, see ``luvc_export.export.compression.scores``.
        rho: Fraction of the spectrum below the cutoff, in (0, 1]; ``c = floor(rho * N / 2)``.
        axis: Filter along ``token`` or ``channel``.
        spectrum: ``1d`` over the span, or separable ``2d`` while the grid is intact.
        merge_mode: ``mean`` (size-weighted) or ``max`` (largest magnitude per channel, an ablation).
        positions: LLM positions of merged units: their ``mean`` or ``multi`` original ones spread over the rotary
            dimensions.
        windows: After a merge, encoder windows hold as many ``units`` as before or cover the same picture ``area``.
        size_bias: Add log(size) to the encoder's attention scores (an ablation; costs the fused kernel).
        reducer: How the visual span shrinks inside the LLM: ``prune`` keeps the best tokens, ``merge`` merges
            neighbours on the span's grid (ours): budgets must then be rectangles, see ``stage_grids``.
        seed: Of the score ``random``.
        kv_only: LLM layers, ascending, in which visual tokens give keys and values and nothing else: they leave the
            layer as they entered it (ShortV). The last layer is not among them, see ``last_layer``.
        steps: Rounds in which the scores ``scope`` and ``maxmin`` choose; 0 for 12, or K where that is less.
        rounds: How many tokens each of them takes: ever more, or ``equal`` shares, as JSON that says nothing means it.
        scorer: Of the score ``learned``: sha256 of its file.
        aggregate: One row of every budget that a prune leaves is the mean of all rows dropped so far, by size; the
            others are chosen. A budget counts it.
        quota: How a budget that ``joint_images`` share is divided among them: ``none`` leaves it to the score, the
            others give each a quota (``compression.quotas``); what is left over goes by score.
        joint_images: Images that share one budget: 1, or the moments of a video or the tiles of a picture, whose best
            tokens stay wherever they are. Scores are those of single images while the grid is intact (``spectrum`` 2d).
        joint_tiles: Rows and columns of tiles where those of a picture share a budget, the whole picture among them.
        padding: The graphs are told which units show padding alone: those are the last that a prune keeps and never
            merge with the picture. An export sets it by its fit rule; bundles of 0.1.0 have it not.
        topk_limit: Largest K the targets of this plan accept, None for no limit.
        schedule: Name of the schedule that made ``keep``, for people.
        encoder_prune: Units that leave the encoder's later blocks; None for none.
        bucket: Units of an image that the graphs compute, which the host names (input ``units``); 0 for all of them.
    """

    grid: tuple[int, int]
    keep: tuple[int, ...]
    merges: tuple[MergePass, ...] = ()
    last_layer: LastLayer = "drop"
    score: str = "residual"
    rho: float = 0.25
    axis: Axis = "token"
    spectrum: Spectrum = "2d"
    merge_mode: MergeMode = "mean"
    positions: Positions = "mean"
    windows: Windows = "units"
    size_bias: bool = False
    reducer: Reducer = "prune"
    seed: int = 0
    kv_only: tuple[int, ...] = ()
    steps: int = 0
    rounds: Rounds = "growing"
    scorer: str = ""
    aggregate: bool = False
    quota: Quota = "none"
    joint_images: int = 1
    joint_tiles: tuple[int, int] | None = None
    padding: bool = False
    topk_limit: int | None = TENSORRT_TOPK_LIMIT
    schedule: str = "list"
    schema_version: int = SCHEMA_VERSION
    encoder_prune: EncoderPrune | None = None
    bucket: int = 0

    def __post_init__(self) -> None:
        problems = [*_switch_problems(self), *_merge_problems(self)]
        problems += _encoder_problems(self) if not problems else []
        if self.bucket and not problems:
            problems += bucket_rules.problems(
                self.bucket, self.units, self.merges, self.encoder_prune, self.joint_images
            )
            problems += _grid_problems(self, "of which a bucket has gaps")
        fits = not problems
        problems += _budget_problems(self) if fits else []
        chooses = () if problems else self.chooses
        problems += llm_rules.problems(self.keep, self.kv_only, self.steps, self.score, self.scorer, chooses)
        shared = self.aggregate, self.quota, self.reducer == "merge", self.joint_images, self.joint_tiles
        problems += sharing_rules.problems(*shared, self.chooses if fits else None)
        if problems:
            raise PlanError("the plan does not fit:\n" + "\n".join(f"  - {problem}" for problem in problems))

    @property
    def layers(self) -> int:
        """Number of LLM layers."""
        return len(self.keep)

    @property
    def units(self) -> int:
        """Visual tokens per image before compression."""
        return self.grid[0] * self.grid[1]

    @property
    def merged_grid(self) -> tuple[int, int]:
        """Units (rows, columns) after every merge pass."""
        return merging.merged_grid(self.grid, self.merges)

    @property
    def merge_passes(self) -> tuple[merging.Planned, ...]:
        """Every merge pass with the grid it meets."""
        return merging.planned(self.grid, self.merges)

    @property
    def vision_tokens(self) -> int:
        """N_0: visual tokens per image that leave the encoder."""
        if not self.grid_intact:
            return self.encoder_tokens
        return self.merged_grid[0] * self.merged_grid[1]

    @property
    def grid_intact(self) -> bool:
        """Whether every unit of the merged grid leaves the encoder."""
        return not self.bucket and (self.encoder_prune is None or self.encoder_prune.restore == "all")

    @property
    def encoder_tokens(self) -> int:
        """Units that the encoder's last block computes."""
        if self.bucket:
            return self.bucket
        passes, prune = self.merge_passes, self.encoder_prune
        axes = passes[-1].after if passes else merging.whole(self.grid)
        return prune.tokens(axes) if prune else axes[0].units * axes[1].units

    @property
    def span_tokens(self) -> int:
        """Visual tokens that share a budget when they leave the encoder: N_0 of every one of ``joint_images``."""
        return self.joint_images * self.vision_tokens

    def cache_rows(self, groups: int, text: int) -> tuple[int, ...]:
        """Rows of each LLM layer's KV cache: what the layer keeps of every group, then the text.

        Every buffer, profile, mask and prediction of a cache follows from this.

        Args:
            groups: What shares a budget: single images, or with ``joint_images`` so many images each.
            text: Text tokens, prompt and answer.
        """
        return tuple(groups * keep + text for keep in self.keep)

    @property
    def prunes(self) -> tuple[tuple[int, int, int], ...]:
        """Every place where the visual span shrinks, as (layer, tokens before, tokens kept)."""
        before = (self.span_tokens, *self.keep)
        return tuple((layer, n, k) for layer, (n, k) in enumerate(zip(before, self.keep, strict=False)) if k < n)

    @property
    def chooses(self) -> tuple[tuple[int, int, int], ...]:
        """Every prune that ranks tokens, as (layer, tokens ranked, tokens chosen): rows without their aggregates."""
        ranks, mean = [prune for prune in self.prunes if prune[2]], int(self.aggregate)
        return tuple((layer, n - mean * (at > 0), k - mean) for at, (layer, n, k) in enumerate(ranks))

    def aggregated(self, layer: int) -> bool:
        """Whether a row of every group that enters ``layer`` is an aggregate."""
        return self.aggregate and 0 < self.keep[layer] < self.span_tokens

    @property
    def frozen(self) -> frozenset[int]:
        """LLM layers that compute nothing for visual tokens but keys and values."""
        return frozenset((*self.kv_only, *([self.layers - 1] if self.last_layer == "kv_only" else ())))

    @property
    def vision_padding(self) -> bool:
        """Whether the vision graph asks which units are padding: it does where it merges or chooses."""
        chooses = self.encoder_prune is not None or any(step.rows or step.columns for step in self.merges)
        return self.padding and chooses

    @property
    def decoder_padding(self) -> bool:
        """Whether the decoder graph asks which visual tokens are padding: it does where it chooses among them."""
        return self.padding and any(keep for _, _, keep in self.prunes)

    @property
    def reads_text(self) -> bool:
        """What is kept of a picture depends on the question, so that nobody else's answer can start from it."""
        return self.score not in TEXT_FREE and any(keep for _, _, keep in self.prunes)

    @property
    def stage_grids(self) -> dict[int, tuple[int, int]]:
        """With ``reducer`` ``merge``: grid (rows, columns) of the visual span from each shrinking layer on."""
        grids: dict[int, tuple[int, int]] = {}
        grid: tuple[int, int] | None = self.merged_grid
        for layer, _, keep in self.prunes:
            grid = merging.nested_grid(grid, keep) if grid and keep else None
            if grid:
                grids[layer] = grid
        return grids

    def to_json(self) -> dict[str, Any]:
        """Return plain data that ``from_json`` turns back into an equal plan.

        What older versions do not know is left out where it is not used, so that they read the plan.
        """
        data: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        data["merges"] = [step.to_json() for step in self.merges]
        later = {*llm_rules.FIELDS, *sharing_rules.FIELDS, "encoder_prune", "bucket"}
        data |= {"rounds": None if self.rounds == llm_rules.unsaid_rounds(self.score) else self.rounds}
        return {name: value for name, value in data.items() if name not in later or value not in _UNSAID}

    @classmethod
    def from_json(cls, data: object, where: str = "plan") -> Plan:
        """Build a plan from ``to_json`` data.

        Raises:
            PlanError: A field is missing, unknown or of another type, the schema is newer, or the plan does not fit.
        """
        if not isinstance(data, dict):
            raise PlanError("a plan is a JSON object", where=where, got=type(data).__name__)
        version = data.get("schema_version", SCHEMA_VERSION)
        if not isinstance(version, int) or not 1 <= version <= SCHEMA_VERSION:
            raise PlanError(
                "this plan has a schema this version does not know",
                where=f"{where}.schema_version",
                got=version,
                expected=f"1 to {SCHEMA_VERSION}",
                fix="update luvc-export",
            )
        fields = {field.name: field for field in dataclasses.fields(cls)}
        required = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
        unknown, missing = sorted(set(data) - set(fields)), sorted(required - set(data))
        if unknown or missing:
            raise PlanError("the plan's fields are wrong", where=where, got=f"unknown {unknown}, missing {missing}")
        try:
            _check_limits(data, where)
            values = {
                **data,
                **{name: _ints(data[name]) for name in ("grid", "keep")},
                "kv_only": _ints(data.get("kv_only", ())),
                "joint_tiles": None if data.get("joint_tiles") is None else _ints(data["joint_tiles"]),
                "rounds": data.get("rounds", llm_rules.unsaid_rounds(data.get("score"))),
                "merges": tuple(MergePass(**{k: int(v) for k, v in merge.items()}) for merge in data.get("merges", ())),
            }
            if data.get("encoder_prune") is not None:
                values["encoder_prune"] = EncoderPrune.from_json(data["encoder_prune"], f"{where}.encoder_prune")
            return cls(**values)
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise PlanError("the plan cannot be read", where=where, got=str(error)) from error


def _check_limits(data: dict[str, Any], where: str) -> None:
    """Numbers that loops count to, and arrays are made of.

    Raises:
        PlanError: One is beyond every model there is.
    """
    held = {name: data.get(name, []) for name in ("grid", "keep", "merges", "kv_only")}
    held["joint_tiles"] = [] if data.get("joint_tiles") is None else data["joint_tiles"]
    for name, values in held.items():
        if not isinstance(values, list) or len(values) > _MOST_ENTRIES:
            raise PlanError("a plan's list is none, or too long", where=f"{where}.{name}", expected=_MOST_ENTRIES)
    lists = [merge.values() for merge in held.pop("merges")] + [*held.values()]
    counts = (data.get(name, 0) for name in ("joint_images", "seed", "steps", "bucket"))
    for value in (data.get("topk_limit") or 0, *counts, *(number for values in lists for number in values)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _MOST:
            raise PlanError("a number of the plan is too large or none", where=where, got=repr(value)[:40])
    if max(data["grid"], default=0) > _MOST_SIDE:
        raise PlanError("the grid is too large", where=f"{where}.grid", got=data["grid"], expected=f"to {_MOST_SIDE}")


def _ints(values: Any) -> tuple[int, ...]:
    if any(isinstance(value, bool) or int(value) != value for value in values):
        raise ValueError(f"{values} holds something that is not a whole number")
    return tuple(int(value) for value in values)


def _switch_problems(plan: Plan) -> list[str]:
    problems = []
    for name, hint in get_type_hints(Plan).items():
        choices = [choice for choice in get_args(hint) if isinstance(choice, str)]
        if choices and getattr(plan, name) not in choices:
            problems.append(f"{name}: got {getattr(plan, name)!r}, expected one of {', '.join(choices)}")
    if plan.joint_images < 1:
        problems.append(f"joint_images: got {plan.joint_images}, expected at least 1")
    if plan.joint_images > 1 and plan.reducer == "merge":
        problems.append("reducer: merging in the LLM needs one grid; images that share a budget have several")
    if not isinstance(plan.padding, bool):
        problems.append(f"padding: got {plan.padding!r}, expected true or false")
    if not 0 < plan.rho <= 1:
        problems.append(f"rho: got {plan.rho}, expected a fraction in (0, 1]")
    return problems


def _merge_problems(plan: Plan) -> list[str]:
    if len(plan.grid) != 2 or min(plan.grid) < 1:
        return [f"grid: got {plan.grid}, expected two numbers of at least 1"]
    return merging.problems(plan.grid, plan.merges)


def _encoder_problems(plan: Plan) -> list[str]:
    if plan.encoder_prune is None:
        return []
    rows, columns = plan.merged_grid
    blocks = [step.block for step in plan.merges]
    found = encoder_prune.problems(plan.encoder_prune, blocks, plan.topk_limit, rows * columns)
    if found or plan.grid_intact:
        return found
    return _grid_problems(plan, "of which encoder_prune restores 'none'")


def _grid_problems(plan: Plan, why: str) -> list[str]:
    """What of a plan needs the whole grid; ``why`` it is not there."""
    return [
        f"{name}: {value!r} needs the grid, {why}"
        for name, value in (("reducer", "merge"), ("spectrum", "2d"))
        if getattr(plan, name) == value and any(keep for keep in plan.keep) and _reads(plan, name)
    ]


def _reads(plan: Plan, name: str) -> bool:
    """Whether a plan's budgets make it use ``reducer`` or ``spectrum``."""
    spectral = plan.score in ("low", "residual", "ratio", "scope") and plan.axis == "token" and plan.reducer == "prune"
    shrinks = any(0 < keep < before for before, keep in zip(plan.keep, plan.keep[1:], strict=False))
    shrinks = shrinks or 0 < plan.keep[0] < plan.joint_images * plan.encoder_tokens
    return shrinks and (spectral if name == "spectrum" else True)


def _budget_problems(plan: Plan) -> list[str]:
    problems = []
    if not plan.keep:
        return ["keep: empty, expected one budget per LLM layer"]
    for layer, count in enumerate(plan.keep):
        if not 0 <= count <= plan.span_tokens:
            problems.append(f"keep[{layer}]: got {count}, expected 0 to {plan.span_tokens} (what the encoder gives)")
        if layer and count > plan.keep[layer - 1]:
            problems.append(f"keep[{layer}]: grows from {plan.keep[layer - 1]} to {count}; pruned tokens do not return")
    if plan.last_layer == "drop" and plan.keep[-1]:
        problems.append(
            f"keep[{plan.layers - 1}]: got {plan.keep[-1]}, last_layer 'drop' lets none in: use 0 or kv_only"
        )
    if plan.reducer == "merge" and not problems:
        for layer, before, kept in plan.prunes:
            if kept and layer not in plan.stage_grids:
                problems.append(f"keep[{layer}]: {kept} of {before} tokens are no rectangle to merge to")
                break
    elif plan.topk_limit is not None:
        for layer, before, kept in plan.chooses:
            if kept > plan.topk_limit:
                problems.append(
                    f"keep[{layer}]: selecting {kept} of {before} needs TopK K <= {plan.topk_limit} on the target;"
                    " keep fewer or prune nothing there"
                )
    return problems
