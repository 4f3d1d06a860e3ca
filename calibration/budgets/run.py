"""One command's worth of budgets: open, find the horizon, search, check on the held-out part."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from luvc_export.calibration.budgets import freezing
from luvc_export.calibration.budgets.retrieval import PairsPart, finished
from luvc_export.calibration.budgets.search import (
    Against,
    against,
    fastest,
    frontier,
    passes,
    peer,
    plain,
    search,
    unconfirmed,
)
from luvc_export.calibration.budgets.space import (
    Horizon,
    Setting,
    Space,
    candidates,
    choose,
    find_horizon,
    first_compressed,
    method_asked,
    method_of,
)
from luvc_export.calibration.budgets.subject import Subject
from luvc_export.calibration.budgets.trials import PlanTrial, Trials, agreement
from luvc_export.calibration.datasets import CalibrationSet
from luvc_export.calibration.pairs import Retrieved
from luvc_export.calibration.runners.canvas import Grids
from luvc_export.core.files.safe_files import temporary_folder
from luvc_export.core.named_plans import DEFAULT_PLAN
from luvc_export.core.plan import LastLayer, Plan, Sharing
from luvc_export.core.planning import EncoderRequest, LlmRequest, PlanRequest, place_merges
from luvc_export.errors import CheckFailed, Progress, UsageError
from luvc_export.export.checkpoint import Checkpoint

#: Shares of the units that merging in the encoder may keep.
MERGE_KEEPS = (1.0, 0.75, 0.5)

#: What the searched plan is compared with.
DEFAULTS = ("thirds", "even", DEFAULT_PLAN)

MEASUREMENTS = "budgets-measurements.json"


@dataclass(frozen=True)
class SearchResult:
    """What the search found.

    Attributes:
        bar: Agreement that was asked for.
        none: The uncompressed plan.
        flops: Its prefill FLOPs.
        text: Text tokens counted in them.
        images: Pictures counted in them.
        horizon: Where the model stops looking.
        chosen: The cheapest plan that holds, on the calibration part.
        checked: The same on the held-out part.
        frontier: On the calibration part.
        defaults: Default plans there, by name.
        compared: On the held-out part.
        tried: Number of plans tried.
        about: Where it all comes from.
        settings: Scores and widths of their filter that were compared, the best first, which was taken.
        order: Layers that may be frozen, the one that matters least first.
        speedup: What was searched for in place of an agreement: so many times fewer FLOPs.
        found: Of pairs, what is found on the held-out part, by the plan ``none`` and the one chosen; agreement is the
            share of NDCG@5 that is kept then.
    """

    bar: float
    none: Plan
    flops: int
    text: int
    images: int
    horizon: Horizon
    chosen: PlanTrial
    checked: PlanTrial
    frontier: list[PlanTrial]
    defaults: dict[str, PlanTrial]
    compared: list[Against]
    tried: int
    about: dict[str, Any]
    settings: list[Setting] = field(default_factory=list)
    order: list[freezing.Frozen] = field(default_factory=list)
    speedup: float | None = None
    found: dict[str, Retrieved] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether the held-out part confirms the choice; a speed is met or not before it is asked."""
        return passes(self.checked, self.bar)

    @property
    def failure(self) -> CheckFailed:
        """What to raise where it does not."""
        layers = " ".join(map(str, self.chosen.plan.keep))
        return unconfirmed(
            "the searched plan does not hold on the held-out part",
            f"visual tokens by layer {layers}",
            self.checked,
            self.bar,
            "search with more questions (--count); the held-out part is spent for other plans of this search",
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "about": self.about,
            "retention": None if self.speedup else self.bar,
            "speedup": self.speedup,
            "text": self.text,
            "images": self.images,
            "uncompressed_flops": self.flops,
            "horizon": self.horizon.layer,
            "horizon_curve": {str(layer): plain(trial) for layer, trial in self.horizon.curve.items()},
            "settings": [{**each.switches, "trials": [*map(plain, each.trials)]} for each in self.settings],
            "freezing": [[item.layer, item.divergence] for item in self.order],
            "plan": self.chosen.plan.to_json(),
            "calibration": plain(self.chosen),
            "held_out": plain(self.checked),
            "passed": self.passed,
            "frontier": [*map(plain, self.frontier)],
            "defaults": {name: plain(trial) for name, trial in self.defaults.items()},
            "compared": [item.to_json() for item in self.compared],
            "tried": self.tried,
            **({"found": {name: dataclasses.asdict(each) for name, each in self.found.items()}} if self.found else {}),
        }


def budgets(
    checkpoint: Checkpoint,
    data: CalibrationSet,
    image_size: tuple[int, int],
    *,
    tiles: Grids = ((1, 1),),
    video: bool = False,
    retention: float = 0.99,
    held_out: float = 0.5,
    merge_keep: float | None = None,
    text: int | None = None,
    score: str | None = None,
    rho: float | None = None,
    steps: int | None = None,
    scorer: str = "",
    freeze: bool = True,
    speedup: float | None = None,
    folder: Path | None = None,
    device: str = "cpu",
    progress: Progress = lambda stage, done: None,
    sharing: Sharing = Sharing(),
    **switches: Any,
) -> SearchResult:
    """Search the cheapest plan of a checkpoint that keeps its answers, or the NDCG@5 of pairs where it embeds.

    Args:
        checkpoint: With weights.
        data: Pictures and prompts.
        image_size: Height and width, multiples of the family's unit.
        tiles: Grids of tiles a picture may be cut to, each tile an image with a budget of its own.
        video: Give images as many frames as the family's videos have, as a bundle with videos does.
        retention: Share of greedy answers that must stay what they are without compression.
        held_out: Share of the pictures that is kept for the check.
        merge_keep: Share of units that merging keeps; None tries ``MERGE_KEEPS``.
        text: Text tokens counted in costs; None for the median prompt's.
        score: What prunes rank tokens by; None tries ``space.SCORES``.
        rho: Width of the score's filter; None tries ``space.RHOS``.
        steps: Rounds of a score that chooses in some; None for its own number.
        scorer: Hash of a learned scorer that was opened, to be tried too; with ``score`` ``learned`` it alone.
        freeze: Whether layers may be frozen (``LlmPlan.kv_only``).
        speedup: Search the plan that agrees best at so many times fewer prefill FLOPs; ``retention`` is not asked then.
        device: Where torch asks the model: ``cpu`` or ``cuda``.
        folder: Where measurements are kept, so that an interrupted search goes on; None for nowhere.
        progress: Told (stage, fraction).
        sharing: Images that share a budget.
        **switches: Other fields of the plan's parts, such as ``axis``, the same for all plans.

    Raises:
        UsageError: A share is none, or there are too few questions to show the agreement that is asked for.
        PlanError: The scorer has not learned every layer, or another width.
        CheckFailed: The compressed model does not repeat its own answers even where nothing is compressed.
        MachineError: This torch cannot use the GPU that ``device`` asks for.
    """
    _check_goal(retention, held_out, speedup)
    subject = Subject(checkpoint, data, held_out, image_size, tiles, video, sharing)
    retention = retention if speedup is None else 0.0
    enough([case.picture for case in subject.halves[0].cases], retention, data.name)
    subject.check_scorer(scorer, range(subject.llm.layers))  # a search prunes before any of them
    switches = subject.fitting | switches
    how, space = subject.image.embedding, _space(subject, merge_keep, score, switches)
    with temporary_folder("luvc-search") as scratch:
        store = subject.store((folder or scratch) / MEASUREMENTS)
        parts = subject.parts(subject.load_model(device), space.none(), store, progress)
        counted, images = text if text is not None else parts[0].text, parts[0].images
        flops = partial(subject.flops, text=counted, images=images)
        pairs = [part if isinstance(part, PairsPart) else None for part in parts]
        trials, fresh = (Trials(part, retention, flops, store, own) for part, own in zip(parts, pairs, strict=True))
        defaults = {}
        for name in DEFAULTS if space.whole == 0 else ():
            last: LastLayer | None = "kv_only" if how and how.pooling == "last" else None  # as make_plan has it
            asked = LlmRequest(name, method=method_asked(score, rho, steps, scorer), last_layer=last)
            solved = subject.solved(PlanRequest(asked, EncoderRequest(merge_keep), sharing), switches)
            defaults[name] = finished(solved, how)
        some = candidates(score, rho, scorer, steps, keyed=not subject.llm.keyless)
        freezable = subject.freezable if freeze and not any(pairs) else []
        facts = speedup, counted, images, subject.about, progress
        result = _search(trials, fresh, space, defaults, parts[0], some, freezable, *facts)
        held, both = pairs[1], {"none": space.none(), "chosen": result.chosen.plan}
        ranked = {} if held is None else {name: held.retrieved(plan) for name, plan in both.items()}
        return dataclasses.replace(result, found=ranked)


def _space(subject: Subject, merge_keep: float | None, score: str | None, switches: dict[str, Any]) -> Space:
    """What plans there are of a model for pictures of this size."""
    llm, how = subject.llm, subject.image.embedding
    shares = MERGE_KEEPS if merge_keep is None else (merge_keep,)
    merges = tuple(dict.fromkeys(place_merges(subject.grid, share, subject.encoder) for share in shares))
    through = how is not None and how.pooling != "last"
    more: dict[str, Any] = {"sharing": subject.sharing, "shared": llm.shared, "through": through}
    return Space(subject.grid, llm.layers, llm.cached, merges, first_compressed(score), switches, **more)


def _check_goal(retention: float, held_out: float, speedup: float | None) -> None:
    for name, share in (("--retention", retention), ("--held-out", held_out)):
        if not 0 < share < 1:
            raise UsageError("a share must lie between 0 and 1", where=name, got=share)
    if speedup is not None and not 1 < speedup < math.inf:
        raise UsageError("no plan is searched for such a speed", where="--speedup", got=speedup, expected="more than 1")


def _search(
    trials: Trials,
    fresh: Trials,
    space: Space,
    defaults: dict[str, Plan],
    part: Any,
    some: list[dict[str, Any]],
    freezable: list[int],
    speedup: float | None,
    text: int,
    images: int,
    about: dict[str, Any],
    progress: Progress,
) -> SearchResult:
    none = trials.uncompressed(space.none())
    progress("horizon", 0.0)
    seen = find_horizon(trials, space) if speedup is None else Horizon(space.cached, {})
    progress("horizon", 1.0)
    space = dataclasses.replace(space, horizon=seen.layer)
    progress("score and filter", 0.0)
    ranked = choose(trials, space, some)
    progress("score and filter", 1.0)
    order = freezing.order_of(trials, part, space, [layer for layer in freezable if layer < seen.layer], progress)
    frozen = tuple(item.layer for item in order)
    ranks = {"method": method_of(ranked[0].switches)}
    space = dataclasses.replace(space, switches={**space.switches, **ranks}, order=frozen)
    goal = None if speedup is None else int(none.flops / speedup)
    chosen = search(trials, space, progress) if goal is None else fastest(trials, space, goal, progress)
    if chosen is None and goal is not None:
        raise UsageError(
            "no plan of this search is so fast",
            where="--speedup",
            got=speedup,
            expected=f"at most {none.flops / min(trial.flops for trial in trials.made.values()):.3g}",
        )
    if chosen is None:
        raise CheckFailed(
            "merging in the encoder alone changes too many answers",
            got=f"{space.encoded(space.merges[0])} of {none.plan.span_tokens} units left",
            expected=f"an agreement whose lower bound is at least {trials.bar:g}",
            fix="a larger --merge-keep, or none to try several",
        )
    progress("frontier", 0.0)
    baselines = {name: trials.whole(plan) for name, plan in defaults.items()}
    line = frontier(trials)
    progress("frontier", 1.0)
    progress("held-out part", 0.0)
    checked = fresh.whole(chosen.plan)
    compared = [against(name, peer(trials, other), other, fresh) for name, other in baselines.items()]
    progress("held-out part", 1.0)
    return SearchResult(
        trials.bar,
        space.none(),
        none.flops,
        text,
        images,
        seen,
        chosen,
        checked,
        line,
        baselines,
        compared,
        len(trials.made),
        about,
        ranked,
        order,
        speedup,
    )


def enough(clusters: Sequence[int], bar: float, name: str, instead: str = "a smaller --held-out, ") -> None:
    """Refuse a set on which not even a model that changes no answer would reach the bar."""
    best = agreement([True] * len(clusters), clusters).low
    if best < bar:
        raise UsageError(
            "there are too few questions to show the agreement that is asked for",
            where=name,
            got=f"{len(clusters)} questions to search on: if all agreed, the lower bound would be {best:.4f}",
            expected=f"a lower bound of {bar:g} or more",
            fix=f"more pictures and prompts (--count), {instead}or a smaller --retention",
        )
