"""``luvc-export search`` from another folder: a table, JSON and a page, and how it ends where a file cannot be read."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_words import Cli
from PIL import Image

sys.path.append(str(Path(__file__).resolve().parents[1] / "export" / "families"))
import vector_bundles

from luvc_export.cli import bundled
from luvc_export.demo.scene import generator, render

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


def test_without_a_bundle_the_bundled_model_is_exported_once_beside_the_pages(
    cli: Cli, bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is asked of it; the next test asks it."""
    asked = list[tuple[object, ...]]()

    def exported(model: str, folder: Path, names: list[str], quiet: bool, **how: object) -> Path:
        asked.append((model, folder, names, how))
        return bundle

    monkeypatch.setattr(bundled, "exported", exported)
    scans = tmp_path / "scans"
    code, _, err = cli("search", scans, QUERY)
    assert code == 2 and "no pages to search" in err and not asked, "before any export"
    scans.mkdir()
    Image.fromarray(np.zeros((84, 112, 3), np.uint8)).save(scans / "p.png")
    code, out, err = cli("search", scans, QUERY, "--backend", "cpu")
    assert code == 0 and "1 pages" in out, err
    assert asked == [("demo-search", tmp_path / "scans.bundle", ["none"], {"merge_vectors": (1, 2)})]
    for taken in ("a bundle", "no bundle"):  # of its user, which an export would replace
        asked.clear()
        (tmp_path / "scans.bundle").mkdir()
        if taken == "a bundle":
            shutil.copy(bundle / "luvc.json", tmp_path / "scans.bundle")
        code, _, err = cli("search", scans, QUERY, "--backend", "cpu")
        assert code == 2 and "is taken" in err and "name a bundle with --bundle" in err and not asked, err
        assert taken == "a bundle" or "got: no bundle" in err
        shutil.rmtree(tmp_path / "scans.bundle")


@pytest.mark.slow(
    beside="cli/test_search_cli.py::test_without_a_bundle_the_bundled_model_is_exported_once_beside_the_pages"
)
def test_the_bundled_model_finds_what_pictures_show(cli: Cli, tmp_path: Path) -> None:
    """Drawn digits, no bundle named: the pictures that show a fact come first, by a bundle that is made once."""
    pytest.importorskip("matplotlib", reason="pictures are drawn with its fonts")
    (scans := tmp_path / "scans").mkdir()
    shown = list[set[str]]()
    for number in range(20):
        pixels, scene = render(generator("heldout", 61, number), "heldout")
        Image.fromarray(pixels).save(scans / f"{number}.png")
        shown.append({f"{mark.colour} {mark.digit}" for mark in scene.marks})
    queries = sorted(set.union(*shown))[::13]
    right, times = list[bool](), set[int]()
    for query in queries:
        code, out, err = cli("search", scans, query, "--backend", "cpu", "--top", 1, "--json")
        assert code == 0, err
        (hit,) = json.loads(out)["hits"]
        right.append(query in shown[int(Path(hit["name"]).stem)])
        times.add((tmp_path / "scans.bundle" / "luvc.json").stat().st_mtime_ns)
    assert len(queries) >= 5 and all(right), (queries, right)
    assert len(times) == 1, "made once"
