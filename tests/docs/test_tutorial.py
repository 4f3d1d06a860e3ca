"""The ten commands of docs/tutorial.md, run in order as a reader would; in one process, but for the server."""

from __future__ import annotations

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
from PIL import Image
from typer.main import get_command

from luvc_export.cli import app, main
from luvc_export.demo.questions import cases
from luvc_export.runtime.bench import machine
from luvc_export.runtime.confined import helpers

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"
STEPS = re.findall(r"\*\*(\d+)\. [^\n]*?\*\*.*?```sh\nluvc-export ([^\n]+)\n```", PAGE.read_text("utf-8"), re.DOTALL)
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


@pytest.mark.slow(beside="docs/test_tutorial.py::test_the_ten_steps_are_of_verbs_and_options_that_there_are")
def test_the_ten_steps_run_as_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An engine is built where TensorRT-RTX is installed; the step is left out, by name, where it is not.

    ``demo`` is a folder here, as the word allows: four layers of the bundled model. They know no answers, so none are
    in the questions.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    cut_checkpoint.write_weights(cut_checkpoint.write(tmp_path / "demo", 4, 2) / "model.safetensors", 4, 2)
    monkeypatch.setattr(machine, "_SIDE", 256)
    monkeypatch.setattr(machine, "_BYTES", 2**24)
    rows = []
    for number, case in enumerate(list(cases("heldout", 60))[::15]):
        Image.fromarray(case.images[0]).save(tmp_path / f"{number}.png")
        rows.append({"image": f"{number}.png", "prompt": case.prompt})
    Image.fromarray(next(iter(cases("heldout", 1))).images[0]).save(tmp_path / "picture.png")
    (tmp_path / "cases.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for _, line in STEPS:
        verb = line.split()[0]
        if verb == "serve":
            assert "safe" in served(line, tmp_path) or "bundle" in served(line, tmp_path)
        elif verb != "build" or find_spec("tensorrt_rtx"):
            code = ended(line, monkeypatch)
            out, err = capsys.readouterr()
            assert not code, f"{line}\n{out[-2000:]}\n{err[-2000:]}"
    assert (tmp_path / "kept.png").is_file() and (tmp_path / "pack").is_dir()
    assert bool(list((tmp_path / "bundle").glob("*.engine"))) == bool(find_spec("tensorrt_rtx"))


def test_a_command_that_fails_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ended("inspect bundle", monkeypatch) == 2
    with pytest.raises(AssertionError):
        served("serve bundle --port 8000", tmp_path)
