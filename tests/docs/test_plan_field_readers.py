"""A field of a plan is read by few: the others ask a method of the part that has it."""

from __future__ import annotations

import pytest
from plan_field_readers import FIELDS, MOST, ROOT, readers


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_has_few_readers(name: str) -> None:
    modules = readers()[name]
    assert 1 <= len(modules) <= MOST, modules
    page = (ROOT / "docs" / "research.md").read_text(encoding="utf-8")
    assert f"now {len(modules)}" in page.split(f"`{name}` ")[1].split(";")[0]
