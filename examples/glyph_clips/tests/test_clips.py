"""The films, their questions, the model's view of them, and that page, card and README are of these weights."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from glyph_clips import clock, distil, equal_time, merged, rivals, study
from glyph_clips.cases import CHECKPOINT, cases, still
from glyph_clips.films import FRAMES, MOMENTS, SIDE, Film, seeded
from glyph_clips.model import LABELS, UNITS, embeddings, labels, load, prefix
from glyph_clips.questions import questions, reported
from glyph_clips.tokenizer import build_tokenizer
from glyph_clips.train import Answers
from glyph_vqa.decoder import decode
from glyph_vqa.pack import SUFFIX

from luvc_export.calibration.ablation.store import Store
from luvc_export.core.named_plans import CLIPS
from luvc_export.core.plan import Plan
from luvc_export.core.plan.merging import TimeMerge
from luvc_export.errors import UsageError
from luvc_export.export.checkpoint import open_checkpoint
from luvc_export.export.processor import normalise

HERE = Path(study.__file__).parent


@pytest.fixture(scope="module")
def film() -> Film:
    """Return a held-out film."""
    return seeded("heldout", 0, 0)


def test_a_film_is_its_seed_and_its_number(film: Film) -> None:
    """The same bits each time, other ones for another number or split."""
    assert film.frames.shape == (FRAMES, SIDE, SIDE, 3)
    np.testing.assert_array_equal(film.frames, seeded("heldout", 0, 0).frames)
    for other in (seeded("heldout", 0, 1), seeded("search", 0, 0), seeded("train", 0, 0)):
        assert (other.frames != film.frames).any()
    with pytest.raises(UsageError, match="a film has a seed and a number from 0 on"):
        seeded("heldout", 0, -1)


def test_what_is_asked_is_what_the_frames_show() -> None:
    """Who comes, goes and changes is seen where the digit is: answers are not of the script alone."""
    for number in range(6):
        film = seeded("search", 0, number)
        for rank, actor in enumerate(film.actors):
            shown = [bool((film.owner[moment] == rank).any()) for moment in range(MOMENTS)]
            assert shown == [moment >= actor.comes for moment in range(MOMENTS)]
            middle = [np.argwhere(film.owner[m] == rank).mean(0) for m in range(actor.comes, MOMENTS)]
            went = np.rint((middle[-1] - middle[0]) / 2).astype(int).tolist()
            assert (
                went
                == {"none": [0, 0], "right": [0, 1], "left": [0, -1], "up": [-1, 0], "down": [1, 0]}[actor.direction]
            )
            changes = 0
            for before, after in pairwise(range(actor.comes, MOMENTS)):
                where = film.owner[before] == rank
                if actor.steps[before] == actor.steps[after] and (where == (film.owner[after] == rank)).all():
                    tokens = np.kron(where, np.ones((SIDE // len(where),) * 2, bool))
                    moved = np.abs(film.frames[2 * after][tokens].astype(int) - film.frames[2 * before][tokens]).max()
                    assert (moved > 60) == (actor.digits[after] != actor.digits[before])
                changes += actor.digits[after] != actor.digits[before]
            assert changes == actor.changes
        answers = {question.text: question.answer for question in questions(film)}
        assert len(answers) == 8
        assert answers["which came last?"] == max(film.actors, key=lambda actor: actor.comes).colour
        assert {q.kind for q in reported(film, np.random.default_rng(0))} == {"came", "moved", "changed"}


def test_a_single_frame_is_one_frame_with_the_same_questions() -> None:
    """The check that films are answered shows nothing else of the film."""
    for whole, alone in zip(cases("heldout", 3), still("heldout", 3), strict=True):
        assert (whole.prompt, whole.answer) == (alone.prompt, alone.answer)
        assert len({frame.tobytes() for frame in alone.video}) == 1 and len(alone.video) == FRAMES
        assert any((frame == alone.video[0]).all() for frame in whole.video)


def test_labels_know_the_film_as_far_as_it_has_gone(film: Film) -> None:
    """At the last moment they are the whole answer, before a digit moves or changes nothing."""
    labelled = labels(film).reshape(MOMENTS, *film.owner.shape[1:], len(LABELS))
    for rank, actor in enumerate(film.actors):
        assert (labelled[-1][film.owner[-1] == rank][:, [0, 2]] == [rank, actor.changes]).all()
        assert (labelled[actor.comes][film.owner[actor.comes] == rank] == [rank, 0, 0]).all()
    assert (labelled[film.owner < 0] == -1).all()


@torch.no_grad()
def test_training_sees_films_as_plans_do() -> None:
    """The right answer's logits lead in training's arithmetic where the compressed modules call it right."""
    asked = [replace(case, video=tuple(np.repeat(case.video[::2], 2, 0))) for case in cases("search", 3)]
    expected = study.Study(open_checkpoint(str(CHECKPOINT)), asked).of(study.nothing())
    model, tokenizer = load(CHECKPOINT), build_tokenizer()
    end, verdicts = tokenizer.token_to_id("<|im_end|>"), []
    for case in asked:
        answer = [*tokenizer.encode(case.answer).ids, end]
        text = model.model.language_model
        ids = torch.tensor([tokenizer.encode(case.prompt + SUFFIX).ids + answer])
        before = prefix(model, tokenizer, embeddings(model, np.stack(case.video)[None]))
        hidden = decode(text, before, text.embed_tokens(ids[None]))
        predicted = model.lm_head(hidden[0, 0, -len(answer) - 1 : -1]).argmax(-1).tolist()
        verdicts.append(predicted == answer)
    assert verdicts == expected.tolist() and any(verdicts)


def test_a_step_with_part_of_the_tokens_shows_every_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Background goes first; the films are drawn when they are needed, each once."""
    args = argparse.Namespace(bank=2, batch=2, seed=0, start=CHECKPOINT, units=112, reader=0.5)
    stage, kept = Answers(args), []
    monkeypatch.setattr("glyph_clips.train.prefix", lambda *a: kept.append(a[3]) or prefix(*a))
    with torch.no_grad():
        loss, figures = stage.step(0)
    assert torch.isfinite(loss) and set(figures) == {"came", "moved", "changed", *LABELS}
    assert sorted(stage.films) == [0, 1] and kept[0].shape == (2, 112)
    for row, number in zip(kept[0].tolist(), (0, 1), strict=True):
        digits = np.flatnonzero(stage.told[number][:, 0] >= 0)
        assert set(digits) <= set(row) and row == sorted(set(row)) and len(digits) < 112 < UNITS


def test_plans_at_equal_tokens() -> None:
    """Every row of a quarter keeps a quarter; the named plan's budgets are those its rivals get."""
    quarter: list[Plan] = [study.plan(score, quota, UNITS // 4) for score, quota in study.PLANS.values()]
    assert {plan.llm.keep for plan in quarter} == {(UNITS, *(UNITS // 4,) * (study.LAYERS - 1))}
    recipe = study.staged(open_checkpoint(str(CHECKPOINT)))
    assert recipe.llm.keep[0] == UNITS and recipe.sharing.images == MOMENTS
    asked = list(cases("search", 3))
    assert [len(case.video) for case in study.fewer_frames(asked, 2)] == [4] * 3
    assert study.fewer_frames(asked, 2)[0].fps == 2.0
    assert study.smaller(asked)[0].video[0].shape == (SIDE // 2, SIDE // 2, 3)


def test_the_verdict_falls_with_either_figure() -> None:
    """A model below its bar, or one whose answers need no film, is called no instrument."""

    def words_of(whole: float, alone: float, changed: float = 0.9) -> str:
        kinds = {"came": 0.9, "moved": 0.9, "changed": changed}
        return study.verdict(
            [{"plan": "none", "accuracy": [whole, 0, 1], **kinds}, {"plan": study.ALONE, "accuracy": [alone, 0, 1]}]
        )

    assert words_of(0.9, 0.35).endswith("it is an instrument.")
    assert words_of(0.9, 0.35, 0.89).endswith("it is an instrument. Below the bar when taken alone: `changed` (0.890).")
    for whole, alone in ((0.899, 0.2), (0.95, 0.36)):
        assert "not used as an instrument yet" in words_of(whole, alone)


def test_page_card_and_readme_are_of_these_weights() -> None:
    """A changed figure, page or checkpoint is seen."""
    figures = json.loads((study.RESULTS / "glyph-clips.json").read_text())
    assert figures["weights"] == study.weights_hash(CHECKPOINT)[:16]
    expected = study.page(figures["rows"], figures["split"], figures["weights"])
    assert (study.RESULTS / "glyph-clips.md").read_text() == expected
    for name in ("MODEL_CARD.md", "README.md"):
        assert study.verdict(figures["rows"]) in " ".join((HERE / name).read_text().split())
    assert figures["split"] == "heldout"


def test_pages_on_graphs_and_merging_are_of_these_weights() -> None:
    """Every plan for clips passed what `graphs` asks; the page on merging is written from its figures."""
    rows = {row["plan"]: row for row in json.loads((study.RESULTS / "clip-graphs.json").read_text())["rows"]}
    assert set(rows) == set(CLIPS) and all(row["parity"] and row["built"] for row in rows.values())
    assert all(set(row["linted"]) == {"onnx", "primitive"} for row in rows.values())
    figures = json.loads((study.RESULTS / "clip-time.json").read_text())
    assert figures["weights"] == study.weights_hash(CHECKPOINT)[:16]
    expected = merged.page(figures["rows"], figures["weights"], *merged.beside(study.RESULTS))
    assert (study.RESULTS / "clip-time.md").read_text() == expected


def test_the_page_on_rivals_is_of_its_figures() -> None:
    """Page and weights fit; who wins is said by the interval, either way and neither."""
    figures = json.loads((study.RESULTS / "clip-rivals.json").read_text())
    assert figures["weights"] == study.weights_hash(CHECKPOINT)[:16]
    assert (study.RESULTS / "clip-rivals.md").read_text() == rivals.page(figures["rows"], figures["weights"])
    right = np.arange(30) % 3 > 0
    for own, words in ((np.ones(30), "beats"), (right, "is not told apart from"), (np.zeros(30), "loses to")):
        every = {("none", UNITS): np.ones(30), ("evs", 72): right, ("maxmin", 72): own}
        assert words in rivals.verdict(rivals.records(range(30), every))[0]


def test_a_disturbed_time_gives_no_ratio() -> None:
    """Of one engine and number of films alone; the others keep theirs."""
    row = {
        "engine": "a",
        "films": 1,
        "block": None,
        "keep": 8,
        "flops": 1.0,
        "ms": [4.0, 3.0, 5.0],
        "runs": 3,
        "cpu": "",
    }
    rows = [row, row | {"block": 0, "keep": 2, "ms": [2.0, 1.5, 2.5]}]
    rows += [one | {"films": 8} for one in (row, row | {"block": 0, "keep": 2, "ms": [2.0, 1.5, 3.0]})]
    lines = [line for line in clock.table({"rows": rows}) if line.startswith("| a |")]
    assert [line.split(" | ")[-1] for line in lines] == ["1.00x |", "2.00x |", "disturbed |", "disturbed |"]


def test_rows_at_equal_time_take_equal_time() -> None:
    """The line goes through what was timed; rows with a budget take as long as ours, the others stand on both sides."""
    assert equal_time.llm_seconds(1) == pytest.approx(equal_time.WHOLE[1])
    assert equal_time.llm_seconds(equal_time.FILM[2] / 2048) == pytest.approx(equal_time.FILM[1])
    rows = equal_time.rows()
    limit = equal_time.seconds(rows[0])
    for row in rows:
        if row.score is not None:
            assert limit - 0.02 < equal_time.seconds(row) <= limit
        if row.moments in (6, 7):
            assert equal_time.seconds(row._replace(keep=row.keep + 1)) > limit
    whole = [equal_time.seconds(row) for row in rows if row.score is None]
    assert all(sooner < limit < later for sooner, later in zip(whole[::2], whole[1::2], strict=True))
    file = study.RESULTS / "clip-first-token.json"
    figures = json.loads(file.read_text())
    assert file.with_suffix(".md").read_text() == equal_time.page(figures["rows"], figures["weights"])
    assert figures["weights"] == study.weights_hash(CHECKPOINT)[:16]


def test_a_killed_run_on_rivals_asks_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lot's answers come from the file when it is there; films of different lots are different clusters."""
    opened, store = open_checkpoint(str(CHECKPOINT)), Store(tmp_path / "a-measurements.json", {})
    monkeypatch.setattr(rivals, "LOT", 3)
    monkeypatch.setattr(rivals, "plans", lambda: {("none", UNITS): study.nothing()})
    first = rivals.answers(store, opened, "w", 1)
    monkeypatch.setattr(rivals, "Study", None)
    assert rivals.answers(Store(store.path, {}), opened, "w", 1) == first and first[0] == [1000] * 3
    with pytest.raises(TypeError):
        rivals.answers(store, opened, "w", 2)


def test_the_verdict_on_merging_is_of_its_rows() -> None:
    """Rows below the bar of FLOPs say nothing; of the others each is met or missed."""
    row = {"taught": False, "block": 0, "keep": 3, "flops": 1.92, "retention": [0.94, 0.9, 0.97]}
    good = row | {"taught": True, "retention": [0.98, 0.96, 1.0]}
    assert "(0, 3): as shipped 0.940, missed; taught 0.980, met." in merged.verdict([row, good])
    assert merged.verdict([row | {"flops": 1.79}]) == "No row saves 1.8x of the encoder's FLOPs."


def test_the_taught_encoder_is_the_exported_one() -> None:
    """What learns merges as the tower does; only the encoder learns, and it moves towards the whole one."""
    args = argparse.Namespace(start=CHECKPOINT, block=0, keep=3, batch=1, seed=3, bfloat16=False)
    stage = distil.Distil(args)
    opened = open_checkpoint(str(CHECKPOINT))
    frames = torch.from_numpy(seeded("search", 0, 0).frames[::2])
    with torch.no_grad():
        tower = opened.family.vision(stage.model, clock.merging(0, 3), normalise(opened))
        wanted = tower(frames[:, None].expand(-1, 2, -1, -1, -1))[0]
        learning = distil.encode(stage.model.model.visual, frames.numpy(), stage.how)
        other = distil.encode(stage.model.model.visual, frames.numpy(), TimeMerge(0, 8, 4))
    torch.testing.assert_close(learning, wanted, atol=1e-4, rtol=0)
    assert (other - wanted).abs().max() > 0.01
    loss, _ = stage.step(0)
    loss.backward()
    with torch.no_grad():
        for _, parameter in stage.parameters():
            parameter -= 1e-3 * parameter.grad / parameter.grad.norm().clamp_min(1e-9)
    assert stage.step(0)[0] < loss
    assert all(p.grad is None for p in stage.model.model.language_model.parameters())


def test_merging_along_time_is_a_plan_of_whole_films() -> None:
    """Fewer units after a block, every token for the LLM; the evaluator keeps the frames of a film together."""
    plan, asked = clock.merging(0, 4), list(cases("search", 6))
    assert plan.encoder.time is not None and plan.llm == study.nothing().llm
    for one in (plan, study.nothing()):
        shown = study.Study(open_checkpoint(str(CHECKPOINT)), asked).whole.asked(one)
        assert {case.pictures for case in shown} == {tuple(range(8)), tuple(range(8, 16))}
