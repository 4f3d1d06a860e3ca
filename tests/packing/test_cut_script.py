"""A pack's script that was cut short on its way to the board does not pass, whatever an earlier run left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jetson_root
import pytest

from luvc_export.packing import bootstrap, record

SCRIPT = Path(bootstrap.__file__).with_name(record.SCRIPT).read_text(encoding="ascii")
#: What docs/pack.md asks of who reads the outcome.
_PROVEN = """
last=$("$1" --backend cpu --root "$2" | tail -n 1)
case $last in PASSED*) [ "$last" = "$(cat "$3/verdict")" ] && echo proven ;; esac
"""


def proven(pack: Path, board: Path, python: str = sys.executable) -> bool:
    command = ["sh", "-c", _PROVEN, "sh", str(pack / record.SCRIPT), str(board), str(pack)]
    env = {"PATH": os.environ["PATH"], "PYTHON": python, "OMP_NUM_THREADS": "1"}
    return "proven" in subprocess.run(command, env=env, capture_output=True, text=True, check=False).stdout


def test_a_script_cut_after_any_line_runs_nothing(tmp_path: Path) -> None:
    """Python here is a file that leaves a mark and says what a pack says that passed."""
    lines = SCRIPT.splitlines(keepends=True)
    mark, python, script = tmp_path / "mark", tmp_path / "python", tmp_path / record.SCRIPT
    python.write_text(f"#!/bin/sh\n: > '{mark}'\necho PASSED\n")
    (tmp_path / record.BOOTSTRAP).write_bytes(Path(bootstrap.__file__).read_bytes())
    for path in (python, script):
        path.touch()
        path.chmod(0o755)
    codes = {}
    for count in range(len(lines) + 1):
        (tmp_path / record.VERDICT).write_text("PASSED\n")  # of an earlier run
        script.write_text("".join(lines[:count]))
        env = {"PATH": os.environ["PATH"], "PYTHON": str(python)}
        run = subprocess.run(["sh", str(script)], env=env, capture_output=True, text=True, check=False)
        codes[count] = run.returncode
        whole = count == len(lines)
        assert mark.exists() == whole and run.stdout == ("PASSED\n" if whole else ""), (count, run)
        assert (tmp_path / record.VERDICT).exists() != whole, "the whole one takes away what an earlier run said"
    assert [count for count, code in codes.items() if code == 0] == [0, 1, len(lines)], "all others are syntax errors"


def test_a_script_cut_within_a_line_does_not_pass(tmp_path: Path) -> None:
    script = tmp_path / record.SCRIPT
    last = SCRIPT.splitlines()[-2]
    for cut in range(SCRIPT.index(last), len(SCRIPT) - 2, 9):
        script.write_text(SCRIPT[:cut])
        run = subprocess.run(["sh", str(script)], capture_output=True, text=True, check=False)
        assert run.returncode != 0 and not run.stdout, cut


def test_a_bootstrap_that_is_cut_or_missing_is_refused(tmp_path: Path) -> None:
    (tmp_path / record.SCRIPT).write_text(SCRIPT)
    lines = Path(bootstrap.__file__).read_text(encoding="utf-8").splitlines(keepends=True)
    for count in [*range(0, len(lines), 40), len(lines) - 1, None]:
        if count is not None:
            (tmp_path / record.BOOTSTRAP).write_text("".join(lines[:count]))
        else:
            (tmp_path / record.BOOTSTRAP).unlink()
        env = {"PATH": os.environ["PATH"], "PYTHON": "true"}
        command = ["sh", str(tmp_path / record.SCRIPT)]
        run = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert (run.returncode, run.stdout) == (2, "NOT VERIFIED\n"), (count, run)
        assert "bootstrap.py is missing or cut short\n  fix: copy the pack again" in run.stderr


@pytest.mark.slow(beside="packing/test_cut_script.py::test_a_script_cut_after_any_line_runs_nothing")
def test_the_last_line_and_the_verdict_alone_mean_success(pack: Path, board: Path) -> None:
    script, verdict = pack / record.SCRIPT, pack / record.VERDICT
    assert not verdict.exists() and proven(pack, board)
    assert verdict.read_text().startswith("PASSED: 2 of 2 cases, onnxruntime")
    script.write_text(SCRIPT.splitlines(keepends=True)[0])
    assert verdict.exists() and not proven(pack, board), "it ends with 0, and the verdict is the run's before"
    script.write_text(SCRIPT)
    (pack / "cases/cases.json").write_text("[]")
    assert not proven(pack, board) and not verdict.exists()
    assert jetson_root.script(pack, "--help").returncode == 0 and not verdict.exists()
