"""Fifty facts that the base answers: `python -m pretrained.facts runs/base` writes `facts.json`.

A fact is answered where, after its question and the first words of the answer, each token of the answer is the model's
first choice. Candidates are generated here; those that the base answers are kept, as evenly over kinds as can be.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from itertools import chain, zip_longest
from pathlib import Path

import torch
from tokenizers import Tokenizer

from .base import SYSTEM
from .layers import Instrument

FILE, FACTS, BATCH = Path(__file__).with_name("facts.json"), 50, 10
HEAD = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
CAPITALS = (
    "France Paris, Italy Rome, Spain Madrid, Germany Berlin, Japan Tokyo, China Beijing, Russia Moscow, Egypt Cairo, "
    "Greece Athens, Portugal Lisbon, Austria Vienna, Poland Warsaw, Ireland Dublin, Norway Oslo, Sweden Stockholm, "
    "Finland Helsinki, Denmark Copenhagen, Hungary Budapest, Cuba Havana, Peru Lima, Chile Santiago, Canada Ottawa, "
    "Kenya Nairobi, Iran Tehran, Iraq Baghdad, Turkey Ankara, Thailand Bangkok, Vietnam Hanoi, Belgium Brussels"
)
OPPOSITES = (
    "hot cold, big small, up down, left right, day night, good bad, happy sad, fast slow, rich poor, hard soft, "
    "old young, light dark, open closed, full empty, early late, high low, long short, strong weak, true false, wet dry"
)
CONTINENTS = (
    "Kenya Africa, Nigeria Africa, Egypt Africa, Ghana Africa, France Europe, Poland Europe, Norway Europe, "
    "Japan Asia, Thailand Asia, Nepal Asia"
)
LANGUAGES = (
    "Brazil Portuguese, Mexico Spanish, Austria German, Japan Japanese, Italy Italian, Russia Russian, Sweden Swedish, "
    "Argentina Spanish, Hungary Hungarian, Greece Greek"
)
PLURALS = "cat cats, child children, mouse mice, city cities, box boxes, leaf leaves, woman women, foot feet, dog dogs"
PAST = "go went, see saw, eat ate, take took, run ran, write wrote, give gave, come came, buy bought, sing sang"
COLORS = (
    "Grass green, Snow white, Coal black, A ripe banana yellow, Blood red, The clear sky blue, "
    "Chocolate brown, Milk white"
)


@dataclass(frozen=True)
class Fact:
    """A question, the first words of its answer and what must follow them, a space before it."""

    kind: str
    question: str
    begin: str
    answer: str


def pairs(text: str) -> list[tuple[str, str]]:
    """Return what stands before the last space of each part, and the word after it."""
    return [tuple(part.rsplit(" ", 1)) for part in text.split(", ")]  # type: ignore[misc]


def candidates() -> dict[str, list[Fact]]:
    """Return what may be asked, by kind."""
    kinds = {
        "capital": [(f"What is the capital of {a}?", f"The capital of {a} is", b) for a, b in pairs(CAPITALS)],
        "opposite": [
            (f'What is the opposite of "{a}"?', f'The opposite of "{a}" is "', b) for a, b in pairs(OPPOSITES)
        ],
        "sum": [(f"What is {a} + {b}?", f"{a} + {b} =", str(a + b)) for a in range(1, 6) for b in range(1, a + 1)],
        "continent": [(f"On which continent is {a}?", f"{a} is in", b) for a, b in pairs(CONTINENTS)],
        "language": [
            (f"Which language is spoken in {a}?", f"The official language of {a} is", b) for a, b in pairs(LANGUAGES)
        ],
        "plural": [(f'What is the plural of "{a}"?', f'The plural of "{a}" is "', b) for a, b in pairs(PLURALS)],
        "past": [(f'What is the past tense of "{a}"?', f'The past tense of "{a}" is "', b) for a, b in pairs(PAST)],
        "color": [(f"What color is {a[0].lower()}{a[1:]}?", f"{a} is", b) for a, b in pairs(COLORS)],
    }
    return {
        kind: [Fact(kind, q, begin, word if begin.endswith('"') else f" {word}") for q, begin, word in facts]
        for kind, facts in kinds.items()
    }


@torch.no_grad()
def answered(model: Instrument, tokenizer: Tokenizer, facts: list[Fact]) -> list[bool]:
    """Return of each fact whether the model answers it."""

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    verdicts = []
    for first in range(0, len(facts), BATCH):
        some = facts[first : first + BATCH]
        before = [encode(f"{f.question}<|im_end|>\n<|im_start|>assistant\n{f.begin}") for f in some]
        answers = [encode(f.answer) for f in some]
        length = max(len(b) + len(a) for b, a in zip(before, answers, strict=True))
        ids = torch.zeros(len(some), length, dtype=torch.long)
        for row, b, a in zip(ids, before, answers, strict=True):
            row[: len(b) + len(a)] = torch.tensor(b + a)
        best = model.logits(model.ask(encode(HEAD), ids)).argmax(-1)
        for row, b, a in zip(best, before, answers, strict=True):
            verdicts.append(row[len(b) - 1 : len(b) - 1 + len(a)].tolist() == a)
    return verdicts


def facts() -> list[Fact]:
    """Return the fifty."""
    return [Fact(**row) for row in json.loads(FILE.read_text())]


def main() -> None:
    """Read the command line, ask the base and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, help="folder that `pretrained.base` wrote")
    base = parser.parse_args().base
    torch.set_num_threads(1)
    model, tokenizer = Instrument(base, 1), Tokenizer.from_file(str(base / "tokenizer.json"))
    model.bare, kept = True, []
    for kind, some in candidates().items():
        verdicts = answered(model, tokenizer, some)
        print(f"{kind}: {sum(verdicts)} of {len(some)}", flush=True)
        kept.append([fact for fact, right in zip(some, verdicts, strict=True) if right])
    even = [fact for fact in chain.from_iterable(zip_longest(*kept)) if fact is not None][:FACTS]
    FILE.write_text(json.dumps([asdict(fact) for fact in even], indent=1) + "\n")


if __name__ == "__main__":
    main()
