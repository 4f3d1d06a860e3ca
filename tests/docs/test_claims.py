"""Every figure of speed, size or retention in README.md and docs/ stands in ``claims.json`` with its source."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CLAIMS: list[dict[str, Any]] = json.loads(Path(__file__).with_name("claims.json").read_text(encoding="utf-8"))
FIGURE = re.compile(
    r"\b\d+(?:\.\d+)?(?:x\b| ?%| times\b)|\blossless\b|\bnegligible\b|nothing measurable|(?:half|third|quarter) of "
    r"(?:their|the) answers",
    re.IGNORECASE,
)
#: docs/cli.md is written from the commands, docs/results from measurements.
PAGES = ["README.md", *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "cli.md")]


#: Tables that tests of their own hold against the figures.
WRITTEN = re.compile(r"<!-- (plans|plans for clips) -->.*?<!-- end of \1 -->", re.DOTALL)


def text_of(page: str) -> str:
    """A page on one line, without what is written from figures."""
    return one_line(WRITTEN.sub("", (ROOT / page).read_text(encoding="utf-8")))


def one_line(text: str) -> str:
    return " ".join(text.split())


def unlisted(page: str, text: str, claims: list[dict[str, Any]]) -> Iterator[str]:
    """Figures of a page that no claim holds, with what stands around them."""
    places = [
        range(at.start(), at.end())
        for claim in claims
        if claim["page"] == page
        for at in re.finditer(re.escape(claim["text"]), text)
    ]
    for figure in FIGURE.finditer(text):
        if not any(figure.start() in place and figure.end() - 1 in place for place in places):
            yield f"{page}: ...{text[max(0, figure.start() - 60) : figure.end() + 40]}..."


def wrong(claim: dict[str, Any], text: str) -> str | None:
    """What is wrong with a claim on a page of this text."""
    if claim["text"] not in text:
        return f"{claim['page']} does not say {claim['text']!r}"
    if "why" in claim:
        return None if claim["why"] and set(claim) == {"page", "text", "why"} else f"{claim} gives no reason"
    if claim["figure"] not in one_line((ROOT / claim["file"]).read_text(encoding="utf-8")):
        return f"{claim['file']} does not hold {claim['figure']!r}, which {claim['text']!r} is from"
    figures = re.findall(r"\d+(?:\.\d+)?", claim["text"])
    held = " ".join(re.findall(r"\d+(?:\.\d+)?", claim["figure"]))
    rounded = any(number in held or any(_rounds(one, number) for one in held.split()) for number in figures)
    return None if rounded or claim.get("words") else f"{claim['text']!r} says no number of {claim['figure']!r}"


def _rounds(exact: str, shown: str) -> bool:
    digits = len(shown.partition(".")[2])
    return any(f"{float(exact) * unit:.{digits}f}" == shown for unit in (1, 100))


@pytest.mark.parametrize("page", PAGES)
def test_every_figure_is_a_claim_of_the_table(page: str) -> None:
    assert not [*unlisted(page, text_of(page), CLAIMS)]


@pytest.mark.parametrize("claim", CLAIMS, ids=[f"{one['page']}: {one['text'][:30]}" for one in CLAIMS])
def test_every_claim_is_said_and_held(claim: dict[str, Any]) -> None:
    assert wrong(claim, text_of(claim["page"])) is None


def test_a_figure_changed_by_hand_is_seen() -> None:
    claim = next(one for one in CLAIMS if one["page"] == "README.md" and "file" in one)
    number = re.search(r"\d+(?:\.\d+)?x", claim["text"])
    assert number is not None
    spoilt = text_of("README.md").replace(number[0], "9.9x")
    assert wrong(claim, spoilt) is not None and [*unlisted("README.md", spoilt, CLAIMS)]
    other = {**claim, "text": claim["text"].replace(number[0], "9.9x")}
    assert "says no number" in str(wrong(other, spoilt)), "a claim that the file does not hold"
    assert [*unlisted("README.md", "a lossless engine", CLAIMS)]
