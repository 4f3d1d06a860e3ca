"""A share of ``kills.py``: each rename of the verbs that take least, some moments by chance, and the sabotage."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import kills as table

from luvc_export.bundle.folder import Bundle
from luvc_export.cli import app

SCRIPT = Path(__file__).with_name("kills.py")


def kills(bundle: Bundle, *words: object, script: Path = SCRIPT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", str(script), "--bundle", str(bundle.folder), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)


def test_killed_at_each_rename_or_by_chance_nothing_is_lost_and_nothing_left(demo_bundle: Bundle) -> None:
    found = kills(demo_bundle, "--renames", "--random", 6, "--verbs", "export,plan,inspect")
    assert found.returncode == 0, found.stdout + found.stderr
    said = [line for line in found.stdout.splitlines() if "kills" in line]
    assert len(said) == 6 and all(" 0 faults" in line for line in said)
    assert all(int(line.split()[1]) >= 2 for line in said if "by renames" in line), "before and after each at least"


def test_a_file_written_in_place_is_seen(demo_bundle: Bundle) -> None:
    """Sabotage: half a plan and half a page lie there after a kill."""
    found = kills(demo_bundle, "--renames", "--verbs", "plan", "--careless")
    assert found.returncode == 1 and "JSONDecodeError" in found.stdout, found.stdout + found.stderr


def test_links_at_the_names_that_are_written_are_not_followed_and_it_is_seen_if_one_is(demo_bundle: Bundle) -> None:
    links = SCRIPT.with_name("links.py")
    found = kills(demo_bundle, "--verbs", "plan,inspect", script=links)
    assert found.returncode == 0 and found.stdout.count("1 names, 0 faults") == 2, found.stdout + found.stderr
    found = kills(demo_bundle, "--verbs", "plan", "--careless", script=links)
    assert found.returncode == 1 and "wrote through the link at out" in found.stdout, found.stdout + found.stderr


def test_every_verb_that_writes_is_in_the_table() -> None:
    """What has an option for what to write, but for bench's sweep and the demo, which write as the others do."""
    for command in app.registered_commands:
        assert command.callback is not None
        writes = {"output", "report", "html"} & set(inspect.signature(command.callback).parameters)
        assert not writes or command.name in {*table.VERBS, "bench", "demo"}, command.name
