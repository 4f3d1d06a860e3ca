"""Calibration sets: order and hash are the data's, and a set that says nothing is refused with its reason."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from luvc_export.calibration import datasets
from luvc_export.errors import UsageError


def picture(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 10, 3), np.uint8)).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, seed in (("b", 1), ("a", 0), ("sub/c", 2), ("d", 3)):
        picture(tmp_path / "set" / f"{name}.png", seed).with_suffix(".txt").write_text(f"what is {name}?\n")
    return tmp_path / "set"


def test_a_folder_is_read_by_name_with_its_prompts(folder: Path) -> None:
    data = datasets.load(folder)
    assert [case.prompt for case in data.cases] == [f"what is {name}?" for name in ("a", "b", "d", "sub/c")]
    assert not data.known and data.pictures == 4
    assert data.to_json() == {"name": str(folder), "sha256": data.sha256, "cases": 4, "pictures": 4}


def test_the_hash_is_of_pixels_prompts_and_order(folder: Path, tmp_path: Path) -> None:
    first = datasets.load(folder).sha256
    assert datasets.load(folder).sha256 == first
    Image.open(folder / "a.png").save(folder / "a.bmp")
    (folder / "a.png").unlink()
    assert datasets.load(folder).sha256 == first, "another file format, the same pixels"
    (folder / "a.txt").write_text("what else?")
    second = datasets.load(folder).sha256
    assert second != first
    picture(folder / "a.bmp", 9)
    assert datasets.load(folder).sha256 not in (first, second)


def test_json_lines_know_answers_and_shared_pictures(folder: Path, tmp_path: Path) -> None:
    picture(folder / "twin of a.png", 0)
    lines = [("a.png", "one"), ("b.png", "two"), (["twin of a.png", "d.png"], "three"), ("d.png", "four")]
    text = "\n".join(json.dumps({"image": image, "prompt": "what?", "answer": word}) for image, word in lines)
    (folder / "cases.jsonl").write_text(text)
    data = datasets.load(folder / "cases.jsonl")
    assert data.known and [case.picture for case in data.cases] == [0, 1, 0, 0], "a, its twin, and what it is beside"
    assert len(datasets.load(folder / "cases.jsonl", count=2).cases) == 2


def test_a_task_gives_its_search_part_and_halves_share_no_picture() -> None:
    data = datasets.load("glyph", count=70)
    assert data.known and data.stops and len(data.cases) == 70
    first, second = data.split(0.4)
    assert len(first.cases) + len(second.cases) == 70
    assert {case.picture for case in first.cases}.isdisjoint(case.picture for case in second.cases)
    assert 0.2 < first.pictures / data.pictures < 0.6
    assert len({data.sha256, first.sha256, second.sha256}) == 3


def test_an_empty_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the calibration set is empty"):
        datasets.load(tmp_path)


def test_one_unreadable_picture_is_named(folder: Path) -> None:
    data = (folder / "b.png").read_bytes()
    (folder / "b.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(UsageError, match=r"damaged or truncated(.|\n)*b\.png"):
        datasets.load(folder)


def test_identical_pictures_are_refused(tmp_path: Path) -> None:
    for name in "abc":
        picture(tmp_path / f"{name}.png", 0)
    with pytest.raises(UsageError, match="all pictures of the calibration set are identical"):
        datasets.load(tmp_path, prompt="what is it?")


def test_a_picture_without_a_prompt_is_named(folder: Path) -> None:
    (folder / "b.txt").unlink()
    with pytest.raises(UsageError, match=r"has no prompt(.|\n)*b\.png(.|\n)*--prompt"):
        datasets.load(folder)
    assert datasets.load(folder, prompt="what?").cases[1].prompt == "what?"


def test_no_set_is_refused_with_what_there_is() -> None:
    with pytest.raises(UsageError, match=r"no such calibration set(.|\n)*did you mean 'glyph'"):
        datasets.load("glyf")
    with pytest.raises(UsageError, match="at least one case"):
        datasets.load("glyph", count=0)


def test_too_few_pictures_cannot_be_divided(folder: Path) -> None:
    with pytest.raises(UsageError, match="too few pictures"):
        datasets.load(folder).split(0.01)


def test_text_alone_is_divided_by_itself(folder: Path) -> None:
    """Neither half is without pictures: ranges of an encoder come from one, agreement from the other."""
    data = datasets.load(folder)
    text = [dataclasses.replace(data.cases[0], images=(), picture=90 + i) for i in range(5)]  # type: ignore[type-var]
    mixed = dataclasses.replace(data, cases=(*text, *data.cases), pixels=(*data.pixels[:1] * 5, *data.pixels))
    for part in mixed.split():
        assert any(len(case.images) for case in part.cases) and any(not len(case.images) for case in part.cases)
    with pytest.raises(UsageError, match="too few pictures"):
        dataclasses.replace(data, cases=(*text, data.cases[0]), pixels=data.pixels[:1] * 6).split()
