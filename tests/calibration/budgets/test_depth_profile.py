"""A profile by depth: bisection on invented models, chance, and ``plan --data --plan striped`` on the bundled model."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from luvc_export.calibration import tasks
from luvc_export.calibration.ablation.evaluator import PlanEvaluator
from luvc_export.calibration.ablation.store import Store
from luvc_export.calibration.budgets import depth, part, report
from luvc_export.calibration.budgets import trials as trials_module
from luvc_export.calibration.budgets.space import Space, find_horizon
from luvc_export.calibration.budgets.trials import Trials
from luvc_export.calibration.datasets import CalibrationSet
from luvc_export.core.plan import LastLayer, Plan
from luvc_export.core.plan.stripes import Stripes, read
from luvc_export.core.planning import LlmRequest, PlanRequest, solve
from luvc_export.core.shapes import DecoderShape, EncoderShape
from luvc_export.demo import CHECKPOINT
from luvc_export.errors import CheckFailed, UsageError
from luvc_export.pipeline import make_plan
from luvc_export.runtime.prompt.case_lines import FileCase

GRID, COUNT = (6, 8), 120
UNITS = GRID[0] * GRID[1]
LLM = DecoderShape(layers=30, hidden=64, heads=4, kv_heads=2, head_dim=16, intermediate=96, vocab=9, context=999)
VISION = EncoderShape(blocks=2, hidden=16, intermediate=16, unit=4, window=4, full_attention=(1,))


@dataclass
class Invented:
    """Answers as before if and only if it sees ``need`` tokens up to layer ``reads`` and layers before ``works`` work.

    In layers before ``turns`` some tokens must.
    ``loose`` layers about ``reads`` answer by chance of their own, always the same: a nearly monotone profile.
    """

    layers: int
    reads: int
    works: int
    need: int
    loose: dict[int, bool] = field(default_factory=dict)
    name: str = "calibration"
    asked: int = 0
    turns: int = 0

    @property
    def clusters(self) -> Sequence[int]:
        return range(COUNT)

    def agrees(self, plan: Plan, some: range) -> list[bool]:
        self.asked += len(some)
        seen = sum(count >= self.need for count in plan.keep)
        enough = self.loose.get(seen, seen >= self.reads)
        works = self.works if plan.llm.turns else max(self.works, self.turns)
        return [enough and not any(layer < works for layer in plan.llm.kv_only)] * len(some)


def trials_of(asked: Invented) -> Trials:
    store = Store(Path("/nonexistent/never-written.json"), {})
    store.save = lambda: None  # type: ignore[method-assign]

    def flops(plan: Plan) -> int:
        """Work on visual tokens, which is most, and their keys and values."""
        carries = dict.fromkeys(plan.llm.kv_only, plan.llm.turns and 1 / plan.llm.turns)
        return 1 + round(100 * sum(count * (0.1 + carries.get(layer, 1)) for layer, count in enumerate(plan.keep)))

    return Trials(asked, 0.95, flops, store)


def measured(asked: Invented) -> tuple[int, list[depth.Quarter], depth.Proposal]:
    trials, space = trials_of(asked), Space(GRID, asked.layers, asked.layers)

    def striped(shape: Stripes, turns: int | None) -> Plan:
        last: LastLayer = "drop" if shape.gone < 1 else "kv_only"
        request = LlmRequest("striped", stripes=shape, last_layer=last, turns=turns)
        shapes = DecoderShape(**vars(LLM) | {"layers": asked.layers})
        return solve(PlanRequest(request), GRID, shapes, VISION)

    _, horizon, quarters, proposal = depth.measured(trials, space, striped, range(asked.layers - 1), "data")
    return horizon.layer, quarters, proposal


@st.composite
def models(draw: st.DrawFn) -> Invented:
    layers = draw(st.integers(4, 90))
    reads = draw(st.integers(1, layers))
    return Invented(layers, reads, draw(st.integers(0, reads)), draw(st.integers(1, UNITS)))


@settings(max_examples=25)
@given(models())
def test_a_monotone_profile_is_measured_exactly_and_its_shape_holds(asked: Invented) -> None:
    horizon, quarters, proposal = measured(asked)
    assert horizon == asked.reads and asked.asked <= depth.most_trials(asked.layers) * COUNT
    for each in quarters:
        touched = range(each.first, min(each.stop, horizon, asked.layers - 1))
        assert each.free == (each.first >= asked.works or not touched), each
    plan = proposal.chosen.plan
    assert proposal.chosen.holds and plan.keep[horizon:] == (0,) * (asked.layers - horizon)
    assert all(trial.flops >= proposal.chosen.flops for _, trial in proposal.tried if trial.holds)
    counts = {share: max(1, round(share * UNITS)) for share in depth.SHARES}
    chosen = proposal.stripes.share
    assert horizon == 1 or all(counts[share] < asked.need for share in depth.SHARES if share < chosen)


@pytest.mark.parametrize(("needed", "turns", "works"), [(0, 0, "1, then none"), (20, 2, "7, then by turns")])
def test_tokens_take_turns_where_standing_still_loses_answers(needed: int, turns: int, works: str) -> None:
    proposal = measured(Invented(24, 20, 4, 9, turns=needed))[2]
    assert proposal.chosen.plan.llm.turns == turns and len(proposal.chosen.plan.llm.kv_only) >= 10
    assert re.fullmatch(rf"--plan striped --stripes \S+ --turns {turns}", proposal.options)
    assert report._working(proposal.stripes, proposal.chosen.plan) == works


def test_twelve_passes_are_enough_for_any_depth() -> None:
    """The answers, half of the data under every plan that may be tried, and the check on the other half."""
    assert max(1 + (depth.most_trials(layers) + 1) / 2 for layers in range(1, 128)) <= 12


@settings(max_examples=40)
@given(models(), st.randoms(use_true_random=False))
def test_of_a_nearly_monotone_profile_what_comes_out_was_tried(asked: Invented, luck: random.Random) -> None:
    """Two layers about the true one answer either way: the horizon is within them, and holds where it was tried."""
    around = range(max(1, asked.reads - 2), min(asked.layers, asked.reads + 2))
    asked.loose = {layer: luck.random() < 0.5 for layer in around}
    trials = trials_of(asked)
    horizon = find_horizon(trials, Space(GRID, asked.layers, asked.layers))
    assert abs(horizon.layer - asked.reads) <= 2
    assert horizon.layer == asked.layers or horizon.curve[horizon.layer].holds
    assert horizon.layer == 0 or not horizon.curve[horizon.layer - 1].holds


def test_layers_without_keys_work_and_none_is_asked_of_them() -> None:
    asked = Invented(8, 8, 0, 1)
    free = [each.free for each in depth.quarters(trials_of(asked), Space(GRID, 8, 8), 8, (2, 3, 4))]
    assert free == [False, True, False, False], "layers 0, 1 and 5, 6 have none; the last one costs nothing"


def test_a_model_that_does_not_repeat_its_own_answers_is_refused() -> None:
    words = r"does not repeat its own answers[\s\S]*agreement 0.0000, lower bound[\s\S]*at least 0.95[\s\S]*parity hf:"
    with pytest.raises(CheckFailed, match=words):
        measured(Invented(8, 8, 0, UNITS + 1))


def test_answers_that_need_no_picture_are_refused() -> None:
    with pytest.raises(UsageError, match=r"do not need the pictures[\s\S]*agreement 1.0000[\s\S]*below 0.95"):
        measured(Invented(12, 0, 0, 1))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abcd")), min_size=2, max_size=12))
def test_chance_is_what_answers_get_when_dealt(pairs: list[tuple[str, str]]) -> None:
    answers, labels = zip(*pairs, strict=True)
    every = [a == b for i, a in enumerate(answers) for j, b in enumerate(labels) if i != j]
    assert part.chance(answers, labels) == pytest.approx(sum(every) / len(every))
    assert part.chance(answers[:1], labels[:1]) == 0


@dataclass
class Labelled:
    answer: str
    kind: str
    picture: int
    images: tuple[str, ...] = ()
    prompt: str = "?"


def test_kinds_answered_no_better_than_chance_are_left_out_and_named() -> None:
    rng = random.Random(0)
    cases = [Labelled(rng.choice("0123456789"), "digit", i) for i in range(60)]
    cases += [Labelled(rng.choice(["left", "right"]), "side", i) for i in range(60)]
    answers = [case.answer if case.kind == "digit" else rng.choice(["left", "right"]) for case in cases]
    seen = part.compared(cases, answers, "data")
    assert seen.kinds == ("digit",) and seen.left_out == ("side",) and seen.chance.value == pytest.approx(0.3, abs=0.05)


# The verb.

Cli = Callable[..., tuple[int, str, str]]
ALL, STEP = 16, 9


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depth, "_PROBED", 2)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions with their answers, and the same with answers dealt to other questions."""
    folder = tmp_path_factory.mktemp("questions")
    lines = list[dict[str, object]]()
    for number, case in enumerate(tasks.find("glyph").cases("heldout", ALL * STEP, 1)):
        if number % STEP:
            continue
        names = [f"{number}-{place}.png" for place in range(len(case.images))]
        for name, image in zip(names, case.images, strict=True):
            Image.fromarray(image).save(folder / name)
        lines.append({"image": names, "prompt": case.prompt, "answer": case.answer, "kind": case.kind})
    labels = [line["answer"] for line in lines]
    random.Random(1).shuffle(labels)
    dealt = [line | {"answer": label} for line, label in zip(lines, labels, strict=True)]
    for name, some in (("right", lines), ("shuffled", dealt)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in some))
    return folder


def words(files: Path, name: str = "right") -> tuple[object, ...]:
    return "--data", files / f"{name}.jsonl", "--plan", "striped", "--retention", 0.5, "--max-new-tokens", 4


@pytest.mark.slow(
    beside="calibration/budgets/test_depth_profile.py::test_a_monotone_profile_is_measured_exactly_and_its_shape_holds"
)
def test_a_profile_is_interrupted_goes_on_and_proposes(
    plan: Cli, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, file, honest = tmp_path / "depth", tmp_path / "plan.json", PlanEvaluator.right
    monkeypatch.setattr(depth, "SHARES", (0.42,))  # so few questions carry no finer ones
    monkeypatch.setattr(trials_module, "RUNGS", (1.0,))
    calls = list[range | None]()

    def right(self: PlanEvaluator, plan: Plan, cases: range | None = None) -> list[bool]:
        calls.append(cases)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return honest(self, plan, cases)

    monkeypatch.setattr(PlanEvaluator, "right", right)
    code, _, err = plan(*words(files), "--save", folder, "-o", file)
    assert code == 130 and not file.exists(), err
    kept = json.loads((folder / depth.MEASUREMENTS).read_text())["records"]
    assert len(kept) >= 4 and [path.name for path in folder.iterdir()] == [depth.MEASUREMENTS]

    code, out, err = plan(*words(files), "--save", folder, "-o", file, "--json")
    assert code == 0, err
    data, saved = json.loads(out), Plan.from_json(json.loads(file.read_text()))
    again = json.loads((folder / depth.MEASUREMENTS).read_text())["records"]
    assert {name: again[name] for name in kept} == kept
    assert re.search(r"at most about \d+ s", err) and data["foretold_s"] > 0 and 1 < data["passes"] <= 12
    assert (
        saved == Plan.from_json(data["plan"])
        and data["passed"]
        and data["uncompressed_flops"] > data["calibration"]["flops"]
    )
    shape = read(data["stripes"])
    assert saved.keep == make_plan(str(CHECKPOINT), "striped", stripes=shape).keep or data["horizon"] == saved.layers
    assert data["answered"]["accuracy"][1] > data["answered"]["chance"][2] and data["quarters"][0]["layers"][0] == 0
    assert json.loads((folder / "profile.json").read_text())["command"].startswith("luvc-export plan")
    with Image.open(folder / "profile.png") as picture:
        assert picture.width > 500


def test_shuffled_answers_are_refused(plan: Cli, files: Path, tmp_path: Path) -> None:
    code, _, err = plan(*words(files, "shuffled"), "--save", tmp_path / "depth", "-o", tmp_path / "plan.json")
    assert code == 2 and not (tmp_path / "plan.json").exists()
    assert re.search(
        r"no better than chance[\s\S]*where: .*shuffled.jsonl[\s\S]*got: accuracy 0\.\d+ \(.* on \d+ questions[\s\S]*"
        r"expected: a lower end above 0\.\d+: its answers dealt to other questions get 0\.[\s\S]*"
        r"fix: see that each answer belongs to its question",
        err,
    ), err
    assert "Traceback" not in err and not (tmp_path / "depth" / "profile.json").exists()


def test_a_held_out_part_of_other_kinds_is_refused() -> None:
    """Every second picture asked otherwise, as a file that deals kinds by the picture's number has it."""
    chooser = object.__new__(part.Chooser)
    chooser.data = CalibrationSet("dealt.jsonl", (), ())
    chooser.tokens, chooser.ends, chooser.answered = SimpleNamespace(decode=lambda text: text), [], None  # type: ignore[assignment]

    def cases(kind: str) -> list[FileCase]:
        return [FileCase((), "?", str(number), kind, number) for number in range(40)]

    answers: list[Any] = [str(number) for number in range(40)]
    assert chooser(cases("count"), answers) == [*range(40)]
    with pytest.raises(
        UsageError, match=r"held-out part[\s\S]*dealt.jsonl[\s\S]*40 questions, of kinds sum[\s\S]*some of count"
    ):
        chooser(cases("sum"), answers)


def test_time_that_is_over_ends_the_profile_before_it_asks() -> None:
    stages = list[float]()
    timed = depth._Timed(Invented(8, 8, 0, 1), 2.0, monotonic() + 60, 3, lambda stage, done: stages.append(done))  # type: ignore[arg-type]
    assert timed.agrees(Space(GRID, 8, 8).none(), range(9)) == [True] * 9
    assert timed.asked == 9 and stages == [9 / 3 / COUNT]
    with pytest.raises(CheckFailed, match=r"the time ends[\s\S]*--minutes[\s\S]*60 questions more take about 120 s"):
        timed.agrees(Space(GRID, 8, 8).none(), range(60))


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["--plan", "striped", "--held-out", 0.3], ["a profile by depth heeds no such option", "--held-out"]),
        (["--plan", "striped", "--no-freeze"], ["a profile by depth heeds no such option", "--no-freeze"]),
        (["--plan", "striped", "--speedup", 2], ["a profile by depth heeds no such option", "--speedup"]),
        (["--plan", "striped", "--stripes", "first=1"], ["searches the budgets itself", "--stripes"]),
        (["--plan", "even"], ["searches the budgets itself", "--plan"]),
        (["--plan", "striped", "--minutes", 3], ["goes on where it is saved", "--plan striped --save DIR"]),
        (["--minutes", 3, "--save", "x"], ["goes on where it is saved", "--minutes"]),
        (["--plan", "striped", "--retention", 1, "--count", 20], ["between 0 and 1", "--retention"]),
        (
            ["--plan", "striped", "--count", 60],
            ["too few questions", "the lower bound would be 0.8", "(--count), or a"],
        ),
        (["--plan", "striped", "--minutes", 1e-6, "--save", "x", "--count", 20, "--retention", 0.1], ["no time for"]),
    ],
    ids=str,
)
def test_what_a_profile_cannot_heed_is_refused(
    plan: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[object], texts: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = plan("--data", "glyph", *arguments, "-o", tmp_path / "plan.json")
    assert code == 2 and all(text in err for text in texts), err
    assert "Traceback" not in err and not [*tmp_path.rglob("*.json")]
