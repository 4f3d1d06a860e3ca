"""The registry of scores: ours by their files, others by entry points, and what a score may not be."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import torch
from flat_plans import flat_plan
from installed import installed
from torch import Tensor
from typer.testing import CliRunner

from luvc_export.calibration.ablation.store import plan_key
from luvc_export.calibration.ablation.variants import methods
from luvc_export.cli import app
from luvc_export.core import operators
from luvc_export.core.plan import Plan
from luvc_export.demo import CHECKPOINT, IMAGE_SIZE
from luvc_export.errors import PlanError
from luvc_export.export.compression import scores
from luvc_export.export.compression.scores import Score, ScoreInput, _spectrum
from luvc_export.pipeline import make_plan

ENTRY = "[luvc_export.scores]\nspread = luvc_spread:SCORE\n"
MODULE = """
from luvc_export.export.compression.scores.base import Score

class Spread(Score):
    def score(self, given):
        return given.normed.var(dim=-1)

SCORE = Spread()
"""


def test_our_scores_and_their_flags() -> None:
    assert scores.built_in() == [
        "dart", "dycoke", "evs", "fastv", "holitom", "keynorm", "learned", "low", "maxmin", "norm", "pyramiddrop",
        "random", "ratio", "residual", "scope", "stride", "v2drop", "vidcom2",
    ]  # fmt: skip
    flags = {name: (s.reads_text, s.needs_layer_before) for name in scores.built_in() for s in [scores.find(name)]}
    assert {name: flag for name, flag in flags.items() if any(flag)} == {
        "fastv": (True, True),
        "pyramiddrop": (True, False),
        "v2drop": (False, True),
    }
    spectrum = [name for name in flags if isinstance(scores.find(name), _spectrum.SpectrumScore)]
    assert spectrum == sorted(operators.SCORES)


def test_a_score_is_one_file() -> None:
    """No file outside the folder names a baseline's file, and none of the folder another score."""
    folder = Path(scores.__file__).parent
    for path in folder.glob("*.py"):
        used = {node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)}
        assert not used & {f"{scores.__name__}.{name}" for name in scores.built_in()}, path


def test_an_installed_score_is_listed_found_and_compared(tmp_path: Path) -> None:
    plan = flat_plan((4, 4), (16, 6, 0))
    with installed(tmp_path, ENTRY, "luvc_spread", MODULE):
        assert "spread" in scores.names() and "spread" not in scores.built_in()
        spread = scores.find("spread")
        assert (spread.reads_text, spread.needs_layer_before) == (False, False)
        normed = torch.randn(1, 2, 5, 8, generator=torch.Generator().manual_seed(0))
        assert torch.equal(spread.score(ScoreInput(normed, None, "token", 2)), normed.var(dim=-1))
        assert scores.constant(flat_plan((4, 4), (6, 0), score="spread"), 0, 16, 8) is None
        assert "spread" in [variant.name for variant in methods(plan, plan)]
        key = plan_key(plan.changed(method=scores.method("spread")))
        assert {"axis", "spectrum"} <= set(key["llm"]), "it may read every switch"
    assert "spread" not in scores.names()
    assert "spread" not in [variant.name for variant in methods(plan, plan)]
    assert not {"axis", "spectrum"} & set(plan_key(flat_plan((4, 4), (16, 6, 0), score="norm"))["llm"])


def test_our_own_come_first(tmp_path: Path) -> None:
    with installed(tmp_path, "[luvc_export.scores]\nnorm = luvc_spread:SCORE\n", "luvc_spread", "SCORE = 3"):
        assert type(scores.find("norm")).__name__ == "Norm"


@pytest.mark.parametrize(
    ("module", "refusal"),
    [
        ("", "an installed score cannot be loaded(.|\n)*spread = luvc_spread:SCORE(.|\n)*remove the package"),
        ("raise RuntimeError('no GPU')", "cannot be loaded(.|\n)*RuntimeError: no GPU"),
        (
            "SCORE = 3",
            "what an installed package calls a score is something else(.|\n)*got: int(.|\n)*an instance of .*Score",
        ),
        (
            MODULE.replace("SCORE = Spread()", "SCORE = Spread"),
            "what an installed package calls a score is something else",
        ),
        (MODULE.replace("score(self", "scores(self"), r"Spread\.scores(.|\n)*did you mean 'score'"),
        (MODULE + "SCORE.read_text = True", r"spread\.read_text(.|\n)*did you mean 'reads_text'"),
    ],
    ids=["nothing", "import", "number", "class", "method", "instance"],
)
def test_a_broken_package_is_named(tmp_path: Path, module: str, refusal: str) -> None:
    with installed(tmp_path, ENTRY, "luvc_spread", module), pytest.raises(PlanError, match=refusal):
        scores.find("spread")


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        ({"read_text": True}, r"Wrong\.read_text(.|\n)*did you mean 'reads_text'"),
        ({"need_layer_before": True}, r"Wrong\.need_layer_before(.|\n)*did you mean 'needs_layer_before'"),
        ({"constants": lambda *_: None}, r"Wrong\.constants(.|\n)*did you mean 'constant'"),
        (
            {"READS_TEXT": True},
            r"Wrong\.READS_TEXT(.|\n)*known: constant, needs_layer_before, needs_positions, problems, reads_spectrum,",
        ),
        ({"reads_text": "yes"}, r"flag is no bool(.|\n)*Wrong\.reads_text(.|\n)*'yes'"),
        ({"settings": {"power": 2}}, r"settings are not declared(.|\n)*Wrong\.settings(.|\n)*ScoreSetting"),
        ({"constant": 3}, r"method cannot be called(.|\n)*Wrong\.constant(.|\n)*3"),
    ],
    ids=["flag", "other flag", "method", "as before", "type", "settings", "no method"],
)
def test_a_misspelt_name_is_an_error_when_the_class_is_made(body: dict[str, object], refusal: str) -> None:
    with pytest.raises(PlanError, match=refusal):
        type("Wrong", (Score,), {"score": lambda self, rows: rows.normed, "__qualname__": "Wrong", **body})


def test_a_mixin_does_not_hide_a_misspelt_name() -> None:
    class Mixin:
        reads_texts = True

    with pytest.raises(PlanError, match="did you mean 'reads_text'"):
        type("Wrong", (Mixin, Score), {"score": lambda self, rows: rows.normed})


def test_private_helpers_and_subclasses_are_fine() -> None:
    class Longest(Score):
        reads_text = True
        _power = 2

        def score(self, given: ScoreInput) -> Tensor:
            return self._of(given.normed)

        def _of(self, x: Tensor) -> Tensor:
            return x.abs().pow(self._power).sum(-1)

    class Shortest(Longest):
        reads_text = False

        def score(self, given: ScoreInput) -> Tensor:
            return -super().score(given)

    x = torch.randn(1, 1, 4, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Shortest().score(ScoreInput(x, None, "token")), -Longest().score(ScoreInput(x, None, "token")))
    assert (Longest.reads_text, Shortest.reads_text) == (True, False)


def test_a_score_needs_its_method() -> None:
    class Empty(Score):
        pass

    with pytest.raises(TypeError, match="abstract method"):
        Empty()  # type: ignore[abstract]


SETTINGS = MODULE.replace(
    "class Spread(Score):\n",
    """from luvc_export.export.compression.scores.base import ScoreSetting

class Spread(Score):
    settings = {
        "power": ScoreSetting(2.0, "Exponent of the variance.", above=0, most=8),
        "side": ScoreSetting("high", "Which end stays.", choices=("high", "low")),
    }

""",
)


def test_an_installed_score_has_settings_and_facts_from_python_and_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = ("--image-size", f"{IMAGE_SIZE[0]}x{IMAGE_SIZE[1]}")
    with installed(tmp_path, ENTRY, "luvc_spread", SETTINGS):
        powered = make_plan(str(CHECKPOINT), "thirds", image_size=IMAGE_SIZE, score="spread", power=3)
        assert dict(powered.llm.method.settings) == {"power": 3.0, "side": "high"} and not powered.reads_text
        assert powered.prunes_tokens and Plan.from_json(json.loads(json.dumps(powered.to_json()))) == powered
        words = ["--score", "spread", "--score-option", "power=3", "--score-option", "side=low"]
        printed = CliRunner().invoke(app, ["plan", str(CHECKPOINT), *size, "--plan", "thirds", *words, "--json"])
        assert printed.exit_code == 0, printed.output
        method = json.loads(printed.stdout)["plan"]["llm"]["method"]
        assert method["settings"] == {"power": 3.0, "side": "low"} and method["reads_text"] is False
        shown = CliRunner().invoke(app, ["plan", "--score", "spread", "--help-score"])
        assert shown.exit_code == 0 and "power (above 0 to 8; default 2.0): Exponent of the variance." in shown.stdout
        for settings, refusal in (
            ({"power": 9}, "power: got 9, expected above 0 to 8"),
            ({"side": "left"}, "side: got 'left', expected high, low"),
            ({"powr": 2}, "powr: score 'spread' has no such setting; expected did you mean 'power'"),
        ):
            with pytest.raises(PlanError, match=refusal):
                scores.method("spread", **settings)
