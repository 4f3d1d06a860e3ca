"""A bundle is old or new whole at every moment: killed at each rename, two writers at once, links, leftovers."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from slow_cases import slow_but

from luvc_export.bundle import folder as bundles
from luvc_export.bundle.folder import Bundle
from luvc_export.core.files import safe_files
from luvc_export.errors import UsageError

#: Replaces the bundle by one whose source is called "new"; is killed before the call of a name and number.
WRITER = """
import dataclasses, os, signal, sys
from pathlib import Path
from luvc_export.bundle import folder as bundles
from luvc_export.core.files import safe_files
target, how, wanted = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
if how == "renames":
    safe_files.exchange = lambda one, other: False
seen = 0
def watched(call):
    def wrapper(*args, **kwargs):
        global seen
        seen += 1
        if seen == wanted:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **kwargs)
    return wrapper
old = bundles.load(target)
for owner, name in ((os, "rename"), (os, "replace"), (os, "fsync"), (os, "chmod"), (os, "unlink"), (os, "mkdir"),
                    (Path, "rename"), (Path, "replace"), (safe_files, "exchange"), (safe_files, "remove")):
    setattr(owner, name, watched(getattr(owner, name)))
with bundles.writing(target, overwrite=True) as folder:
    for name in old.manifest.files:
        safe_files.write_new(folder / name, (target / name).read_bytes())
    source = dataclasses.replace(old.manifest.source, model="new")
    bundles.write_manifest(folder, dataclasses.replace(old.manifest, source=source))
print(seen)
"""


def small(demo_bundle: Bundle, place: Path) -> Path:
    """The demo bundle without what makes it slow to copy: names and hashes are what counts here."""
    place.mkdir()
    files = {}
    for name in demo_bundle.manifest.files:
        (place / name).write_bytes(name.encode())
        files[name] = bundles.record(place / name)
    bundles.write_manifest(place, dataclasses.replace(demo_bundle.manifest, files=files))
    return place


def write(target: Path, how: str, kill_at: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WRITER, str(target), how, str(kill_at)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("how", slow_but(["exchange"], ["exchange", "renames"]))
def test_killed_at_each_step_nothing_is_lost_and_nothing_left(demo_bundle: Bundle, tmp_path: Path, how: str) -> None:
    (tmp_path / "here").mkdir()
    target = small(demo_bundle, tmp_path / "here" / "bundle")
    whole = write(target, how, 0)
    steps = int(whole.stdout)
    assert steps > 20 and bundles.load(target).manifest.source.model == "new"
    last = range(steps - 7, steps + 1)  # where things move; before it only the scratch folder is written
    for step in (1, 5, *last):
        shutil.rmtree(target)
        small(demo_bundle, target)
        ended = write(target, how, step)
        assert ended.returncode == -signal.SIGKILL, ended
        assert bundles.load(target, full=True).manifest.source.model in ("new", demo_bundle.manifest.source.model), step
        safe_files.clean_leftovers(target)
        assert [path.name for path in target.parent.iterdir()] == ["bundle"], step
        assert not [path for path in target.iterdir() if path.name.startswith(".")]


def test_a_writer_that_loses_its_second_rename_puts_the_old_one_back(
    demo_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = small(demo_bundle, tmp_path / "bundle")
    monkeypatch.setattr(safe_files, "exchange", lambda one, other: False)
    rename = Path.rename

    def full(self: Path, other: Path) -> Path:
        if self.suffix == ".part" and other == target:
            raise OSError(28, "No space left on device", str(other))
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="No space"), bundles.writing(target, overwrite=True) as folder:
        (folder / "luvc.json").write_bytes((target / "luvc.json").read_bytes())
    bundles.load(target)
    assert os.listdir(tmp_path) == ["bundle"]  # noqa: PTH208


def test_two_writers_at_once_leave_one_whole_bundle(demo_bundle: Bundle, tmp_path: Path) -> None:
    target = small(demo_bundle, tmp_path / "bundle")
    command = [sys.executable, "-c", WRITER, str(target), "exchange", "0"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    for process in both:
        process.communicate(timeout=120)
    assert 0 in [process.returncode for process in both]
    assert bundles.load(target, full=True).manifest.source.model == "new"
    safe_files.clean_leftovers(target)
    assert os.listdir(tmp_path) == ["bundle"]  # noqa: PTH208


def test_a_link_as_target_stays_and_what_it_leads_to_is_replaced(demo_bundle: Bundle, tmp_path: Path) -> None:
    target = small(demo_bundle, tmp_path / "version-3")
    (tmp_path / "latest").symlink_to(target)
    with bundles.writing(tmp_path / "latest", overwrite=True) as folder:
        (folder / "luvc.json").write_text("new")
    assert (tmp_path / "latest").is_symlink() and (target / "luvc.json").read_text() == "new"


def test_leftovers_of_a_living_process_and_of_others_stay(tmp_path: Path) -> None:
    (tmp_path / ".bundle.part").mkdir()  # not of our naming
    with safe_files.scratch_folder(tmp_path / "bundle") as folder:
        (folder / "x").touch()
        safe_files.clean_leftovers(tmp_path / "bundle")
        assert (folder / "x").exists(), "it is locked: its process lives"
    dead = tmp_path / ".bundle.0123456789abcdef.part"
    dead.mkdir()
    safe_files.clean_leftovers(tmp_path / "bundle")
    assert not dead.exists() and (tmp_path / ".bundle.part").exists()


def test_exchange_is_at_once_or_not_at_all(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    (one / "a").touch()
    other.mkdir()
    if not safe_files.exchange(one, other):
        pytest.skip("this file system cannot exchange names")
    assert (other / "a").exists() and not (one / "a").exists()
    with pytest.raises(OSError, match="No such file"):
        safe_files.exchange(one, tmp_path / "gone")


def test_writing_over_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bundle").write_text("a letter")
    with pytest.raises(UsageError, match="not a bundle"), bundles.writing(tmp_path / "bundle", overwrite=True):
        pass
    assert (tmp_path / "bundle").read_text() == "a letter"
