"""Whatever interrupts a batch, wherever: the shards that are there are whole, and in the end hold every row once."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luvc_export.batch.answerer import Answer
from luvc_export.batch.job import BatchJob, sha256_read
from luvc_export.batch.pool import Answered
from luvc_export.batch.run import BatchProgress, run_batch
from luvc_export.batch.source import Source
from luvc_export.bundle.folder import Bundle, load
from luvc_export.core.files import safe_files
from luvc_export.errors import UsageError


class PowerCut(BaseException):
    """Ends a run."""


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(folder.glob("part-*")) for line in path.read_text().splitlines()]


def fleet(seed: int, until: int = 10**9, twice: bool = True) -> Any:
    """Answers in any order, some twice; cut after ``until`` of them."""

    def answer(job: BatchJob, source: Source, shards: list[int]) -> Iterable[Answered]:
        rows = [row for index in shards for row in source.read(index)]
        dice = random.Random(seed)
        dice.shuffle(rows)
        rows += dice.choices(rows, k=3) if twice else []
        for turn, row in enumerate(rows):
            if turn == until:
                raise PowerCut
            row_fields = json.loads(row.line)
            yield Answered(
                row.number, row_fields["id"], Answer(f"to {row_fields['prompt']}", error=row_fields.get("error"))
            )

    return answer


def job(bundle: Bundle, folder: Path, rows: int, shard: int = 4, **more: Any) -> BatchJob:
    source = folder / "cases.jsonl"
    source.write_text("".join(json.dumps({"id": f"q{n}", "prompt": f"{n}?"}) + "\n" for n in range(rows)))
    return BatchJob(bundle.folder, source, folder / "out", shard=shard, **more)


@given(cuts=st.lists(st.integers(0, 30), max_size=8), rows=st.integers(1, 30), shard=st.integers(1, 9))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
def test_cut_anywhere_any_number_of_times(
    demo_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory, cuts: list[int], rows: int, shard: int
) -> None:
    asked = job(demo_bundle, tmp_path_factory.mktemp("cut"), rows, shard)
    for turn, cut in enumerate(cuts):
        with contextlib.suppress(PowerCut):
            run_batch(asked, fleet(turn, cut))
        for path in asked.output.glob("part-*"):
            first = int(path.stem[5:]) * shard
            assert [row["row"] for row in map(json.loads, path.read_text().splitlines())] == [
                *range(first, min(first + shard, rows))
            ]
    progress: list[BatchProgress] = []
    before = len(rows_of(asked.output))
    result = run_batch(asked, fleet(99), progress.append)
    answered_rows = rows_of(asked.output)
    assert [(row["row"], row["id"], row["text"]) for row in answered_rows] == [
        (n, f"q{n}", f"to {n}?") for n in range(rows)
    ]
    assert (result.rows, result.resumed, result.errors) == (rows, before, 0) and progress[0].done == before
    assert run_batch(asked, fleet(0, 0)).resumed == rows, "nothing is asked again"


def test_a_full_disk_is_said_and_what_is_written_stays(
    demo_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, create = job(demo_bundle, tmp_path, 20), safe_files.create
    room = [4]  # the record, and three shards

    def full(path: Path) -> Any:
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return create(path)

    monkeypatch.setattr(safe_files, "create", full)
    with pytest.raises(OSError, match="No space") as caught:
        run_batch(asked, fleet(1))
    assert str(caught.value.filename).startswith(str(asked.output / "part-"))
    assert len(rows_of(asked.output)) == 12
    monkeypatch.undo()
    assert run_batch(asked, fleet(2)).resumed == 12 and len(rows_of(asked.output)) == 20
    assert not [path for path in asked.output.iterdir() if safe_files.is_scratch(path.name)]


def test_errors_are_counted_in_shards_of_earlier_runs_too(demo_bundle: Bundle, tmp_path: Path) -> None:
    asked = job(demo_bundle, tmp_path, 8)
    lines = [json.loads(line) for line in asked.source.read_text().splitlines()]
    lines[2]["error"] = "UsageError: bad"
    asked.source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run_batch(asked, fleet(1)).errors == 1 and run_batch(asked, fleet(1)).errors == 1
    assert [row["row"] for row in rows_of(asked.output) if row["error"]] == [2]


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (lambda asked: (asked.output / "part-000000.jsonl").write_text('{"row": 0, "error": null}\n'), "1 rows of 4"),
        (lambda asked: (asked.output / "part-000000.jsonl").write_text("half"), "not as it was written"),
        (lambda asked: asked.source.write_text('{"id": "x", "prompt": "y"}\n' * 8), "questions"),
        (lambda asked: object.__setattr__(asked, "sampling", {"temperature": 1.0, "seed": 1}), 'sampling {"temperatur'),
        (lambda asked: object.__setattr__(asked, "plan", "even"), 'plan "even"'),
        (lambda asked: object.__setattr__(asked, "shard", 5), "shard 5"),
        (lambda asked: (asked.output / "batch.json").unlink(), "holds something else"),
        (lambda asked: (asked.output / "batch.json").write_text("{"), "the record of this batch is not JSON"),
    ],
)
def test_a_folder_that_is_not_this_batch_s_is_left_alone(
    demo_bundle: Bundle, tmp_path: Path, change: Any, refusal: str
) -> None:
    asked = job(demo_bundle, tmp_path, 8)
    run_batch(asked, fleet(1))
    change(asked)
    before = {path.name: path.read_bytes() for path in asked.output.iterdir()}
    with pytest.raises(UsageError) as caught:
        run_batch(asked, fleet(1))
    assert refusal in str(caught.value), caught.value
    assert {path.name: path.read_bytes() for path in asked.output.iterdir()} == before


@pytest.fixture
def grown(demo_bundle: Bundle, tmp_path: Path) -> Any:
    """A copy of the bundle whose ``luvc.json`` a function changes."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    for path in demo_bundle.folder.iterdir():
        (folder / path.name).hardlink_to(path)

    def change(how: Any) -> Bundle:
        manifest = folder / "luvc.json"
        data = json.loads(manifest.read_text())
        how(data)
        manifest.unlink()
        manifest.write_text(json.dumps(data))
        return load(folder)

    return change


def add_plan(data: dict[str, Any], name: str = "more", variant_of: str | None = None) -> None:
    """A plan of other graphs; a variant is for another size."""
    entry = {**data["plans"]["none"], "vision": "vision.none.onnx", "decoder": "decoder.thirds.onnx"}
    data["plans"][name] = {**entry, "variant_of": variant_of, "size": [56, 56] if variant_of else entry["size"]}


def test_a_plan_that_comes_to_the_bundle_forbids_nothing(grown: Any, tmp_path: Path) -> None:

    def without_thirds(data: dict[str, Any]) -> None:
        del data["plans"]["thirds"]
        data["sets"] = [one for one in data["sets"] if one["plan"] != "thirds"]

    asked = job(grown(without_thirds), tmp_path, 8, plan="even")
    with pytest.raises(PowerCut):
        run_batch(asked, fleet(1, 5))

    def other_decoder(data: dict[str, Any]) -> None:
        data["files"]["decoder.even.onnx"]["sha256"] = "0" * 64

    grown(add_plan)
    before = {each: sha256_read(asked.bundle, each, False) for each in ("even", "none")}
    grown(lambda data: add_plan(data, "even@56x56", "even"))
    after = {each: sha256_read(asked.bundle, each, False) for each in ("even", "none")}
    assert before["none"] == after["none"] and before["even"] != after["even"], (
        "which pictures are routed to from now on"
    )
    grown(lambda data: data["plans"].pop("even@56x56"))
    assert run_batch(asked, fleet(2)).rows == 8
    asked = job(load(asked.bundle), tmp_path, 8, plan="even")
    manifest = asked.bundle / "luvc.json"
    data = json.loads(manifest.read_text())
    other_decoder(data)
    manifest.write_text(json.dumps(data))
    with pytest.raises(UsageError, match="begun with something else"):
        run_batch(asked, fleet(2))


def test_engines_are_read_by_those_who_ask_for_them(
    demo_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = json.loads((demo_bundle.folder / "luvc.json").read_text())
    built = {"plan": "even", "target": "rtx-ada"}
    monkeypatch.setattr("luvc_export.batch.job.read_manifest", lambda folder: demo_bundle.manifest)
    (tmp_path / "luvc.json").write_text(json.dumps({**data, "engines": [built]}))
    read = {engines: sha256_read(tmp_path, "even", engines) for engines in (True, False)}
    assert read[False] == sha256_read(demo_bundle.folder, "even", False) != read[True]
    assert sha256_read(tmp_path, "none", True) == sha256_read(demo_bundle.folder, "none", True)


def test_what_auto_took_first_answers_all_rows(demo_bundle: Bundle, tmp_path: Path) -> None:
    asked, backends = job(demo_bundle, tmp_path, 8), list[str]()

    def noted(*arguments: Any) -> Iterable[Answered]:
        backends.append(arguments[0].backend)
        return fleet(1, 5 if len(backends) == 1 else 10**9)(*arguments)  # type: ignore[no-any-return]

    with pytest.raises(PowerCut):
        run_batch(asked, noted, auto=lambda job: "openvino")
    run_batch(asked, noted, auto=lambda job: "cuda")
    assert backends == ["openvino"] * 2
    record = json.loads((asked.output / "batch.json").read_text())
    (asked.output / "batch.json").write_text(json.dumps({**record, "took": ["gpu"]}))
    with pytest.raises(UsageError, match="unknown back-end"):
        run_batch(asked, noted)


def test_a_folder_that_an_earlier_version_began_goes_on(demo_bundle: Bundle, tmp_path: Path) -> None:
    asked = job(demo_bundle, tmp_path, 8)
    with pytest.raises(PowerCut):
        run_batch(asked, fleet(1, 5))
    record = asked.output / "batch.json"
    whole = hashlib.sha256((demo_bundle.folder / "luvc.json").read_bytes()).hexdigest()
    record.write_text(json.dumps({**json.loads(record.read_text()), "bundle": whole}))
    assert run_batch(asked, fleet(2)).rows == 8


def test_two_writers_of_one_folder(demo_bundle: Bundle, tmp_path: Path) -> None:
    asked = job(demo_bundle, tmp_path, 8)

    def nested(*arguments: Any) -> Iterable[Answered]:
        with pytest.raises(UsageError, match="another process is writing here"):
            run_batch(asked, fleet(1))
        return fleet(1)(*arguments)  # type: ignore[no-any-return]

    assert run_batch(asked, nested).rows == 8


def test_pictures_that_come_later_move_no_row(demo_bundle: Bundle, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "pictures").mkdir()
    for name in "abcdef":
        Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / f"{name}.png")
    asked = BatchJob(demo_bundle.folder, tmp_path / "pictures", tmp_path / "out", prompt="what?", shard=2)
    with pytest.raises(PowerCut):
        run_batch(asked, fleet(1, 5))
    Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / "0.png")
    result = run_batch(asked, fleet(2))
    assert result.rows == 6 and sorted(row["id"] for row in rows_of(asked.output)) == [f"{n}.png" for n in "abcdef"]
    inside = BatchJob(demo_bundle.folder, tmp_path / "pictures", tmp_path / "pictures" / "out", prompt="what?")
    with pytest.raises(UsageError, match="inside the folder of pictures"):
        run_batch(inside, fleet(1))
