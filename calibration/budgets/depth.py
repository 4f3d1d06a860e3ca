"""A profile by depth: where a model reads a picture, works on it or carries it alone, and the plan of that shape.

Bisection takes a profile for monotone: fewer visual tokens, or fewer layers that work on them, never answer better.
Where it nearly is, what comes out was tried and holds, and the step below it was tried and does not.
"""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from time import monotonic
from typing import Any

from luvc_export.calibration.ablation.store import Store
from luvc_export.calibration.budgets.part import Answered, Chooser, Part
from luvc_export.calibration.budgets.run import enough
from luvc_export.calibration.budgets.search import passes, plain, unconfirmed
from luvc_export.calibration.budgets.space import Horizon, Space, find_horizon, method_asked
from luvc_export.calibration.budgets.subject import Subject
from luvc_export.calibration.budgets.trials import PlanTrial, Trials
from luvc_export.calibration.datasets import CalibrationSet
from luvc_export.calibration.runners.canvas import Grids
from luvc_export.core.files.safe_files import temporary_folder
from luvc_export.core.plan import STRIPED, LastLayer, Method, Plan, Sharing, Stripes
from luvc_export.core.planning import LlmRequest, PlanRequest
from luvc_export.errors import CheckFailed, Progress, UsageError
from luvc_export.export.checkpoint import Checkpoint

#: Agreement whose lower end a step of the profile must reach where nobody says another: depths that matter lose half.
BAR = 0.95
#: Share of the depth in which every token is, and shares of the tokens that are tried after it.
WHOLE = Fraction(1, 8)
SHARES = (0.17, 0.25, 0.33, 0.42, 0.6, 0.8)
#: Questions whose time foretells that of all.
_PROBED = 16
MEASUREMENTS = "profile-measurements.json"


@dataclass(frozen=True)
class Quarter:
    """Layers ``first`` to before ``stop``.

    Attributes:
        trial: All tokens everywhere, and these layers carry; None where there was nothing to ask.
        free: Whether they may carry.
    """

    first: int
    stop: int
    trial: PlanTrial | None
    free: bool

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.first} to {self.stop - 1}" if self.stop - self.first > 1 else str(self.first)


def quarters(trials: Trials, space: Space, horizon: int, freezable: Collection[int]) -> list[Quarter]:
    """Which quarters of the depth may carry, each alone; what lies behind the horizon sees no token and is not asked.

    ``horizon``: from this layer on no visual token is needed; ``freezable``: layers that may carry.
    """
    asked = list[Quarter]()
    for first, stop in pairwise(round(quarter * space.layers / 4) for quarter in range(5)):
        some = [layer for layer in range(first, stop) if layer in freezable]
        # the last layer's own products with visual tokens change no logit
        works = {*range(first, min(stop, horizon, space.layers - 1))} - {*some}
        trial = trials.of(space.none().changed(kv_only=tuple(some))) if some and first < horizon else None
        if first < stop:
            asked.append(Quarter(first, stop, trial, not works and (trial is None or trial.holds)))
    return asked


@dataclass(frozen=True)
class Proposal:
    """The shape, and what was tried for it: shapes by what they are called, in the order in which they were asked."""

    stripes: Stripes
    chosen: PlanTrial
    tried: tuple[tuple[Stripes, PlanTrial], ...]

    @property
    def options(self) -> str:
        """What a user types."""
        turns = "" if self.stripes.every == 1 else f" --turns {self.chosen.plan.llm.turns}"
        return f"--plan {STRIPED} --stripes {self.stripes}{turns}"


def propose(
    trials: Trials, striped: Callable[[Stripes, int | None], Plan], layers: int, horizon: int, working: int
) -> Proposal:
    """The cheapest stripes that hold: fewest tokens first while every layer works, then least work behind the prune.

    Args:
        trials: What is asked.
        striped: The plan of such stripes whose tokens take so many turns, or as many as the name says.
        layers: Of the LLM.
        horizon: From this layer on no visual token is left; at least 1.
        working: Layers in the front of the depth that quarters say must work.
    """
    gone, tried = Fraction(horizon, layers), list[tuple[Stripes, PlanTrial]]()

    def holds(shape: Stripes, plan: Plan) -> bool:
        tried.append((shape, trials.of(plan)))
        return tried[-1][1].holds

    whole, none = min(WHOLE, gone), Fraction(0)
    every = [Stripes(whole, share, first=0, every=1, gone=gone, works=none) for share in (*SHARES, 1.0)]
    all_work = every[bisect_left(every[:-1], True, key=lambda shape: holds(shape, striped(shape, None)))]
    behind = max(0, working - max(1, round(all_work.whole * layers)))
    fewer = [dataclasses.replace(all_work, first=first, every=0) for first in sorted({0, 1, behind})]
    still = [(shape, striped(shape, 0)) for shape in fewer if shape.carrying(layers)]
    least = bisect_left(still, True, key=lambda way: holds(*way))
    stripes, plan = [*still, (all_work, striped(all_work, None))][least]
    half = dataclasses.replace(all_work, every=0, works=Stripes().works)
    by_turns = striped(half, None)
    if half.carrying(layers) and trials.flops(by_turns) < trials.flops(plan) and holds(half, by_turns):
        stripes, plan = half, by_turns
    return Proposal(stripes, trials.of(plan), tuple(tried))


def most_trials(layers: int) -> float:
    """Plans that every question of the calibration part is asked under, at most."""
    glances = 10 / 8  # of layers that the bisection leaves out, an eighth of the questions each
    return 1 + layers.bit_length() + glances + 4 + len(SHARES).bit_length() + 3 + 1


@dataclass(frozen=True)
class DepthProfile:
    """A profile and the plan that it proposes; fields of ``run.SearchResult`` mean what they mean there.

    Attributes:
        answered: How well the model answers; None where nobody knows what is right.
        quarters: Which may carry.
        proposal: The shape.
        passes: Times that the whole data was asked, by interrupted runs too; the uncompressed answers are one.
        foretold: Seconds, at most, as they were foretold.
        seconds: That it took, without what had been measured before.
    """

    bar: float
    none: Plan
    flops: int
    text: int
    answered: Answered | None
    horizon: Horizon
    quarters: list[Quarter]
    proposal: Proposal
    checked: PlanTrial
    passes: float
    foretold: float
    seconds: float
    about: dict[str, Any]

    @property
    def chosen(self) -> PlanTrial:
        """The proposed plan on the calibration part."""
        return self.proposal.chosen

    @property
    def passed(self) -> bool:
        """Whether the held-out part confirms it."""
        return passes(self.checked, self.bar)

    @property
    def failure(self) -> CheckFailed:
        """What to raise where it does not."""
        return unconfirmed(
            "the proposed plan does not hold on the held-out part",
            self.proposal.options,
            self.checked,
            self.bar,
            "measure with more questions (--count); the held-out part is spent for other shapes",
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "about": self.about,
            "retention": self.bar,
            "text": self.text,
            "uncompressed_flops": self.flops,
            "answered": self.answered and dataclasses.asdict(self.answered),
            "horizon": self.horizon.layer,
            "horizon_curve": {str(layer): plain(trial) for layer, trial in self.horizon.curve.items()},
            "quarters": [
                {"layers": [each.first, each.stop], "free": each.free, "carried": each.trial and plain(each.trial)}
                for each in self.quarters
            ],
            "tried": [
                {"stripes": str(shape), "turns": trial.plan.llm.turns, **plain(trial)}
                for shape, trial in self.proposal.tried
            ],
            "stripes": str(self.proposal.stripes),
            "plan": self.chosen.plan.to_json(),
            "calibration": plain(self.chosen),
            "held_out": plain(self.checked),
            "passed": self.passed,
            "passes": round(self.passes, 2),
            "foretold_s": round(self.foretold, 1),
            "seconds": round(self.seconds, 1),
        }


class _Timed:
    """A part that is asked nothing more when its time is over; counts what it is asked, and says how far that is.

    ``seconds`` are of a question, about; ``end`` is on the clock ``monotonic``; ``trials`` are plans at most.
    """

    def __init__(self, part: Part, seconds: float, end: float, trials: float, progress: Progress) -> None:
        self.part, self.seconds, self.end, self.progress = part, seconds, end, progress
        self.name, self.clusters = part.name, part.clusters
        self.asked, self.most = 0, trials * len(part.clusters)

    def agrees(self, plan: Plan, some: range) -> list[bool]:
        """See ``trials.Asks``."""
        if monotonic() + self.seconds * len(some) > self.end:
            raise CheckFailed(
                "the time ends before the profile is measured",
                where="--minutes",
                got=f"{len(some)} questions more take about {self.seconds * len(some):.0f} s",
                fix="the same line again goes on where it stopped (--save); or fewer questions (--count)",
            )
        agrees = self.part.agrees(plan, some)
        self.asked += len(some)
        self.progress(f"profile by depth, {self.name} part", self.asked / self.most)
        return agrees


def profile(
    checkpoint: Checkpoint,
    data: CalibrationSet,
    image_size: tuple[int, int],
    *,
    tiles: Grids = ((1, 1),),
    video: bool = False,
    sharing: Sharing = Sharing(),
    retention: float = BAR,
    text: int | None = None,
    score: str | None = None,
    rho: float | None = None,
    steps: int | None = None,
    scorer: str = "",
    minutes: float | None = None,
    folder: Path | None = None,
    device: str = "cpu",
    foretell: Callable[[float], None] = lambda seconds: None,
    progress: Progress = lambda stage, done: None,
    **switches: Any,
) -> DepthProfile:
    """Measure a profile by depth and propose stripes, in at most 12 passes over the data (to 127 layers).

    Where right answers are known, what counts are questions that the uncompressed model answers right, of kinds that it
    answers better than chance. Else it is held to its own answers.

    Arguments are those of ``run.budgets``, but for these: half of the pictures is held out; ``retention`` is the share
    of those answers that must stay, the lower end of its 95 % interval for a step of the profile, the share itself for
    the plan on the held-out part; one score is measured, the default where ``score`` is None; ``minutes`` ends it
    before so many are over, and what was measured stays in ``folder``; ``foretell`` is told the seconds that it takes
    at most, before it starts.

    Raises:
        UsageError: The model answers the data no better than chance or as well without pictures, there are too few
            questions, or no time even for the uncompressed answers.
        PlanError: The scorer has not learned the layer.
        CheckFailed: The time is over, or the compressed model does not repeat its own answers.
        MachineError: See ``run.budgets``.
    """
    if not 0 < retention < 1:
        raise UsageError("a share must lie between 0 and 1", where="--retention", got=retention)
    subject = Subject(checkpoint, data, 0.5, image_size, tiles, video, sharing)
    if not subject.image.does.decodes:
        fix = "leave --plan out: a search asks for pairs"
        raise UsageError("a profile by depth asks for answers", where="--plan", got=subject.image.task, fix=fix)
    begin, name, llm, count = monotonic(), data.name, subject.llm, len(data.cases)
    enough([case.picture for case in subject.halves[0].cases], retention, name, "")
    method = method_asked(score, rho, steps, scorer)
    subject.check_scorer(scorer, [max(1, round(WHOLE * llm.layers))])
    switches = subject.fitting | switches
    space = Space(subject.grid, llm.layers, llm.cached, switches=switches, sharing=sharing, shared=llm.shared)

    striped = partial(_striped, subject, method, switches)
    with temporary_folder("luvc-profile") as scratch:
        store = subject.store((folder or scratch) / MEASUREMENTS)
        model = subject.load_model(device)
        answering, each = _probe(subject, model, space.none(), scratch)
        foretold = count * (answering + each * (most_trials(llm.layers) + 1) / 2)
        foretell(foretold)
        end = math.inf if minutes is None else begin + 60 * minutes
        if not store.records and monotonic() + count * answering > end:
            raise _no_time(minutes, count * answering, count)
        choose = Chooser(checkpoint, data, subject.image, model) if data.known else None
        parts = subject.parts(model, space.none(), store, progress, choose)
        enough(parts[0].clusters, retention, f"{name}: what the model answers right", "")
        counted = parts[0].text if text is None else text
        flops = partial(subject.flops, text=counted, images=parts[0].images)
        most = most_trials(llm.layers), 1
        timed = [_Timed(part, each, end, few, progress) for part, few in zip(parts, most, strict=True)]
        trials, fresh = (Trials(part, retention, flops, store) for part in timed)
        none, horizon, asked, proposal = measured(trials, space, striped, subject.freezable, name)
        checked = fresh.whole(proposal.chosen.plan)
        for part in timed:
            progress(f"profile by depth, {part.name} part", 1.0)
    repeats = 1 + sum(trial.asked for each in (trials, fresh) for trial in each.made.values()) / count
    facts = repeats, foretold, monotonic() - begin, subject.about
    who = None if choose is None else choose.answered
    return DepthProfile(retention, none.plan, none.flops, counted, who, horizon, asked, proposal, checked, *facts)


def _striped(subject: Subject, method: Method, switches: Mapping[str, Any], shape: Stripes, turns: int | None) -> Plan:
    last: LastLayer = (
        "drop" if shape.gone < 1 else "full" if subject.llm.layers - 1 in subject.llm.keyless else "kv_only"
    )
    wanted = LlmRequest(STRIPED, method=method, stripes=shape, last_layer=last, turns=turns)
    return subject.solved(PlanRequest(wanted, sharing=subject.sharing), switches)


def _no_time(minutes: float | None, seconds: float, count: int) -> UsageError:
    return UsageError(
        "there is no time for the uncompressed model's answers",
        where="--minutes",
        got=minutes,
        expected=f"about {seconds / 60:.1f} for {count} questions, before anything is measured",
        fix="more minutes, or fewer questions (--count)",
    )


def measured(
    trials: Trials,
    space: Space,
    striped: Callable[[Stripes, int | None], Plan],
    freezable: Collection[int],
    name: str,
) -> tuple[PlanTrial, Horizon, list[Quarter], Proposal]:
    """The uncompressed plan, the drop-out layer, the quarters and the shape, in the order in which they are asked.

    Raises:
        UsageError: The answers stay without any visual token.
        CheckFailed: They do not stay where nothing is compressed.
    """
    none = trials.uncompressed(space.none())
    horizon = find_horizon(trials, space)
    if not horizon.layer:
        raise UsageError(
            "the answers do not need the pictures, so no depth matters",
            where=name,
            got=f"agreement {horizon.curve[0].agreement.text(4)} without any visual token",
            expected=f"a lower end below {trials.bar:g}",
            fix="questions about what is seen, or pictures that show it (--image-size)",
        )
    asked = quarters(trials, space, horizon.layer, freezable)
    working = max((quarter.stop for quarter in asked if not quarter.free), default=0)
    proposal = propose(trials, striped, space.layers, horizon.layer, working)
    return none, horizon, asked, proposal


def _probe(subject: Subject, model: Any, none: Plan, scratch: Path) -> tuple[float, float]:
    """Seconds of a question: to be answered uncompressed (its picture encoded twice), and to be asked once more."""
    data = subject.data
    some = range(min(_PROBED, len(data.cases)))
    few = dataclasses.replace(data, cases=data.cases[: len(some)], pixels=data.pixels[: len(some)])
    times = [monotonic()]
    part = Part("probe", subject.checkpoint, model, few, subject.image, none, Store(scratch / "probe.json", {}))
    for _ in range(2):
        part.agrees(none, some)
        times.append(monotonic())
    return (times[1] - times[0]) / len(some), (times[2] - times[1]) / len(some)
