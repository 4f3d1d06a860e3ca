"""The blocks of docs/research.md, and what they describe installed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from installed import installed

import luvc_export

PAGE = Path(luvc_export.__file__).resolve().parents[1] / "docs" / "research.md"
SECTIONS = {
    title: re.findall(r"```(?:python|ini|diff)\n(.*?)```", text, re.DOTALL)
    for title, text in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.M)
}


@contextmanager
def followed(folder: Path, section: str) -> Iterator[str]:
    """The section's module, installed as its ini block says; gives the name it is found by."""
    module, entry = SECTIONS[section]
    name, value = entry.splitlines()[1].split(" = ")
    with installed(folder, entry, value.split(":")[0], module):
        yield name
