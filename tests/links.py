"""Links planted at every name that a verb writes: what they point at must stay as it is.

    python tests/links.py [--verbs export,build]

Each verb of ``kills.py`` runs once and is watched: every path it opens for writing, makes or renames to, but for names
with random parts. Then it runs again for each of those names, with a link there to a file (or, where a folder lay, to a
folder) of somebody else's. ``--careless`` writes files under their own names, which must be found.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import kills
from kill_verbs import VERBS

from luvc_export.core.files import safe_files

SECRET = "export PATH=$HOME/bin:$PATH\n"
#: Events of ``sys.addaudithook`` that make or change a name, and which of their arguments is it.
_EVENTS = {"os.mkdir": 0, "os.rename": 1, "os.link": 1, "os.symlink": 1, "os.truncate": 0}


def watching(work: Path, log: Path) -> Callable[[], None]:
    """What makes a process write down every name below ``work`` that it writes, relative to it, a line each."""

    def begin() -> None:
        note, exchange = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), safe_files.exchange

        def wrote(path: object) -> None:
            if isinstance(path, str | os.PathLike) and (name := Path.cwd() / Path(path)).is_relative_to(work):
                os.write(note, f"{name.relative_to(work)}\n".encode())

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            if event in _EVENTS:
                wrote(arguments[_EVENTS[event]])
            elif event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
                wrote(arguments[0])

        def exchanged(one: Path, other: Path) -> bool:
            wrote(other)
            return exchange(one, other)

        sys.addaudithook(hook)
        safe_files.exchange = exchanged

    return begin


def names(place: kills.Place, careless: bool = False) -> tuple[int, list[str]]:
    """Run the verb: its wait status, and the names it wrote that can be known before it runs."""
    log = place.folder / "written"
    status = place.run(None, careless, watching(place.out.parent, log))
    written = dict.fromkeys(log.read_text().splitlines())
    return status, [name for name in written if name != "." and not any(map(safe_files.is_scratch, Path(name).parts))]


def _files(home: Path) -> list[Path]:
    return [home / ".bashrc", home / "projects" / "thesis.txt"]


def plant(place: kills.Place, name: str, home: Path) -> None:
    """A link at ``name``: to a folder of ``home`` where a folder is, to a file of it otherwise."""
    path = place.out.parent / name
    folder = path.is_dir()
    if folder:
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(home / "projects" if folder else home / ".bashrc")


def at_every_name(name: str, root: Path, bundle: Path, careless: bool = False) -> tuple[int, list[str]]:
    """Run a verb once for each name that it writes: how many there were, and what was changed through the link."""
    verb, faults = VERBS[name], list[str]()
    status, written = names(kills.Place(verb, root / name, bundle), careless)
    if status or not written:
        raise SystemExit((root / name / "log").read_text() or f"{name} wrote nothing")
    for number, planted in enumerate(written):
        place = kills.Place(verb, root / f"{name} {number}", bundle)
        home = root / f"home {name} {number}"
        (home / "projects").mkdir(parents=True)
        for file in _files(home):
            file.write_text(SECRET)
        plant(place, planted, home)
        status = place.run(None, careless)
        there = [path for path in home.rglob("*") if path.is_file()]
        if sorted(there) != sorted(_files(home)) or any(path.read_text() != SECRET for path in there):
            faults.append(f"{name}: wrote through the link at {planted}")
        if os.waitstatus_to_exitcode(status) not in (0, 2):
            faults.append(f"{name}: exit code {os.waitstatus_to_exitcode(status)}, link at {planted}")
            print((place.folder / "log").read_text()[-2000:])
        shutil.rmtree(place.folder)
    return len(written), faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verbs", default=",".join(VERBS))
    parser.add_argument("--bundle", type=Path, help="one to start from; default: exported here")
    parser.add_argument("--careless", action="store_true")
    args, faults = parser.parse_args(), list[str]()
    kills.import_what_is_slow()
    with tempfile.TemporaryDirectory(prefix="luvc-links-", ignore_cleanup_errors=True) as folder:
        root = Path(folder)
        os.environ["XDG_CACHE_HOME"] = str(root / "cache")
        bundle = args.bundle or kills.first(root)
        for name in args.verbs.split(","):
            count, problems = at_every_name(name, root, bundle, args.careless)
            faults += problems
            print(f"{name}: {count} names, {len(problems)} faults", *problems, sep="\n  ", flush=True)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
