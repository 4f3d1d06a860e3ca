"""Real workers: answers are Session's, bad rows are lines, a worker or the whole batch may be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import film_bundle
import pytest
from heavy_patterns import TOO_HEAVY, string_of
from PIL import Image

from luvc_export.batch.answerer import Answerer
from luvc_export.batch.job import BatchJob
from luvc_export.batch.run import local, run_batch
from luvc_export.batch.source import Row
from luvc_export.bundle.folder import Bundle
from luvc_export.demo.questions import cases
from luvc_export.errors import MachineError, UsageError
from luvc_export.runtime.prompt.question import Question, question
from luvc_export.runtime.session import Session

ROWS = 14
#: A worker that ends at a row that says so, as a segmentation fault would; beside it a worker that cannot load.
DYING = """
import os, signal, sys
from luvc_export.batch import answerer, worker
real = answerer.parse_case
def parse(line, *where, **options):
    if "poison" in line:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(line, *where, **options)
answerer.parse_case = parse
worker.main()
"""


@pytest.fixture(scope="module")
def asked(demo_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of questions: rows 3, 5, 7, 9 and 11 are bad in different ways, row 12 is about no picture."""
    folder = tmp_path_factory.mktemp("questions")
    lines = []
    for number, case in enumerate(cases("heldout", ROWS, 0)):
        names = []
        for index, picture in enumerate(case.images):
            names.append(f"{number}-{index}.png")
            Image.fromarray(picture).save(folder / names[-1])
        lines.append(json.dumps({"id": f"q{number}", "image": names, "prompt": case.prompt}))
    (folder / "broken.png").write_bytes(b"\x89PNG no")
    lines[3] = '{"image": "broken.png", "prompt": "what?", "id": 33}'
    lines[5] = '{"image": "gone.png", "prompt": "what?"}'
    lines[7] = "not JSON"
    lines[9] = json.dumps({"prompt": "row " * 3000, "id": "long", "never heard of": 1})
    lines[11] = '{"prompt": "poison \\ud83d", "id": "eleven"}'
    lines[12] = '{"prompt": "colour of 3?"}'
    (folder / "cases.jsonl").write_text("\n\n".join(lines))
    return folder / "cases.jsonl"


def read(folder: Path) -> dict[int, dict[str, Any]]:
    rows = [json.loads(line) for path in sorted(folder.glob("part-*")) for line in path.read_text().splitlines()]
    assert [row["row"] for row in rows] == [*range(len(rows))]
    return {row["row"]: row for row in rows}


@pytest.fixture(scope="module")
def texts(demo_bundle: Bundle) -> dict[int, str]:
    session = Session(demo_bundle, "cpu", "even", 1)
    answers = {
        number: session.generate(list(case.images), case.prompt).text
        for number, case in enumerate(cases("heldout", ROWS, 0))
    }
    return {**answers, 12: session.generate(None, "colour of 3?").text}


def test_answers_are_session_s_and_bad_rows_are_lines(
    demo_bundle: Bundle, asked: Path, texts: dict[int, str], tmp_path: Path
) -> None:
    """A row that takes a worker with it twice is a bad one too, and takes no other."""
    job = BatchJob(demo_bundle.folder, asked, tmp_path / "out", plan="even", backend="cpu", rows=3, shard=5)
    result = run_batch(job, local(2, ("-c", DYING)))
    rows = read(tmp_path / "out")
    bad = {number: row["error"] for number, row in rows.items() if row["error"] is not None}
    assert sorted(bad) == [3, 5, 7, 9, 11] and result.errors == 5 and result.rows == ROWS
    for number, refusal in {3: "not an image", 5: "is not there", 7: "line 15", 9: "unknown", 11: "signal 9"}.items():
        assert refusal in bad[number], bad[number]
    assert {n: row["text"] for n, row in rows.items() if n not in bad} == {n: texts[n] for n in rows if n not in bad}
    assert rows[3]["id"] == 33 and rows[0]["id"] == "q0" and rows[3]["text"] is None
    assert {n: rows[n]["id"] for n in (5, 7, 9, 11, 12)} == {5: None, 7: None, 9: "long", 11: "eleven", 12: None}
    assert rows[0]["timings"]["prefill_ms"] > 0 and rows[0]["finish_reason"] == "stop"


def test_what_was_hashed_is_not_hashed_by_every_worker(demo_bundle: Bundle, tmp_path: Path) -> None:
    job = BatchJob(demo_bundle.folder, tmp_path / "cases.jsonl", tmp_path / "out", verify=True)
    sent = BatchJob.from_json(json.loads(json.dumps(job.to_json())))
    assert job.verify and sent == replace(job, bundle=sent.bundle, verify=False)


def test_a_bundle_that_no_worker_can_load_ends_the_batch(demo_bundle: Bundle, asked: Path, tmp_path: Path) -> None:
    job = BatchJob(demo_bundle.folder, asked, tmp_path / "out", backend="cpu", arithmetic="fp16")
    with pytest.raises(MachineError, match="computes in what the graph"):
        run_batch(job)
    with pytest.raises(MachineError, match=r"ended before it was ready(.|\n)*exit code 7"):
        run_batch(job, local(1, ("-c", "raise SystemExit(7)")))
    for wrong, refusal in (({"plan": "none such"}, "none such"), ({"backend": "gpu"}, "unknown back-end")):
        with pytest.raises(UsageError, match=refusal):
            BatchJob(demo_bundle.folder, asked, tmp_path / "out", **wrong).check()  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="every line of a file has its own prompt"):
        BatchJob(demo_bundle.folder, asked, tmp_path / "out", prompt="x").check()


def test_a_row_that_takes_too_much_work_is_an_error(demo_bundle: Bundle) -> None:
    answerer = Answerer(
        demo_bundle.folder, plan="even", backend="cpu", threads=1, sampling={"json_schema": string_of(TOO_HEAVY)}
    )
    (answer,) = answerer.answer([lambda: question(None, "where is 9?", None)])
    assert answer.finish_reason is None and answer.error is not None and "too much work" in answer.error


def test_a_machine_that_fails_every_row_stops_and_one_bad_row_does_not(
    demo_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    answerer = Answerer(demo_bundle.folder, plan="even", backend="cpu", threads=1)
    real, calls = Session.answer_rows, list[int]()

    def failing(self: Session, ready: Any, *arguments: Any) -> Any:
        calls.append(len(ready))
        if any(row.request.token_ids == broken for row in ready):
            raise MachineError("no memory")
        return real(self, ready, *arguments)

    def ask(text: str) -> Any:
        return lambda: question(None, text, None)

    asked: Question = question(None, "where is 9?", None)
    broken = answerer._session.prepare_row(asked, answerer._options).request.token_ids
    monkeypatch.setattr(Session, "answer_rows", failing)
    answers = answerer.answer([ask("where is 9?"), ask("where is 8?"), ask("where is 9?")])
    assert [answer.error is None for answer in answers] == [False, True, False] and calls == [3, 1, 1, 1]
    with pytest.raises(MachineError, match="answers no more"):
        answerer.answer([ask("where is 9?")] * 9)


@pytest.fixture
def running(demo_bundle: Bundle, asked: Path, tmp_path: Path) -> Iterator[Any]:
    """Begin the verb on 40 rows; what is left of it is ended."""
    begun: list[subprocess.Popen[str]] = []
    many = asked.with_name("many.jsonl")
    many.write_text("\n".join(asked.read_text().splitlines()[:1] * 40))

    def begin() -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "luvc_export", "batch", str(demo_bundle.folder), "--input", str(many)]
        words += ["-o", str(tmp_path / "out"), "--plan", "even", "--backend", "cpu", "--rows", "1", "--shard", "2"]
        begun.append(subprocess.Popen([*words, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return begun[-1]

    yield begin
    for process in begun:
        process.kill()
        process.communicate()


@pytest.mark.slow(beside="batch/test_batch_shards.py::test_cut_anywhere_any_number_of_times")
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_interrupted_and_killed_it_goes_on_and_leaves_no_worker(running: Any, tmp_path: Path) -> None:
    for number, code in ((signal.SIGINT, 130), (signal.SIGKILL, -9), (None, 0)):
        process, before = running(), len([*tmp_path.glob("out/part-*")])
        while number is not None and len([*tmp_path.glob("out/part-*")]) < before + 2:
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        if number is not None:
            process.send_signal(number)
        out, err = process.communicate(timeout=240)
        assert process.returncode == code, err
        if code == 130:
            assert json.loads(err.splitlines()[-1])["error"]["what"].startswith("interrupted"), err
        for _ in range(100):
            if not (alive := workers_of(process.pid)):
                break
            time.sleep(0.05)
        assert not alive
    result = json.loads(out)
    assert result["rows"] == 40 == len(read(tmp_path / "out")) and result["resumed"] > 6 and result["errors"] == 0


def workers_of(parent: int) -> list[int]:
    """Workers that were begun by process ``parent``."""
    workers = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                words = (place / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if (
                b"luvc_export.batch.worker" in words
                and str(parent).encode() in words
                and os.getpid() != int(place.name)
            ):
                workers.append(int(place.name))
    return workers


def test_a_film_longer_than_is_looked_at_is_in_its_row(demo_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "clip.gif").write_bytes(film_bundle.animation(40, 100))
    answerer = Answerer(demo_bundle.folder, plan="even", backend="cpu", threads=1)
    lines = [
        '{"video": "clip.gif", "prompt": "what?"}',
        '{"prompt": "colour of 3?"}',
        '{"video": "gone", "prompt": "x"}',
    ]
    answerer._session = Session(film_bundle.taking_films(demo_bundle), "cpu", "even", 1)
    answerer._session.load(images=False)
    rows = [Row(number, line, number + 1) for number, line in enumerate(lines)]
    film, none, bad = (one.to_json() for _, one in answerer.answer_lines(rows, tmp_path / "cases.jsonl", tmp_path))
    assert film["error"] is None and none["error"] is None and "is not there" in bad["error"]
    assert (film["video"]["frames"], film["video"]["of"]) == (answerer._session.video_frames(), 40)
    assert film["video"]["seconds"] == pytest.approx(4)
    assert film["video"]["every_seconds"] == pytest.approx(4 / answerer._session.video_frames())
    assert none["video"] is bad["video"] is None
