"""An index by itself: scores of pages wherever their vectors lie, and its keys."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from luvc_export.runtime.engine.embed import late_interaction
from luvc_export.runtime.engine.vector_form import pack
from luvc_export.search import index as search_index
from luvc_export.search.run import key_of


def test_scores_of_an_index_are_those_of_its_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of pages of any number of vectors, in several files with holes, a page twice, whatever meets in one product."""
    monkeypatch.setattr(search_index, "_TOGETHER", 7)
    random = np.random.default_rng(0)
    table = search_index.Index(tmp_path, search_index.Origin("m", "", "none", "int8", 5))
    for first in (0, 12):
        for page in range(first, first + 12):
            table.add(str(page), pack(random.normal(size=(1 + page % 9, 5)).astype(np.float32), "int8"))
        table.save()
    pages = [str(page) for page in (20, 3, 4, 5, 6, 9, 11, 3, 23, 0, 21, 22, 12)]
    for count in (1, 4):
        query = random.normal(size=(count, 5)).astype(np.float32)
        wanted = late_interaction(query, [table.rows(page) for page in pages])
        assert np.abs(table.scores(query, pages) - wanted).max() < 1e-4 < np.ptp(wanted)
    assert table.scores(query, []).shape == (0,)
    path = tmp_path / search_index.INDEX
    written = json.loads(path.read_text())
    written["places"]["part of 5"] = written["places"]["5"] | {"count": 2}
    path.write_text(json.dumps(written))
    table, pages = search_index.Index(tmp_path, table.origin), ["5", "part of 5", "6"]
    wanted = late_interaction(query, [table.rows(page) for page in pages])
    assert np.abs(table.scores(query, pages) - wanted).max() < 1e-4 < np.ptp(wanted[:2])


def test_names_of_any_bytes_are_keys_of_ascii() -> None:
    for name in ("a b/\N{SNOWMAN}.png", "\udcff.png", "a\u200db%2f.png", "..%2f"):
        assert key_of(name).isascii() and key_of(name).isprintable()
    assert len({key_of(name) for name in ("a%2fb", "a/b", "a%b")}) == 3
