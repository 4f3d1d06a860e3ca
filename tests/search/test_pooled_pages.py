"""``search --pool``: a page's many vectors are merged behind the graph, alike ones together."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.append(str(Path(__file__).resolve().parents[1] / "export" / "families"))
import many_vectors
import vector_bundles

from luvc_export.errors import UsageError
from luvc_export.runtime.engine.clusters import ward
from luvc_export.runtime.engine.vector_form import VectorOptions
from luvc_export.runtime.session import Session
from luvc_export.search.page import results_page
from luvc_export.search.run import Search


def test_alike_vectors_of_a_page_merge(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """A third is left of patches' vectors, text's stay; a page is its own nearest; another index is refused."""
    folder = many_vectors.kept(pytestconfig.cache.mkdir("many-every"), "every")
    many = Session(folder / "bundle", "cpu", threads=1)
    (scans := tmp_path / "scans").mkdir()
    for number in range(3):
        drawn = np.random.default_rng(number).integers(0, 255, (84, 112, 3), np.uint8)
        Image.fromarray(drawn).save(scans / f"p{number}.png")
    search = Search(many, scans, options=VectorOptions(pool=3))
    search.update()
    page = scans / "p1.png"
    (whole,), (third,) = many.embed_many(images=[page]), many.embed_many(images=[page], pool=3)
    text = len(many.embed_many(images=[page], pool=10**6)[0]) - 1
    visual = len(whole) - text  # 12: without padding
    assert len(third) == visual // 3 + text and visual == 12
    assert (third[-text:] == whole[-text:]).all()
    (hit,) = search.rank(whole[:visual], 1)
    assert hit.name == "p1.png" and np.array_equal(search.vectors(hit), third)
    query = whole[:2]
    page_shown = results_page(search, "?", query, [hit])
    ((patches, asked),) = {*re.findall(r"; (\d+) of 12 patches are nearest to (\d+) of the query", page_shown)}
    nearest, labels = (query @ third.T).argmax(1), ward(whole[:visual], 4)
    first = np.unique(labels)[nearest[nearest < 4]]  # of each cluster, what it is called by
    assert (int(patches), int(asked)) == (np.isin(labels, first).sum(), len(first))
    assert 1 <= len({*first}) < 4, "some clusters, and not all"
    with pytest.raises(UsageError, match="with other options"):
        Search(many, scans).update()
    with pytest.raises(UsageError, match="one for so many"):
        many.embed_many(images=[page], pool=0)
    one = vector_bundles.kept(pytestconfig.cache.mkdir("vectors-qwen2_vl"), "qwen2_vl") / "bundle"
    with pytest.raises(UsageError, match="one vector of a page is not merged"):
        Search(Session(one, "cpu", threads=1), scans, tmp_path / "other", VectorOptions(pool=3))
