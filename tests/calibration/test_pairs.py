"""Pairs of a query and a page: what is found of them, under plans and in fewer bits; those at chance are refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_once import made_once
from PIL import Image
from typer.testing import CliRunner

from luvc_export.calibration import pairs as pairs_room
from luvc_export.calibration.budgets import search
from luvc_export.calibration.pairs import Pairs, kept, ndcg, recall
from luvc_export.calibration.quantise import agreement
from luvc_export.cli import app
from luvc_export.core.plan import Plan
from luvc_export.demo import RETRIEVER
from luvc_export.demo.scene import generator, render
from luvc_export.errors import UsageError
from luvc_export.pipeline import export_bundle
from luvc_export.runtime.prompt.case_lines import FileCase

sys.path.append(str(Path(__file__).resolve().parents[1] / "export" / "families"))
import many_vectors

PAGES = 24


def case(query: str, page: int, images: int = 1) -> FileCase:
    return FileCase((Path(f"{page}.png"),) * images, query, picture=page)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn digits and two facts of each, beside it and beside another page."""
    folder = tmp_path_factory.mktemp("pages")
    lines = []
    for number in range(PAGES):
        pixels, scene = render(generator("heldout", 62, number), "heldout")
        Image.fromarray(pixels).save(folder / f"{number}.png")
        facts = [f"{mark.colour} {mark.digit}" for mark in scene.marks]
        lines += [{"image": f"{number}.png", "prompt": " ".join(facts[at : at + 2])} for at in (0, 2)]
    dealt = [one | {"image": lines[at - 18]["image"]} for at, one in enumerate(lines)]
    for name, some in (("right", lines), ("shuffled", dealt)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in some))
    return folder


def command(*words: Any) -> tuple[int, str]:
    result = CliRunner().invoke(app, [*map(str, words)])
    return result.exit_code, result.stdout if result.exit_code == 0 else result.output + str(result.exception)


def test_every_page_that_is_paired_with_a_query_answers_it() -> None:
    some = Pairs([case("red 7", 4), case("blue 2", 1), case("red 7", 1)], "some")
    assert some.answers.tolist() == [[True, True], [False, True], [True, True]] and some.clusters == [4, 1, 1]
    assert [one.prompt for one in some.inputs] == ["", "", "red 7", "blue 2"]
    vectors = [np.eye(2, dtype=np.float32)[[at]] for at in (0, 1, 0, 1)]
    scores = some.scores_of(vectors)
    assert scores.tolist() == [[1, 0], [0, 1], [1, 0]]
    for wrong in (case("red 7", 1, 2), case("", 1), case("red 7", 1, 0)):
        with pytest.raises(UsageError, match=r"a query and a page[\s\S]*case 1[\s\S]*the query that it answers"):
            Pairs([case("red 7", 4), wrong], "some")


def test_recall_counts_pages_that_fit_and_ndcg_where_they_stand() -> None:
    answers = np.array([[True, False, False, False, False, False, True], [True] * 7])
    scores = np.array([[7.0, 6, 5, 4, 3, 2, 1]] * 2)
    assert recall(scores, answers).tolist() == [0.5, 1.0] and ndcg(scores, answers)[1] == pytest.approx(1)
    assert ndcg(scores[:, :3], answers[:, :3]).tolist() == [1.0, 1.0], "fewer pages than count"
    assert ndcg(-scores, answers)[0] < ndcg(scores, answers)[0] or recall(-scores, answers)[0] == 0.5


def test_of_few_queries_that_all_stay_little_is_proved() -> None:
    full = [1.0, 0.5, 0.4, 1.0] * 10
    share = kept(full, full, range(40))
    assert share.value == 1 and 0.85 < share.low < 0.95
    assert kept(full[:8], full[:8], range(8)).low < share.low
    lost = kept([0.0, *full[1:]], full, range(40))
    assert lost.value < 1 and lost.low <= share.low


class Drawn:
    """A runner whose vectors are as they are set."""

    name, dtype, plan, can_force = "drawn", "fp32", None, False

    def __init__(self, vectors: Any) -> None:
        self._own = vectors

    def vectors(self, cases: Any) -> Any:
        return self._own


def test_what_is_kept_is_of_the_reference_s_and_a_reference_at_chance_is_refused() -> None:
    some = Pairs([case(f"q{at}", at) for at in range(12)], "some")
    page = np.eye(12, dtype=np.float32)
    right = Drawn([page[[at % 12]] for at in range(24)])
    worse = Drawn([page[[at % 12]] for at in range(12)] + [page[[(at + (at < 3)) % 12]] for at in range(12)])
    fewer = agreement.ranked(right, worse, some)
    assert agreement.share(fewer) == fewer.kept.value < 1 and len(fewer.answered) == 12
    assert agreement.share(agreement.ranked(right, right, some)) == 1 and fewer.found[0].ndcg.value == 1
    with pytest.raises(UsageError, match=r"no better than chance[\s\S]*12 queries and 12 pages[\s\S]*dealt to other"):
        agreement.ranked(Drawn([page[[(at * 5 + (at > 11)) % 12]] for at in range(24)]), right, some)


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "STEPS", ((2, 0.7),))


@pytest.mark.slow(beside="calibration/test_pairs.py::test_pairs_at_chance_are_refused_and_so_is_a_profile")
def test_a_search_keeps_what_is_found(files: Path, coarse: None, tmp_path: Path) -> None:
    """A plan of which the held-out part says what is found; ended, it goes on with what it measured."""
    words = ("--data", files / "right.jsonl", "--retention", 0.6, "--merge-keep", 1, "--score", "norm")
    saved = ("--save", tmp_path / "save", "-o", tmp_path / "plan.json", "--json")
    code, out = command("plan", "demo-search", *words, *saved)
    assert code == 0, out
    data = json.loads(out)
    plan = Plan.from_json(json.loads((tmp_path / "plan.json").read_text()))
    assert plan == Plan.from_json(data["plan"]) and plan.llm.last_layer == "full" and plan.keep[-1] > 0
    assert data["calibration"]["flops"] < data["uncompressed_flops"] and not data["freezing"]
    none, chosen = (data["found"][name] for name in ("none", "chosen"))
    assert none["ndcg"][0] > 0.7 > none["chance"][2] and none["recall"][0] >= none["ndcg"][0]
    assert chosen["ndcg"][0] == pytest.approx(data["held_out"]["agreement"][0] * none["ndcg"][0])
    assert "Held-out pairs, chosen: NDCG@5" in (tmp_path / "save" / "budgets.md").read_text()


def test_pairs_at_chance_are_refused_and_so_is_a_profile(files: Path) -> None:
    words = ("--retention", 0.75, "--merge-keep", 1, "--score", "norm")
    code, out = command("plan", "demo-search", "--data", files / "shuffled.jsonl", *words)
    assert code != 0 and "no better than chance" in out and "24 queries and 12 pages" in out
    code, out = command("plan", "demo-search", "--data", files / "right.jsonl", "--plan", "striped")
    assert code != 0 and "a profile by depth asks for answers" in out


@pytest.mark.slow(beside="calibration/test_pairs.py::test_pairs_at_chance_are_refused_and_so_is_a_profile")
def test_a_bundle_that_finds_nothing_is_not_quantised(files: Path, pytestconfig: pytest.Config) -> None:
    bundle = many_vectors.kept(pytestconfig.cache.mkdir("many-every"), "every") / "bundle"
    before = (bundle / "luvc.json").read_bytes()
    code, out = command("calibrate", bundle, "--precision", "int8", "--data", files / "right.jsonl")
    assert code != 0 and "no better than chance" in out
    code, out = command("calibrate", bundle, "--kv", "int8", "--data", files / "right.jsonl")
    assert code != 0 and "another task" in out
    assert (bundle / "luvc.json").read_bytes() == before


@pytest.mark.slow(beside="calibration/test_pairs.py::test_pairs_at_chance_are_refused_and_so_is_a_profile")
def test_a_quantised_bundle_still_finds_pages(files: Path, pytestconfig: pytest.Config, tmp_path: Path) -> None:
    def export(folder: Path) -> None:
        export_bundle(str(RETRIEVER), folder, "none", image_size=(252, 336))

    bundle = made_once(pytestconfig.cache.mkdir("retriever"), Path(__file__), export, RETRIEVER.iterdir())
    how = ("--precision", "int8", "--data", files / "right.jsonl", "--retention", 0.9, "-o", tmp_path / "narrow")
    code, out = command("calibrate", bundle, *how, "--json")
    assert code == 0, out
    data = json.loads(out)
    assert data["plan"] == "none_int8" and data["answers"] == PAGES and data["accuracy"] is None
    before, after = (data["found"]["NDCG@5"][name] for name in ("reference", "quantised"))
    assert before > 0.7 and after == pytest.approx(data["agreement"] * before) and data["agreement"] >= 0.9
    assert pairs_room.TOP == 5
