"""Budgets from data: the search on invented models whose needs are known, and parts of it on the bundled one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from luvc_export.calibration import datasets, intervals, runners
from luvc_export.calibration.ablation.store import Store
from luvc_export.calibration.budgets import freezing, part, search
from luvc_export.calibration.budgets import space as spaces
from luvc_export.calibration.budgets.space import Space, find_horizon
from luvc_export.calibration.budgets.trials import Trials, agreement, shuffled
from luvc_export.calibration.runners.canvas import canvas
from luvc_export.core.plan import Method, Plan
from luvc_export.demo import IMAGE_SIZE
from luvc_export.errors import UsageError
from luvc_export.export.checkpoint import Checkpoint

GRID, LAYERS = (6, 8), 5
UNITS = GRID[0] * GRID[1]
SPACE = Space(GRID, LAYERS, LAYERS)


@dataclass
class Invented:
    """Questions that are answered as before if and only if each layer sees at least the tokens they need."""

    needs: list[list[int]]
    name: str = "calibration"
    asked: list[int] = field(default_factory=list)

    @property
    def clusters(self) -> Sequence[int]:
        return range(len(self.needs))

    def agrees(self, plan: Plan, some: range) -> list[bool]:
        self.asked.append(len(some))
        return [all(k >= n for k, n in zip(plan.keep, self.needs[i], strict=True)) for i in some]


def cost_of(plan: Plan) -> int:
    return 1 + sum(plan.keep)


@pytest.fixture
def tries(tmp_path: Path) -> Callable[..., Trials]:
    def make(asked: Invented, bar: float = 0.9) -> Trials:
        return Trials(asked, bar, cost_of, Store(tmp_path / f"{len(list(tmp_path.iterdir()))}.json", {}))

    return make


def constant(need: Sequence[int], count: int = 80) -> Invented:
    return Invented([list(need)] * count)


needs = st.lists(
    st.lists(st.integers(0, UNITS), min_size=LAYERS, max_size=LAYERS).map(lambda n: sorted(n, reverse=True)),
    min_size=1,
    max_size=4,
)


@settings(max_examples=20)
@given(needs, st.integers(0, LAYERS))
def test_the_search_holds_the_bar_below_what_is_easy_to_find(needs: list[list[int]], looks: int) -> None:
    """Never dearer than the cheapest even schedule up to the horizon; no step of any layer is left to take."""
    kinds = [[n if layer < looks else 0 for layer, n in enumerate(need)] for need in needs]
    asked = Invented([kinds[i % len(kinds)] for i in range(80)])
    store = Store(Path("/nonexistent/never-written.json"), {})
    store.save = lambda: None  # type: ignore[method-assign]
    trials = Trials(asked, 0.9, cost_of, store)
    seen = find_horizon(trials, SPACE)
    most = [max(kind[layer] for kind in kinds) for layer in range(LAYERS)]
    assert seen.layer == max((layer + 1 for layer in range(LAYERS) if most[layer]), default=0)
    space = Space(GRID, LAYERS, seen.layer)
    best = search.search(trials, space)
    assert best is not None and best.holds and all(k >= n for k, n in zip(best.plan.keep, most, strict=True))
    assert sum(best.plan.keep) * search.STEPS[-1][1] <= max(most) * seen.layer, "a last step above at most"
    for layer in range(seen.layer):
        less = search.lowered(best.plan.keep[: seen.layer], (layer, layer + 1), search.STEPS[-1][1])
        assert less is None or not trials.of(space.plan((), less)).holds


@given(st.lists(st.booleans(), min_size=1, max_size=120), st.integers(1, 14))
def test_agreement_is_a_bound_and_all_agreeing_proves_most(agrees: list[bool], each: int) -> None:
    clusters = [index // each for index in range(len(agrees))]
    lower = agreement(agrees, clusters)
    assert lower.low <= lower.value <= lower.high and lower.value == pytest.approx(np.mean(agrees))
    every = agreement([True] * len(agrees), clusters)
    assert every.low >= lower.low or lower.value < 1
    asked: Any = SimpleNamespace(name="some", clusters=clusters)
    assert Trials(asked, 0.9, cost_of, Store(Path("nowhere.json"), {})).at_best([]) == every.low


def test_the_paired_difference_knows_its_sign() -> None:
    ours, theirs = [True] * 40, [True] * 30 + [False] * 10
    gap = intervals.difference(ours, theirs, range(40))
    assert gap.value == 0.25 and 0 < gap.low < gap.high
    assert intervals.difference(ours, ours, range(40)) == (0, 0, 0)


def test_a_hopeless_plan_is_asked_few_questions_and_one_that_holds_all(tries: Callable[..., Trials]) -> None:
    asked = constant([20, 20, 20, 20, 0], 800)
    trials = tries(asked, 0.99)
    assert not trials.of(SPACE.plan((), (19,) * 4)).holds and asked.asked == [100]
    held = trials.of(SPACE.plan((), (20,) * 4))
    assert held.holds and held.whole and sum(asked.asked) == 900
    assert trials.of(SPACE.plan((), (20,) * 4)) is held and sum(asked.asked) == 900, "asked once"
    assert trials.whole(SPACE.plan((), (19,) * 4)).wrong == 800 and sum(asked.asked) == 1600


def test_the_horizon_bisects_and_draws_the_rest(tries: Callable[..., Trials]) -> None:
    layers = 32
    space = Space(GRID, layers, layers)
    asked = constant([10] * 21 + [0] * 11)
    trials = tries(asked)
    seen = find_horizon(trials, space)
    assert seen.layer == 21 and {20, 21, 0, 31} <= seen.curve.keys() and len(seen.curve) < 16
    assert [layer for layer, trial in seen.curve.items() if trial.wrong] == [n for n in seen.curve if n < 21]


def test_a_model_that_looks_to_the_end_has_no_horizon(tries: Callable[..., Trials]) -> None:
    trials = tries(constant([9] * LAYERS))
    assert find_horizon(trials, SPACE).layer == LAYERS
    best = search.search(trials, SPACE)
    assert best is not None and best.plan.llm.last_layer == "kv_only" and set(best.plan.keep) == {9}


def test_a_score_with_a_layer_before_keeps_the_first_layer_whole(tries: Callable[..., Trials]) -> None:
    space = Space(GRID, LAYERS, LAYERS - 1, whole=1, switches={"method": Method("v2drop")})
    best = search.search(tries(constant([5, 5, 5, 5, 0])), space)
    assert best is not None and best.plan.keep == (UNITS, 5, 5, 5, 0)


def test_the_frontier_is_finished_and_has_no_plan_that_another_beats(tries: Callable[..., Trials]) -> None:
    rng = np.random.default_rng(3)
    asked = Invented([sorted(rng.integers(4, 20, LAYERS).tolist(), reverse=True) for _ in range(400)])
    trials = tries(asked, 0.98)
    assert search.search(trials, SPACE) is not None
    line = search.frontier(trials)
    assert all(trial.whole for trial in line) and len(line) > 2
    assert [t.flops for t in line] == sorted((t.flops for t in line), reverse=True)
    assert [t.agreement.value for t in line] == sorted((t.agreement.value for t in line), reverse=True)
    other = trials.whole(SPACE.plan((), (30,) * LAYERS))
    peer = search.peer(trials, other)
    assert peer.wrong <= other.wrong and peer.flops <= other.flops


def test_beating_takes_fewer_flops_and_no_lost_agreement(tries: Callable[..., Trials]) -> None:
    fresh = tries(Invented([[20, 10, 10, 10, 0]] * 40 + [[30, 30, 30, 30, 0]] * 40))
    small, even, large = (fresh.whole(SPACE.plan((), keep)) for keep in ((20, 10, 10, 10), (21,) * 4, (30,) * 4))
    assert search.against("even", small, even, fresh).beats
    lost = search.against("large", small, large, fresh)
    assert not lost.beats and "does not beat it" in lost.verdict and lost.gap.value == -0.5
    close = tries(Invented([[20, 10, 10, 10, 0]] * 79 + [[30, 30, 30, 30, 0]]))
    less, more = (close.whole(SPACE.plan((), keep)) for keep in ((20, 10, 10, 10), (30,) * 4))
    unsure = search.against("large", less, more, close)
    assert not unsure.beats and "undecided" in unsure.verdict
    dear = search.against("even", large, even, fresh)
    assert not dear.beats and "nothing cheaper than even" in dear.verdict


# Freezing and settings.


@dataclass
class Freezable(Invented):
    """Layers that may be frozen without a changed answer; any other one frozen changes all. Scores that see enough."""

    still: tuple[int, ...] = ()
    sees: tuple[str, ...] = ("residual",)

    def agrees(self, plan: Plan, some: range) -> list[bool]:
        fine = set(plan.llm.kv_only) <= set(self.still) and (
            (plan.llm.method.name or "residual") in self.sees or min(plan.keep[:-1]) == UNITS
        )
        return [fine and one for one in super().agrees(plan, some)]


def frozen_cost(plan: Plan) -> int:
    return 1 + sum(1 if layer in plan.llm.kv_only else count for layer, count in enumerate(plan.keep))


def test_freezing_is_one_more_step_of_the_descent(tmp_path: Path) -> None:
    asked = Freezable([[20, 20, 20, 20, 0]] * 80, still=(1, 3))
    trials = Trials(asked, 0.9, frozen_cost, Store(tmp_path / "s.json", {}))
    space = Space(GRID, LAYERS, LAYERS - 1, order=(3, 1, 0, 2))
    best = search.search(trials, space)
    assert best is not None and best.plan.llm.kv_only == (1, 3) and {*best.plan.keep} <= {20, 21, 0}
    assert space.frozen(best.plan) == 2 and best.flops == 1 + 2 + sum(best.plan.keep[::2])
    late = search.search(trials, Space(GRID, LAYERS, LAYERS - 1, order=(0, 3, 1)))
    assert late is not None and not late.plan.llm.kv_only, "what cannot be frozen stands before what can"


def test_a_speed_is_met_where_it_costs_fewest_answers(tmp_path: Path) -> None:
    """Half of the questions need 30 tokens in layers 0 and 1; layer 3 may be frozen for nothing."""
    asked = Freezable([[30, 30, 5, 5, 0], [5, 5, 5, 5, 0]] * 40, still=(3,))
    store = Store(tmp_path / "never-written.json", {})
    store.save = lambda: None  # type: ignore[method-assign]
    trials = Trials(asked, 0.0, frozen_cost, store)
    space = Space(GRID, LAYERS, LAYERS, order=(3,))
    for goal, wrong in ((150, 0), (75, 0), (40, 40)):
        best = search.fastest(trials, space, goal)
        assert best is not None and 0.8 * goal < best.flops <= goal and best.wrong == wrong, goal
    assert best is not None and best.plan.llm.kv_only == (3,)
    assert search.fastest(trials, space, 0) is None, "none costs nothing"


def test_a_frozen_layer_without_tokens_is_no_layer_to_freeze() -> None:
    space = Space(GRID, LAYERS, 2, order=(3, 4, 1))
    assert space.plan((), (9, 9), 3).llm.kv_only == (1,) and space.plan((), (9, 0), 3).llm.kv_only == ()


def test_layers_are_ordered_by_what_they_add_to_those_frozen_before() -> None:
    """Alone layer 0 matters least; but once it is frozen, layer 1 matters most."""
    alone = {0: 0.1, 1: 0.2, 2: 0.3, 3: 0.9}
    seen: list[tuple[int, ...]] = []

    def divergence(frozen: tuple[int, ...]) -> float:
        seen.append(frozen)
        return sum(alone[layer] for layer in frozen) + 5.0 * ({0, 1} <= set(frozen))

    ordered = freezing.order(divergence, range(4), 1)
    assert [item.layer for item in ordered] == [0, 2, 3, 1] and len(seen) == 4 + 3 + 2 + 1
    assert [round(item.divergence, 6) for item in ordered] == [0.1, 0.4, 1.3, 6.5]
    blind = freezing.order(divergence, range(4), 4)
    assert [item.layer for item in blind] == [0, 1, 2, 3], "without measuring again layer 1 comes too soon"


def test_the_score_that_agrees_best_is_taken(tmp_path: Path) -> None:
    some = spaces.candidates(None, None)
    assert {each["score"] for each in some} == set(spaces.SCORES) and some[0] == {"score": "residual", "rho": 0.1}
    assert spaces.candidates("residual", None) == [{"score": "residual", "rho": rho} for rho in spaces.RHOS]
    assert spaces.candidates("dart", 0.3) == [{"score": "dart"}]
    assert [each for each in some if each not in spaces.candidates(None, None, keyed=False)] == [{"score": "dart"}]
    asked = Freezable([[6, 6, 6, 6, 0]] * 80, sees=("scope",))
    trials = Trials(asked, 0.9, frozen_cost, Store(tmp_path / "s.json", {}))
    ranked = spaces.choose(trials, SPACE, some)
    assert ranked[0].switches["score"] == "scope" and ranked[0].agreement == 1 and ranked[-1].agreement == 0
    assert all(trial.asked == 20 for each in ranked for trial in each.trials)
    assert spaces.choose(trials, SPACE, some[:1])[0].trials == ()


def test_without_answers_the_model_is_held_to_its_own(checkpoint: Checkpoint, tmp_path: Path) -> None:
    for number, case in enumerate(datasets.load("glyph", count=20).cases[::4]):
        Image.fromarray(case.images[0]).resize((60 + number, 50)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(case.prompt)
    data = datasets.load(tmp_path, longest=4)
    unit = checkpoint.family.unit_pixels(checkpoint.config)
    layers = checkpoint.family.decoder_shape(checkpoint.config).layers
    space = Space((IMAGE_SIZE[0] // unit, IMAGE_SIZE[1] // unit), layers, layers)
    store, image = Store(tmp_path / "store.json", {}), canvas(checkpoint, IMAGE_SIZE)
    searched = part.Part("calibration", checkpoint, runners.load_model(checkpoint), data, image, space.none(), store)
    assert searched.agrees(space.none(), range(5)) == [True] * 5
    assert not all(searched.agrees(space.plan((), ()), range(5))), "blind"
    still = Space(space.grid, layers, layers, order=(0,))
    moved = [searched.divergence(still.plan((), still.full(()), count), 5) for count in (0, 1)]
    assert abs(moved[0]) < 1e-6 and moved[1] > 1e-3, "nothing frozen, and the first layer"
    assert all(1 <= len(asked.answer) <= 4 for asked in searched.engine.asked(space.none()))


def test_pictures_come_whole_and_in_an_order_that_never_changes() -> None:
    clusters = [index // 3 for index in range(30)]
    order = shuffled(clusters)
    assert sorted(order) == list(range(30)) and order != list(range(30)) and order == shuffled(clusters)
    assert all(order[i + 1] - order[i] == 1 for i in range(30) if i % 3 < 2)


def test_merging_too_much_is_an_answer_and_not_a_crash(tries: Callable[..., Trials]) -> None:
    half = Space(GRID, LAYERS, LAYERS - 1, merges=((),))
    assert search.search(tries(constant([UNITS + 1, 0, 0, 0, 0])), half) is None


def test_a_part_of_nothing_cannot_be_asked_for() -> None:
    with pytest.raises(UsageError, match="too few pictures"):
        datasets.load("glyph", count=20).split(0.01)
