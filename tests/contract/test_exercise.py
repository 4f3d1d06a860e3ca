"""docs/engine.md as a reader follows it: a capability in four files reaches session, batch and server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
[DIFF] = re.findall(r"```diff\n(.*?)```", (ROOT / "docs" / "engine.md").read_text(encoding="utf-8"), re.DOTALL)
FILES = re.findall(r"^\+\+\+ (\S+)$", DIFF, re.M)
APPLY = ["git", "apply", "-p0"]
#: Run in a copy of the package: the token that would come third never comes from the third place on.
TRIED = """
import sys
from pathlib import Path

import cells
from calling import user
from running import serving

from luvc_export.bundle.folder import load
from luvc_export.runtime.session import Session
from luvc_export.serve.models import Models, ServedModel

bundle, options = load(sys.argv[1]), {"max_new_tokens": 6, "min_new_tokens": 6}
for backend in ("cpu", "openvino"):
    session = Session(bundle, backend, "thirds", 1, arithmetic="auto" if backend == "cpu" else "fp32")
    plain = session.generate(None, "Hello", **options).token_ids
    options["forbid_after"] = (plain[2], 2)
    held = session.generate(None, "Hello", **options).token_ids
    assert held[:2] == plain[:2] and plain[2] not in held[2:], (plain, held)
    assert [one.token_ids for one in session.generate_batch([{"prompt": "Hello"}] * 2, **options)] == [held] * 2
    with serving(Models([ServedModel("demo", session)])) as (_, client):
        asked = {"messages": user("Hello"), "max_tokens": 6, "logprobs": True}
        asked["forbid_after"] = options.pop("forbid_after")
        content = client.chat(model="demo", **asked).json()["choices"][0]["logprobs"]["content"]
    forbidden = session.encoder.tokenizer.decode([plain[2]])
    assert content and forbidden not in [one["token"] for one in content[2:]]
"""


def test_the_exercise_applies_to_the_files_of_today(tmp_path: Path) -> None:
    assert 1 < len(FILES) <= 6
    for file in FILES:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    for diff, fails in (
        (DIFF, False),
        (DIFF.replace("\n         min_new_tokens", "\n         most_new_tokens", 1), True),
    ):
        ran = subprocess.run([*APPLY, "--check", "-"], input=diff, text=True, cwd=tmp_path, capture_output=True)
        assert bool(ran.returncode) is fails, ran.stderr


@pytest.mark.slow(beside="contract/test_exercise.py::test_the_exercise_applies_to_the_files_of_today")
def test_the_exercise_reaches_session_batch_and_server(tmp_path: Path, demo_bundle: object) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "luvc_export", tmp_path / "luvc_export", ignore=ignored)
    subprocess.run([*APPLY, "-"], input=DIFF, text=True, cwd=tmp_path, check=True)
    tests = ROOT / "tests"
    paths = (tmp_path, tests, tests / "contract", tests / "serve", ROOT / "benchmarks" / "serving")
    command = [sys.executable, "-c", TRIED, str(demo_bundle.folder)]  # type: ignore[attr-defined]
    path = os.pathsep.join(map(str, paths))
    ran = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
