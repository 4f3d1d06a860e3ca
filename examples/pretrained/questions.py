"""Ordinary English questions about glyph_deep's pictures of coloured digits, and what is not there.

`python -m pretrained.questions FOLDER` writes those to search plans on as `luvc-export plan --data` reads them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from glyph_deep.data import pictures
from glyph_deep.data.splits import generator
from numpy.typing import NDArray
from PIL import Image

from luvc_export.demo.scene import NAMES, Scene

ROW, COLUMN = ("top", "middle", "bottom"), ("first", "second", "third", "fourth")
Asked = tuple[str, str]
_STREAM, _QUESTION, _PHOTOGRAPH = 5, 1 << 20, 1 << 22  # keys of these pictures, of their questions, of photographs


@dataclass(frozen=True)
class Case:
    """A question about a picture (uint8 [252, 336, 3]), its answer, its kind and the picture's number."""

    image: NDArray[np.uint8]
    prompt: str
    answer: str
    kind: str
    picture: int


def colour_of_digit(rng: np.random.Generator, scene: Scene) -> Asked:
    """Ask for the colour of a digit."""
    mark = scene.marks[int(rng.integers(len(scene.marks)))]
    return f"What colour is the digit {mark.digit}?", mark.colour


def digit_of_colour(rng: np.random.Generator, scene: Scene) -> Asked | None:
    """Ask for the one digit of a colour, or nothing where no colour has one."""
    if not scene.unique():
        return None
    mark = scene.unique()[int(rng.integers(len(scene.unique())))]
    return f"Which digit is {mark.colour}?", str(mark.digit)


def at_place(rng: np.random.Generator, scene: Scene) -> Asked:
    """Ask what is in a cell."""
    mark = scene.marks[int(rng.integers(len(scene.marks)))]
    return f"What is in the {ROW[mark.row]} row, {COLUMN[mark.column]} column?", f"{mark.colour} {mark.digit}"


def where_is(rng: np.random.Generator, scene: Scene) -> Asked:
    """Ask for the cell of a digit."""
    mark = scene.marks[int(rng.integers(len(scene.marks)))]
    return f"Where is the digit {mark.digit}?", f"{ROW[mark.row]} row, {COLUMN[mark.column]} column"


def count(rng: np.random.Generator, scene: Scene) -> Asked:
    """Ask how many digits have a colour; every number is asked for as often."""
    colours: dict[int, list[str]] = {}
    for name in NAMES:
        colours.setdefault(sum(mark.colour == name for mark in scene.marks), []).append(name)
    number = sorted(colours)[int(rng.integers(len(colours)))]
    name = colours[number][int(rng.integers(len(colours[number])))]
    return f"How many digits are {name}?", str(number)


def larger(rng: np.random.Generator, scene: Scene) -> Asked | None:
    """Ask which of two digits is larger, or nothing where no two have colours of their own."""
    if len(scene.unique()) < 2:
        return None
    a, b = (scene.unique()[i] for i in rng.permutation(len(scene.unique()))[:2])
    question = f"Which digit is larger, the {a.colour} one or the {b.colour} one?"
    return question, max(a, b, key=lambda mark: mark.digit).colour


def total(rng: np.random.Generator, scene: Scene) -> Asked | None:
    """Ask for the sum of two digits, or nothing where no two have colours of their own."""
    if len(scene.unique()) < 2:
        return None
    a, b = (scene.unique()[i] for i in rng.permutation(len(scene.unique()))[:2])
    return f"What is the sum of the {a.colour} digit and the {b.colour} digit?", str(a.digit + b.digit)


def absent(rng: np.random.Generator, scene: Scene) -> Asked | None:
    """Ask about a digit or a colour that the picture does not show, or nothing where it shows all."""
    digits = sorted(set(range(10)) - {mark.digit for mark in scene.marks})
    colours = [name for name in NAMES if name not in {mark.colour for mark in scene.marks}]
    questions = [f"What colour is the digit {digit}?" for digit in digits] + [f"Which digit is {c}?" for c in colours]
    return (questions[int(rng.integers(len(questions)))], "none") if questions else None


KINDS: dict[str, Callable[[np.random.Generator, Scene], Asked | None]] = {
    "colour_of_digit": colour_of_digit,
    "digit_of_colour": digit_of_colour,
    "at_place": at_place,
    "where_is": where_is,
    "count": count,
    "larger": larger,
    "sum": total,
    "absent": absent,
}


def questions(
    rng: np.random.Generator, scene: Scene, number: int, weights: NDArray[np.float64]
) -> list[tuple[str, Asked]]:
    """Return `number` (kind, question and answer) about a picture, kinds drawn by their weights."""
    drawn: list[tuple[str, Asked]] = []
    names = list(KINDS)
    while len(drawn) < number:
        kind = names[int(rng.choice(len(names), p=weights / weights.sum()))]
        asked = KINDS[kind](rng, scene)
        if asked is not None:
            drawn.append((kind, asked))
    return drawn


def cases(split: str, ground: str, number: int, seed: int = 0) -> Iterator[Case]:
    """Yield `number` cases of a split and a ground of glyph_deep: a question of each kind a picture allows."""
    drawn, picture, key = 0, 0, (ground, _STREAM)
    if ground == "photographs":  # which have no generators of their own
        key = ("textured", _STREAM, _PHOTOGRAPH)
    while drawn < number:
        image, scene = pictures.render(generator(split, *key, seed, picture), split, ground)
        for index, (kind, make) in enumerate(KINDS.items()):
            asked = make(generator(split, *key, seed, picture, _QUESTION, index), scene)
            if asked is not None and drawn < number:
                drawn += 1
                yield Case(image, *asked, kind, picture)
        picture += 1


def write(folder: Path, number: int, ground: str = "plain") -> Path:
    """Write `number` questions of the search split, four a picture, and return their JSON Lines file."""
    folder.mkdir(parents=True, exist_ok=True)
    kinds, lines = list(KINDS), []
    for case in cases("search", ground, 2 * number + len(KINDS)):
        name = f"{case.picture:04}.png"
        if len(lines) < number and (case.picture // 2 + kinds.index(case.kind)) % 2:  # every second picture is held out
            Image.fromarray(case.image).save(folder / name)
            lines.append({"image": name, "prompt": case.prompt, "answer": case.answer, "kind": case.kind})
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def main() -> None:
    """Write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of questions.jsonl and its pictures")
    parser.add_argument("--count", type=int, default=480, help="questions")
    parser.add_argument("--ground", choices=("plain", "textured"), default="plain")
    args = parser.parse_args()
    print(write(args.folder, args.count, args.ground))


if __name__ == "__main__":
    main()
