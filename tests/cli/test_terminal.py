"""No text of a file steers the terminal or is taken for markup: every text field of everything that is read."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hostile_texts import HOSTILE, changed, error_of, harmless, printed

from luvc_export.batch.shards import Shards
from luvc_export.batch.source import open_source
from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.manifest import EngineEntry, EngineFile, FileRecord, Footprint, Manifest
from luvc_export.cli.tables import console as consoles
from luvc_export.cli.tables.engines import facts
from luvc_export.cli.tables.named import cost_table
from luvc_export.core.files.json_records import from_json_data
from luvc_export.core.plan import Plan
from luvc_export.core.plan.cost import cost
from luvc_export.errors import LuvcError
from luvc_export.packing.record import Pack


def engine() -> EngineEntry:
    part = EngineFile("a.engine", FileRecord("0" * 64, 1), (), (), (), 0, None, "a.layers.json", "a.log")
    return EngineEntry(
        *("even", "h100", "fp16", "concat", "tensorrt", "10.3.0", ("9.0",)),  # type: ignore[arg-type]
        *(False, "none", False, False, 1, 1, 96, part, part),  # type: ignore[arg-type]
        footprint=Footprint(1, 1, 1, 1, 1),
    )


def test_every_text_of_a_plan(demo_bundle: Bundle) -> None:
    own = demo_bundle.entry("even").plan
    tried = 0
    for data in changed({**own.to_json(), "schedule": "even"}):
        tried += 1
        try:
            plan = Plan.from_json(data)
        except LuvcError as error:
            assert harmless(error_of(error))
            continue
        out = printed(cost_table(plan, cost(plan, demo_bundle.manifest.decoder)))
        assert harmless(out)
        assert data["schedule"] != HOSTILE or ("[/x][red]" in out and ":smile:" in out)
    assert tried > 5


def test_every_text_of_a_manifest(demo_bundle: Bundle) -> None:
    data = dataclasses.replace(demo_bundle.manifest, engines=(engine(),)).to_json()
    tried = 0
    for one in changed(json.loads(json.dumps(data))):
        tried += 1
        try:
            manifest = Manifest.from_json(one, "luvc.json")
        except LuvcError as error:
            assert harmless(error_of(error))
            continue
        assert harmless(printed(*(facts(entry) for entry in manifest.engines), *manifest.plans, manifest.source.model))
    assert tried > 40


def test_every_text_of_a_pack() -> None:
    pack = Pack(
        *(
            "jetson",
            "even",
            "fp16",
            "fp32",
            "concat",
            96,
            1,
            0,
            3,
            (1, 1),
            Footprint(1, 1, 1, 1, 1),
            "3.10",
            (),
            ("w",),
        ),  # type: ignore[arg-type]
        cases="generated",
        files={"w": FileRecord("0" * 64, 1)},
        tools={"python": "3.10"},
    )
    tried = 0
    for one in changed(json.loads(json.dumps(dataclasses.asdict(pack)))):
        tried += 1
        try:
            hostile = from_json_data(Pack, one, "pack.json")
        except LuvcError as error:
            assert harmless(error_of(error))
            continue
        assert harmless(printed(hostile.target, hostile.plan, *hostile.wheels))
    assert tried > 8


def test_a_damaged_shard(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n')
    source = open_source(tmp_path / "rows.jsonl", 1)
    for line in (HOSTILE, json.dumps({"row": HOSTILE, "error": None}), "[" * 200_000, "{}", "[]", "7", ""):
        (tmp_path / "part-000000.jsonl").write_text(line)
        with pytest.raises(LuvcError, match="this shard is not as it was written") as caught:
            Shards(tmp_path, source)
        assert harmless(error_of(caught.value))


@pytest.mark.parametrize("printing", [lambda text: text, lambda text: consoles.styled((text, "red"), text)])
def test_the_console_shows_text_as_it_is(printing: Any) -> None:
    out = printed(printing(HOSTILE))
    assert harmless(out) and "\\x1b[2J[/x][red]\\u202e:smile:\\x07" in re.sub("\x1b\\[[0-9;]*m", "", out)


def test_what_a_console_of_rich_s_own_would_do_is_seen() -> None:
    """Sabotage."""
    from rich.console import Console
    from rich.errors import MarkupError

    out = io.StringIO()
    Console(file=out, markup=False).print(HOSTILE)
    assert not harmless(out.getvalue())
    with pytest.raises(MarkupError):
        Console(file=out).print(HOSTILE)


def test_every_verb_prints_through_the_one_console() -> None:
    folder = Path(consoles.__file__).parents[1]
    for path in folder.rglob("*.py"):
        if path != Path(consoles.__file__):
            assert "rich.console" not in path.read_text(encoding="utf-8"), path.name


def test_an_answer_is_escaped_on_a_terminal_alone() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert harmless(consoles.answer_text("a" + HOSTILE, Terminal()))
    assert consoles.answer_text("a" + HOSTILE, io.StringIO()) == "a" + HOSTILE
