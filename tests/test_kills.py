"""A share of ``kills.py``: each rename of the verbs that take least, some moments by chance, and the sabotage."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys

import kills as table
import pytest

from luvc_export.bundle.folder import Bundle
from luvc_export.cli import app

#: Scripts and their words, all in one process that imports once what is slow: every kill is of a fork of it.
CALLS = {
    "kills": ("kills", "--renames", "--random", "6", "--verbs", "export,plan,inspect"),
    "careless kills": ("kills", "--renames", "--verbs", "plan", "--careless"),
    "links": ("links", "--verbs", "plan,inspect"),
    "careless links": ("links", "--verbs", "plan", "--careless"),
}
ALL = """
import contextlib, importlib, io, json, sys
found = {}
for name, (script, *words) in json.loads(sys.argv[1]).items():
    sys.argv = [script, *words]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = importlib.import_module(script).main()
    found[name] = code, said.getvalue()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def outcomes(demo_bundle: Bundle) -> dict[str, tuple[int, str]]:
    """Exit code and output of each of ``CALLS``."""
    bundle, environment = ("--bundle", str(demo_bundle.folder)), os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    words = json.dumps({name: (*call, *bundle) for name, call in CALLS.items()})
    command = [sys.executable, "-W", "ignore", "-c", ALL, words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    by_name: dict[str, tuple[int, str]] = json.loads(done.stdout.splitlines()[-1])
    return by_name


@pytest.mark.slow(beside="bundle/test_replacing.py::test_killed_at_each_step_nothing_is_lost_and_nothing_left")
def test_killed_at_each_rename_or_by_chance_nothing_is_lost_and_nothing_left(
    outcomes: dict[str, tuple[int, str]],
) -> None:
    code, out = outcomes["kills"]
    assert code == 0, out
    lines = [line for line in out.splitlines() if "kills" in line]
    assert len(lines) == 6 and all(" 0 faults" in line for line in lines)
    assert all(int(line.split()[1]) >= 2 for line in lines if "by renames" in line), "before and after each at least"


@pytest.mark.slow(beside="test_writing.py::test_a_call_past_it_is_seen")
def test_a_file_written_in_place_is_seen(outcomes: dict[str, tuple[int, str]]) -> None:
    """Sabotage: half a plan and half a page lie there after a kill."""
    code, out = outcomes["careless kills"]
    assert code == 1 and "JSONDecodeError" in out, out


@pytest.mark.slow(beside="bundle/test_planted.py::test_a_link_at_the_name_that_is_written_is_not_followed")
def test_links_at_the_names_that_are_written_are_not_followed_and_it_is_seen_if_one_is(
    outcomes: dict[str, tuple[int, str]],
) -> None:
    code, out = outcomes["links"]
    assert code == 0 and out.count("1 names, 0 faults") == 2, out
    code, out = outcomes["careless links"]
    assert code == 1 and "wrote through the link at out" in out, out


def test_every_verb_that_writes_is_in_the_table() -> None:
    """What has an option for what to write, but for what writes by ``whole`` alone and the demo, which exports."""
    for command in app.registered_commands:
        assert command.callback is not None
        writes = {"output", "report", "html"} & set(inspect.signature(command.callback).parameters)
        assert not writes or command.name in {*table.VERBS, "bench", "demo", "embed", "new-family", "run"}, command.name
