"""The site of `make docs`: every page is in its navigation, public names in its reference, links lead somewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import luvc_export

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs"))
import site_hook  # noqa: E402

SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
HOME = "https://example.org/owner/name"


def pages(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    for part in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
        yield from pages(part)


def missing(there: set[str], listed: list[str]) -> list[str]:
    return sorted(there ^ set(listed)) + sorted({page for page in listed if listed.count(page) > 1})


def test_every_page_is_in_the_navigation_once() -> None:
    there = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    listed = list(pages(SITE["nav"]))
    assert len(there) > 30 and missing(there, listed) == []
    assert missing(there | {"new.md"}, listed) == ["new.md"]
    assert missing(there, [*listed, listed[0]]) == [listed[0]]


def test_the_reference_has_every_public_name() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    named = [line.split()[1] for line in text.splitlines() if line.startswith("::: ")]
    public = [name for name in luvc_export.__all__ if name != "__version__"]
    assert sorted(name.rsplit(".", 1)[-1] for name in named) == sorted(public)
    for path in named:
        module, name = path.rsplit(".", 1)
        file = ROOT.joinpath("luvc_export", *module.split(".")[1:]).with_suffix(".py")
        assert f"class {name}" in (source := file.read_text(encoding="utf-8")) or f"def {name}" in source, path


def test_nothing_is_fetched_for_a_reader() -> None:
    assert SITE["theme"]["font"] is False


@pytest.mark.parametrize(
    ("page", "line", "wanted"),
    [
        ("cli.md", "[a](../README.md)", f"[a]({HOME}/blob/main/README.md)"),
        ("results/odd.md", "[`x`](../../export/trace.py)", f"[`x`]({HOME}/blob/main/export/trace.py)"),
        ("cli.md", "[a](plans.md#safe) ![p](x.png) [w](https://x.org) [h](#here)", None),
        ("results/odd.md", "[a](../parity.md)", None),
    ],
)
def test_links_that_leave_docs_become_the_repositorys(page: str, line: str, wanted: str | None) -> None:
    assert site_hook.outside(line, page, HOME) == (wanted or line)
    if wanted:
        assert "(" not in site_hook.outside(line, page, "")  # nobody hosts it: the words alone
