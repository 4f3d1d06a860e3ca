"""``luvc-export search`` from another folder: a table, JSON and a page, and how it ends where a file cannot be read."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_words import Cli
from PIL import Image

sys.path.append(str(Path(__file__).resolve().parents[1] / "export" / "families"))
import vector_bundles

QUERY = "where is a red seven?"


@pytest.fixture(scope="module")
def bundle(pytestconfig: pytest.Config) -> Path:
    return vector_bundles.kept(pytestconfig.cache.mkdir("vectors-qwen2_vl"), "qwen2_vl") / "bundle"


def test_the_command_from_another_folder(
    cli: Cli, bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Relative paths and links; terminal, JSON and HTML; exit code 1 where a file cannot be read."""
    here, scans = tmp_path / "here and now", tmp_path / "scans"
    scans.mkdir()
    for seed in range(4):
        pixels = np.random.default_rng(seed).integers(0, 255, (84, 112, 3), np.uint8)
        Image.fromarray(pixels).save(scans / f"p{seed}.png")
    here.mkdir()
    (here / "linked").symlink_to(scans)
    monkeypatch.chdir(here)
    how = ("--bundle", str(bundle), "--backend", "cpu", "--threads", 1, "--top", 3)
    code, out, err = cli("search", "linked", QUERY, *how)
    assert code == 0, err
    assert "4 pages, 4 embedded now, plan none" in " ".join(out.split()) and "p3.png" in out
    assert (here / "linked.index" / "index.json").is_file()
    (scans / "bad.png").write_bytes(b"\x89PNG no")
    code, out, _ = cli("search", "linked", QUERY, *how, "--html", "new folder/found.html", "--json")
    facts = json.loads(out)
    assert code == 1 and facts["embedded"] == 0 and facts["pages"] == 4 and [*facts["errors"]] == ["bad.png"]
    assert len(facts["hits"]) == 3 and (here / "new folder/found.html").read_text().count("<figure>") == 3
    for words, says in (
        (("search", "nowhere", QUERY, *how), "no pages to search"),
        (("search", "linked", "", *how), "a query is a text"),
        (("search", "linked", QUERY, *how, "--embed-dtype", "int8"), "another model or plan"),
    ):
        code, _, err = cli(*words)
        assert code == 2 and says in err, err
