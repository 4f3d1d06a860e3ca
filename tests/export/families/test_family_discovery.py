"""Families find themselves; one from outside comes in through an entry point, exactly as the documentation shows."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import family_harness as harness
import pytest
from installed import installed
from test_family_answers import SPLITTING
from test_family_turns import ONE_TURN
from test_family_video import VIDEO
from transformers import Qwen3VLMoeConfig

import luvc_export
from luvc_export.core.files import pages
from luvc_export.errors import CheckpointError, MachineError
from luvc_export.export import families, model_types

ROOMS = ("luvc_export", "export", "engines", "runtime", "calibration")
HERE = Path(__file__).resolve().parent
DOCS = Path(luvc_export.__file__).resolve().parent.parent / "docs"
sys.path.insert(0, str(DOCS))
import family_tables  # noqa: E402

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path) -> Iterator[Install]:
    with ExitStack() as stack:

        def enter(entry_points: str, module: str = "") -> None:
            stack.enter_context(installed(tmp_path, entry_points, "luvc_vipllava", module))

        yield enter


def test_a_family_newer_than_transformers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers 5.0 has no Gemma 4: importing the family fails there; an unknown model is still told its nearest."""
    monkeypatch.setitem(sys.modules, "luvc_export.export.families.gemma4", None)
    with pytest.raises(MachineError, match=r"not in the installed transformers(.|\n)*gemma4(.|\n)*pip install -U"):
        families.find("gemma4", "test")
    with pytest.raises(CheckpointError, match="qwen3_vl_moe"):
        model_types.check_model_type(Qwen3VLMoeConfig().to_dict(), "test")


def test_every_family_is_named_by_its_file() -> None:
    for name in families.built_in():
        assert families.find(name, "test").model_type == name
        assert families.find(name, "test").tiny_config().model_type == name


#: What the product, its pages and the tests of all families are made of.
SHARED = [
    *(path for room in ROOMS for path in (DOCS.parent / room).rglob("*.py")),
    *(path for folder in (DOCS, DOCS.parent / "benchmarks/measure/matrix", HERE) for path in folder.glob("*.py")),
]
#: Where some were chosen that stand for a kind of graph, beside tests of one thing; retrievers, each of one family.
CHOSEN = re.compile(
    "test_.*|sixteen_bits|family_bundles|vector_bundles|many_vectors|colpali|colqwen2|colmodernvbert|embedding_gemma2"
)


def named(text: str) -> list[str]:
    """Families that code says by name or imports."""
    any_of = "|".join(families.built_in())
    quoted = re.findall(rf"""["']({any_of})["']""", text)
    imported = " ".join(re.findall(r"families\S* import .*", text))
    return sorted({*quoted, *re.findall(rf"\b({any_of})\b", imported)})


def test_no_family_is_named_where_another_would_have_to_be() -> None:
    """Adding one is its file, its test checkpoint and rows that commands write: nothing shared says any by name."""
    own = {*families.built_in()}
    shared = [path for path in SHARED if not (path.parent.name == "families" and path.stem in own)]
    assert len(shared) > 500
    texts = {str(path): path.read_text(encoding="utf-8") for path in shared if not CHOSEN.fullmatch(path.stem)}
    assert {path: names for path, text in texts.items() if (names := named(text))} == {}
    assert named('if name == "gemma4":\n    from x.families import llava') == ["gemma4", "llava"], "the check can fail"


def test_the_files_of_a_family_are_two() -> None:
    """All that name this one, but for rows and figures that commands write; it needs no test of its own."""
    name, root = "granite" + "_docling", DOCS.parent
    places = [path for room in (*ROOMS, "tests", "docs") for path in (root / room).rglob("*.py")]
    naming = [path for path in places if re.search(rf"\b{name}\b", path.read_text(encoding="utf-8"))]
    assert {*naming} == {root / f"export/families/{name}.py", HERE / f"family_checkpoints/{name}.py"}


def test_the_documented_family_from_outside(install: Install) -> None:
    text = (DOCS / "adding-a-family.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r"```(python|ini)\n(.*?)```", text, re.DOTALL))
    assert "vipllava" not in families.names()
    install(blocks["ini"], blocks["python"])
    assert "vipllava" in families.names()
    assert "vipllava" not in families.built_in()
    family = families.find("vipllava", "test")

    tiny = harness.build(family, family.tiny_config())
    for count in (0, 1, 2):
        images, ids = tiny.images(count), tiny.prompt(count)
        inputs = harness.reference(tiny, ids, images)
        run = harness.lay_out(tiny, tiny.plan, ids, *harness.encode_images(tiny, tiny.plan, images)[:2])
        decoder = family.decoder(tiny.model, tiny.plan)
        expected = harness.reference_logits(tiny, inputs)
        assert expected.std() >= 1
        assert harness.difference(harness.logits(tiny, decoder, run), expected) < harness.TOLERANCE
        assert harness.greedy(tiny, decoder, run, 4) == harness.reference_greedy(tiny, inputs, 4)
    assert harness.encode_images(tiny, tiny.thirds, tiny.images(1))[0].shape[1] == tiny.thirds.vision_tokens


@pytest.mark.parametrize(
    ("module", "refusal"),
    [
        ("", "an installed family cannot be loaded(.|\n)*vipllava = luvc_vipllava:FAMILY(.|\n)*remove the package"),
        (
            "FAMILY = 3",
            "what an installed package calls a family is something else(.|\n)*got: int(.|\n)*model_type is 'vipllava'",
        ),
        (
            "from luvc_export.export.towers.square_family import SquareFamily\nclass Own(SquareFamily):\n"
            "    model_type = 'vipllava'\n    def tiny_config(self):\n        return None\nFAMILY = Own()",
            "what an installed package calls a family is something else(.|\n)*has an architecture, or builds its model",
        ),
    ],
)
def test_a_broken_package_is_named(install: Install, module: str, refusal: str) -> None:
    install("[luvc_export.families]\nvipllava = luvc_vipllava:FAMILY\n", module)
    with pytest.raises(CheckpointError, match=refusal):
        families.find("vipllava", "test")


def test_our_own_come_first(install: Install) -> None:
    install("[luvc_export.families]\nllava = luvc_vipllava:FAMILY\n", "FAMILY = 3")
    assert families.find("llava", "test").model_type == "llava"


def test_the_tables_of_families_are_up_to_date() -> None:
    again = "python docs/family_tables.py"
    families_page = (DOCS / "families.md").read_text(encoding="utf-8")
    assert family_tables.page(families_page) == families_page, again
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    assert pages.within(readme, "families", family_tables.short_table()) == readme, again
    assert pages.within("no marks", "families", "a table") != "no marks", "the check can fail"
    assert readme.count("| `qwen3_vl` |") == 1


def test_every_verb_was_run_for_every_family() -> None:
    """The measured table has every cell that applies, none of them failed, and parity within its limit."""
    measured = json.loads(family_tables.MEASURED.read_text(encoding="utf-8"))
    assert [*measured] == families.built_in()
    for name, cells in measured.items():
        own = {"tiles", "joint"} if name in SPLITTING else set()
        own |= {"video", "joint"} if name in VIDEO else set()
        refused = {cell for cell, value in cells.items() if value.startswith("refused: ")}
        assert {*cells} == {*family_tables.CELLS} and refused == {"tiles", "video", "joint"} - own, name
        assert float(cells["parity hf"]) < 1e-4
        assert {cells[cell] for cell in cells.keys() - refused - {"parity hf"}} == {"yes"}


def test_every_kind_of_picture_was_shown_to_every_family() -> None:
    """No cell without a run, and none that differs."""
    records = json.loads(family_tables.SHOWN.read_text(encoding="utf-8"))
    assert [record["family"] for record in records] == families.built_in()
    for record in records:
        cells = {cell: text for cell, text in record.items() if cell not in ("family", "opened otherwise")}
        if record["family"] in ONE_TURN:
            assert cells.pop("second turn") == "refused"
        verbs = [cells.pop(verb) for verb in ("bench", "pack", "serve", "batch")]
        assert {*verbs} == {"yes"} and {*cells.values()} == {"equal"} and len(cells) >= 10, record["family"]


def test_the_table_says_of_tiles_and_videos_what_tests_show() -> None:
    """The lists the tests run over are the cells that say yes."""
    lines = family_tables.short_table().splitlines()
    for name in families.built_in():
        row = next(line for line in lines if line.startswith(f"| `{name}` |"))
        tiles, video = (cell.strip() == "yes" for cell in row.split("|")[3:5])
        assert tiles == (name in SPLITTING)
        own = families.find(name, "test").video(families.find(name, "test").tiny_config())
        assert video == (name in VIDEO or bool(own and own.pooled))
