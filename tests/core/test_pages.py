"""Tables between the marks of a page."""

from __future__ import annotations

from luvc_export.core.files import pages


def test_numbers_stand_right_of_names() -> None:
    rows = [("safe", "1.8x"), ("lean", "3.1x")]
    assert pages.table(("plan", "fewer"), rows) == "| plan | fewer |\n|---|---|\n| safe | 1.8x |\n| lean | 3.1x |\n"
    assert pages.table(("plan", "fewer"), rows, left=1).splitlines()[1] == "|---|---:|"


def test_what_stands_around_the_marks_stays() -> None:
    page = "before\n<!-- plans -->\nold\n<!-- end of plans -->\nafter\n"
    assert pages.within(page, "plans", "new\n") == page.replace("old", "new")
    assert pages.within("no marks", "plans", "new\n") != "no marks", "a page that lost its marks is not up to date"
