"""One walk, one opener, one record: every verb lists, opens, copies and writes through ``core/files``."""

from __future__ import annotations

import ast
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
from kill_verbs import VERBS

from luvc_export.cli import app

PACKAGE = Path(__file__).parents[1] / "luvc_export"
#: Calls that list, make, change or remove names, however the module is called that they are taken from.
_CALLS = """
write_text write_bytes copyfile copy2 copytree copymode rmtree rglob scandir iterdir mkdir makedirs unlink symlink_to
hardlink_to link rename touch rmdir truncate tofile
"""
CALLS = frozenset(_CALLS.split())
#: Beside ``core/files`` itself: file -> calls it makes, and why nothing of a stranger's is behind them.
ALLOWED = {
    "packing/bootstrap.py": {"walk", "write_text", "rmtree", "rename"},  # runs in a pack, before the package is there
    "packing/programs.py": {"walk"},  # this package's own sources, through its own links
    "bundle/hashing.py": {"link", "unlink"},  # the file is open, checked and no link; its own cache folder
    "engines/codes.py": {"symlink_to"},  # in a scratch folder of its own, to files of the graph's record
    "engines/install.py": {"rename"},  # out of a scratch folder, under a name that nothing has
    "export/surgeon/fused/plain_graph.py": {"save"},  # two files that the user names, refused where something is
    "calibration/quantise/weight_packing.py": {"open"},  # a file it made with O_EXCL
    "calibration/quantise/modelopt/backend.py": {"open"},  # an entry of a zip file in a temporary folder
    "runtime/confined/frames.py": {"open"},  # /dev/null
    "runtime/media/camera.py": {"open"},  # a pipe that the user names, to be read
    "demo/__main__.py": {"mkdir", "write_text"},  # into a folder that it made, refused where something is
}
#: Path options that only name what is read.
_READ = """
bundle scorer lora lora_dir timing_cache dynamic_plugins cases wheels image video json_schema api_key_file media_dir
source modelopt_python chat_template pages
"""
READ = frozenset(_READ.split())
#: Path options that name what is written, by verbs that are not run at every planted link.
NOT_RUN = {
    ("demo", "output"): "an export, pictures by whole() and kept.png by write_whole()",
    ("plan", "save"): "write_whole() alone",
    ("run", "show_kept"): "write_whole() alone",
    ("run", "output"): "whole() alone",
    ("embed", "output"): "whole() alone",
    ("new-family", "output"): "write_whole() alone",
    ("calibrate", "ranges"): "whole() alone",
    ("bench", "output"): "write_whole() alone",
}


def calls(source: str) -> Iterator[str]:
    """Calls in ``source`` that go past ``core/files``."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = node.func.value if isinstance(node.func, ast.Attribute) else None
        module = owner.id if isinstance(owner, ast.Name) else ""
        arguments = [*node.args, *(each.value for each in node.keywords)]
        modes = {each.value for each in arguments if isinstance(each, ast.Constant) and isinstance(each.value, str)}
        writes = any(set(mode) <= set("rwxabt+") and set(mode) & set("wxa+") for mode in modes)
        passed = isinstance(owner, ast.Name) and module in ("safe_files", "folders", "hashing")
        if (name in CALLS and not passed and (owner is not None)) or (name == "open" and (writes or module == "os")):
            yield name
        if (module, name) in (("os", "walk"), ("shutil", "copy"), ("shutil", "move"), ("onnx", "save")):
            yield name


def test_nothing_is_listed_or_written_but_through_the_one_opener() -> None:
    callers: dict[str, set[str]] = {}
    for path in sorted(Path(name) for name in _sources()):
        relative = path.relative_to(PACKAGE).as_posix()
        if not relative.startswith("core/files/") and (called := {*calls(path.read_text(encoding="utf-8"))}):
            callers[relative] = called
    assert callers == ALLOWED, "use luvc_export.core.files, or say here why that is not needed"


def _sources() -> Iterator[str]:
    import os

    for folder, _, files in os.walk(PACKAGE, followlinks=True):
        yield from (f"{folder}/{name}" for name in files if name.endswith(".py"))


@pytest.mark.parametrize(
    "line",
    ["path.write_text('')", "path.open('wb')", "open(path, 'a')", "path.open(mode='r+b')", "os.open(path, 1)",
     "shutil.copytree(a, b)", "shutil.copy(a, b)", "os.walk(a)", "[*folder.rglob('*')]", "folder.mkdir()",
     "os.link(a, b)", "onnx.save(model, path)"],
)  # fmt: skip
def test_a_call_past_it_is_seen(line: str) -> None:
    """Sabotage."""
    assert [*calls(line)]


def test_reading_and_the_opener_itself_are_no_fault() -> None:
    assert not [*calls("path.open('rb'), path.open(), hashing.link(a, b), safe_files.write_new(a, b), text.rename")]


def test_every_path_a_verb_takes_is_read_or_its_writing_is_tried_with_links() -> None:
    """A new verb that writes, or a new option of an old one, is refused here until it is in ``kill_verbs.VERBS``."""
    for command in app.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__
        for option, kind in typing.get_type_hints(command.callback, include_extras=True).items():
            if "pathlib.Path" not in str(kind) or option in READ:
                continue
            tried = name in VERBS and "OUT" in VERBS[name].words
            assert (name, option) in NOT_RUN or tried, f"{name} writes {option}"
