"""How verbs end that do not end well: what is missing, what is a bug, and all of it as JSON."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_words import Cli

from luvc_export.bundle.folder import Bundle
from luvc_export.cli import app, failures
from luvc_export.cli.commands import doctor
from luvc_export.demo import CHECKPOINT
from luvc_export.version import VERSION

ROOT = Path(__file__).resolve().parents[2]

#: One command line of every verb that an installation with [cpu] alone cannot run, and what it misses first.
LACKING = {
    "demo": (("-o", "out"), "export,cpu"),
    "plan": ((CHECKPOINT,), "export,cpu"),
    "export": ((CHECKPOINT, "-o", "out"), "export,cpu"),
    "build": (("BUNDLE", "--target", "rtx-ada"), "rtx"),
    "pack": ((CHECKPOINT, "--target", "jetson-thor", "-o", "out"), "export,cpu"),
    "parity": (("hf:demo", "BUNDLE", "--task", "glyph"), "export,cpu"),
    "ablate": (("-o", "out"), "export,cpu"),
    "calibrate": (("BUNDLE", "--precision", "int8", "--data", "glyph"), "export,cpu"),
    "bench": (("BUNDLE", "--sweep", "budget"), "report"),
    "new-family": (("vipllava", "-o", "out"), "export,cpu"),
    "make-random": (("smolvlm-256m", "-o", "out"), "export,cpu"),
    "inspect": (("BUNDLE", "--surgery"), "export,cpu"),
    "serve": (("BUNDLE",), "serve"),
    "batch": (("BUNDLE", "--input", "cases.jsonl", "-o", "out", "--ray", "local"), "ray"),
    "trial": (("demo", "--dry-run"), "export,cpu"),
}
#: Those that work there.
WORKING = {"run", "targets", "doctor", "triton"}

_RUN_ALL = """
import contextlib, io, json, sys
from importlib.abc import MetaPathFinder
MISSING = {"torch", "transformers", "onnx", "onnxscript", "onnx_ir", "onnx_graphsurgeon", "onnxslim", "safetensors",
           "huggingface_hub", "matplotlib", "peft", "tensorrt", "tensorrt_rtx", "starlette", "uvicorn", "msgspec",
           "prometheus_client", "llguidance", "ray", "pyarrow"}
class Hidden(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
from luvc_export.cli import main
from luvc_export.runtime.speed_probe import one_row
one_row.busy = lambda: False  # what doctor timed stays known to the others
one_row.MOST_INNER = one_row.MOST_COLUMNS = one_row.MOST_HEAD = 512
found = {}
for verb, words in json.loads(sys.argv[1]).items():
    sys.argv, said = ["luvc-export", verb, *words], io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            main()
        except SystemExit as stop:
            found[verb] = [stop.code, said.getvalue()]
print(json.dumps(found))
"""


@pytest.mark.slow(beside="cli/test_failures.py::test_errors_are_json_where_json_is_asked_for")
def test_what_an_extra_brings_is_asked_for(demo_bundle: Bundle, tmp_path: Path) -> None:
    other = {"embed", "search"}  # as ``run``, of bundles that the demo is none of
    assert {*LACKING, *WORKING, *other} == {command.name for command in app.registered_commands}
    asked = {
        verb: [str(demo_bundle.folder) if word == "BUNDLE" else str(word) for word in words]
        for verb, (words, _) in LACKING.items()
    }
    ask = ["--prompt", "where is 7?", "--max-new-tokens", "1"]
    asked |= {"run": [str(demo_bundle.folder), *ask], "targets": [], "doctor": []}
    asked["triton"] = [str(demo_bundle.folder), "-o", f"{tmp_path}-models"]
    command = [sys.executable, "-c", _RUN_ALL, json.dumps(asked)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    outcomes = json.loads(done.stdout)
    for verb, (_, extra) in LACKING.items():
        code, err = outcomes[verb]
        assert code == 3 and f"luvc-export[{extra}]" in err and "internal" not in err, (verb, code, err)
    assert {verb: outcomes[verb][0] for verb in WORKING} == dict.fromkeys(WORKING, 0), outcomes
    assert list(tmp_path.iterdir()) == []


def test_a_bug_is_no_failed_check(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luvc_export.export.checkpoint.open_checkpoint", lambda *a, **k: 1 / 0)
    code, _, err = cli("plan", CHECKPOINT)
    assert code == 70 and "ZeroDivisionError" in err and "--debug" in err and "Traceback" not in err
    code, _, err = cli("plan", CHECKPOINT, "--json")
    assert code == json.loads(err)["error"]["exit_code"] == 70 and "--debug" in json.loads(err)["error"]["fix"]


def test_a_module_that_is_there_but_broken_is_a_bug() -> None:
    assert failures.explained(ModuleNotFoundError("x", name="torch.of_another_version")).exit_code == 70
    assert failures.explained(ModuleNotFoundError("x", name="torch")).exit_code == 3


@pytest.mark.parametrize(
    ("words", "code", "kind", "what"),
    [
        (("inspect", "nowhere"), 2, "BundleError", "this is not a bundle"),
        (("doctor", "--need", "moon"), 2, "UsageError", "unknown part"),
        (("inspect",), 2, "UsageError", "bundle"),
        (("inspekt", "x"), 2, "UsageError", "inspekt"),
        (("run", "x", "--prompt", "?", "--threads", "0"), 2, "UsageError", "--threads"),
        (("build", "nowhere", "--target", "rtx-adda"), 2, "UsageError", "target"),
    ],
)
def test_errors_are_json_where_json_is_asked_for(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], code: int, kind: str, what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    got, out, err = cli(*words, "--json")
    error = json.loads(err)["error"]
    assert (got, error["exit_code"], error["kind"]) == (code, code, kind) and what in error["what"], err
    assert set(error) == {"kind", "exit_code", "what", "where", "got", "expected", "fix"} and not out


def test_an_error_is_json_beside_the_result(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "known_parts", lambda: {"moon": doctor.Part(("moon-landing",), "moon")})
    code, out, err = cli("doctor", "--need", "moon", "--json")
    assert code == 3 and json.loads(out)["parts"]["moon"]["missing"] == json.loads(json.dumps(["moon-landing"]))
    assert json.loads(err)["error"]["kind"] == "MachineError" and len(err.splitlines()) == 1


def test_help_and_version_end_well_with_json(cli: Cli) -> None:
    assert cli("--version")[:2] == (0, f"luvc-export {VERSION}\n")
    assert cli("run", "--help", "--json")[0] == 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
def test_an_encoding_without_the_characters(
    demo_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, cli: Cli
) -> None:
    """Tables, and names that the terminal cannot write."""
    monkeypatch.chdir(tmp_path)
    odd = Path("\N{SNOWMAN} \udcff")
    for words, code in ((("inspect", demo_bundle.folder), 0), (("inspect", odd), 2), (("targets",), 0)):
        streams = [io.TextIOWrapper(io.BytesIO(), encoding, write_through=True) for _ in range(2)]
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", streams[0])
            patch.setattr(sys, "stderr", streams[1])
            got = cli(*words)[0]
        written = [stream.buffer.getvalue() for stream in streams]  # type: ignore[attr-defined]
        assert got == code and written[code == 2], written
        assert code == 0 or b"\\u2603 \\udcff" in written[1], written


@pytest.mark.parametrize("words", [("inspect", "--json"), ("inspect",), ("--help",)])
def test_a_reader_that_left_is_no_failed_check(demo_bundle: Bundle, words: tuple[str, ...]) -> None:
    """141, as shells have it of `cat`: JSON, tables, which rich prints, and help, which typer does."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "luvc_export", *words, *[str(demo_bundle.folder)] * (words[0] == "inspect")]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(("number", "code"), [(errno.EIO, 70), (errno.ENOSPC, 2)])
def test_what_the_system_refuses(number: int, code: int) -> None:
    assert failures.explained(OSError(number, "no")).exit_code == code
