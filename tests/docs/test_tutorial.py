"""The ten commands of docs/tutorial.md, run in order as a reader would; in one process, but for the server."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import cut_checkpoint
import pytest
from typer.main import get_command

import luvc_export.demo
from luvc_export.cli import app, main
from luvc_export.runtime.bench import machine
from luvc_export.runtime.confined import helpers

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"
STEPS = re.findall(r"\*\*(\d+)\. [^\n]*?\*\*.*?```sh\nluvc-export ([^\n]+)\n```", PAGE.read_text("utf-8"), re.DOTALL)
LINES = [
    line for block in re.findall(r"```sh\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL) for line in block.splitlines()
]
#: What a run prints where it should print progress, sizes and times alone.
STRAY = re.compile(r"warning|deprecat|Traceback|Loading weights", re.IGNORECASE)
VERBS = ["plan", "export", "inspect", "run", "parity", "bench", "serve", "calibrate", "build", "pack"]


def command(line: str) -> list[str]:
    return [sys.executable, "-m", "luvc_export", *shlex.split(line)]


def ended(line: str, monkeypatch: pytest.MonkeyPatch) -> object:
    """What ``line`` ends with in this process: eight imports of torch, one a process, would take longest."""
    monkeypatch.setattr(sys, "argv", ["luvc-export", *shlex.split(line)])
    with pytest.raises(SystemExit) as stop:
        main()
    helpers.close_all()
    return stop.value.code


def draw() -> None:
    """The page's command that is none of luvc-export: pictures and questions, into the current folder."""
    (line,) = (line for line in LINES if line.startswith("python -m "))
    subprocess.run([sys.executable, *shlex.split(line)[1:]], check=True)


def parsed(line: str) -> None:
    """Refuses an option that the verb has not."""
    verb, *words = shlex.split(line)
    get_command(app).commands[verb].make_context(verb, words).close()  # type: ignore[attr-defined]


def served(line: str, folder: Path) -> str:
    """What a server of ``line``, on a free port, says of its models."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(command(line.replace("8000", str(port))), cwd=folder, stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(600):
            assert server.poll() is None, server.stderr and server.stderr.read()
            try:
                with urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=10) as answer:
                    return str(answer.read(), "utf-8")
            except (URLError, ConnectionError):
                time.sleep(0.1)
        raise AssertionError("the server never answered")
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=60)


def test_the_ten_steps_are_of_verbs_and_options_that_there_are() -> None:
    assert [number for number, _ in STEPS] == [str(number) for number in range(1, 11)]
    assert [line.split()[0] for _, line in STEPS] == VERBS
    for _, line in STEPS:
        parsed(line)
    with pytest.raises(Exception, match="--bundel"):
        parsed(STEPS[3][1] + " --bundel x")


def test_files_that_steps_read_are_made_by_steps_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder; before, four steps named files that none made. Extras that steps need are installed first."""
    monkeypatch.chdir(tmp_path)
    draw()
    words = [word for _, line in STEPS for word in shlex.split(line)]
    named = [after for word, after in itertools.pairwise(words) if word in ("--image", "--cases", "--data")]
    assert len(named) == 4 and [name for name in named if not Path(name).is_file()] == []
    installs = [line for line in LINES if line.startswith("pip install '.[")]
    assert {*installs} == {"pip install '.[export,cpu,openvino,report,serve,rtx]'"} and len(installs) == 2


@pytest.mark.slow(beside="docs/test_tutorial.py::test_files_that_steps_read_are_made_by_steps_before")
def test_the_ten_steps_run_as_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In an empty folder; nothing warns.

    ``demo`` is four of the bundled model's six layers, for time; they know no answers, so four questions
    are left, without theirs.
    An engine is built where TensorRT-RTX is installed; the step is left out, by name, where it is not.
    """
    for name in ("cut", "empty"):
        (tmp_path / name).mkdir()
    cut_checkpoint.write_weights(cut_checkpoint.write(tmp_path / "cut", 4, 2) / "model.safetensors", 4, 2)
    monkeypatch.setattr(luvc_export.demo, "CHECKPOINT", tmp_path / "cut")
    monkeypatch.setattr(machine, "_SIDE", 256)
    monkeypatch.setattr(machine, "_BYTES", 2**24)
    monkeypatch.chdir(folder := tmp_path / "empty")
    draw()
    cases = folder / "asked" / "cases.jsonl"
    rows = [json.loads(line) for line in cases.read_text().splitlines()[:4]]
    cases.write_text("".join(f"{json.dumps({**row, 'answer': None})}\n" for row in rows))
    for _, line in STEPS:
        verb = line.split()[0]
        if verb == "serve":
            assert "safe" in served(line, folder)
        elif verb != "build" or find_spec("tensorrt_rtx"):
            code = ended(line, monkeypatch)
            out, err = capfd.readouterr()
            assert not code, f"{line}\n{out[-2000:]}\n{err[-2000:]}"
            assert not STRAY.search(err), f"{line}\n{err[-2000:]}"
    assert (folder / "kept.png").is_file() and (folder / "pack").is_dir()
    assert bool(list((folder / "bundle").glob("*.engine"))) == bool(find_spec("tensorrt_rtx"))


def test_a_command_that_fails_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ended("inspect bundle", monkeypatch) == 2
    with pytest.raises(AssertionError):
        served("serve bundle --port 8000", tmp_path)
