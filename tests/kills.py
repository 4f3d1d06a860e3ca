"""Kill -9 in the middle of every verb that writes: what was there, or what was to be there, and nothing else.

    python tests/kills.py --random 200 --seed 1     # moments by chance, spread over the verbs
    python tests/kills.py --renames                 # before and after each rename of each verb

Each attempt is a process forked from this one, which has imported what is slow. After a kill everything the verb writes
must be the old or the new one, whole; after the next run that ends by itself, no scratch name may be left. Graphs that
take long to trace are copied, and answers that take long are made up, unless ``--whole`` is given.
``--careless`` writes files under their own names, which must be found.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

from kill_verbs import VERBS, Verb, whole_bundle

from luvc_export.bundle.folder import MANIFEST
from luvc_export.core.files import safe_files
from luvc_export.demo import CHECKPOINT
from luvc_export.errors import LuvcError


class Place:
    """A verb's folder: OUT in it, scratch files beside it, and temporary folders of its own."""

    def __init__(self, verb: Verb, folder: Path, bundle: Path, quick: bool = True) -> None:
        self.verb, self.folder, self.bundle, self.quick = verb, folder, bundle, quick
        self.out, self.temporary = folder / "work" / "out", folder / "tmp"
        self.temporary.mkdir(parents=True)
        self.out.parent.mkdir()
        self.cases = folder / "cases.jsonl"
        self.cases.write_text('{"prompt": "what?"}\n' * 6)
        if verb.over:
            shutil.copytree(bundle, self.out)

    def run(
        self, kill_at: int | float | None, careless: bool = False, before: Callable[[], None] = lambda: None
    ) -> int:
        """Run the verb: its wait status. An int kills at a rename (two for each, before and after), a float later.

        ``before`` is called in the process of the verb, before it begins.
        """
        if self.verb.words[0] == "make-random" and self.out.is_dir() and not self.out.is_symlink():
            shutil.rmtree(self.out)
        process = os.fork()
        if process == 0:
            self._work(kill_at, careless, before)
        if isinstance(kill_at, float):
            time.sleep(kill_at)
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        return os.waitpid(process, 0)[1]

    def _work(self, kill_at: int | float | None, careless: bool, before: Callable[[], None]) -> None:
        for kept in list(weakref.finalize._registry):  # type: ignore[attr-defined]
            kept.detach()  # the parent's temporary folders are not this process's to remove
        os.environ["TMPDIR"] = tempfile.tempdir = str(self.temporary)
        log = os.open(self.folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number in (1, 2):
            os.dup2(log, number)
        if self.quick:
            self.verb.patches(self.bundle)
        if careless:
            be_careless()
        if isinstance(kill_at, int):
            kill_at_rename(kill_at)
        words = {"BUNDLE": f"{self.bundle}", "OUT": f"{self.out}", "CASES": f"{self.cases}"}
        before()
        sys.argv = ["luvc-export", *(words.get(word, word) for word in self.verb.words)]
        code: object = 70
        try:
            from luvc_export.cli import main

            main()
            code = 0
        except SystemExit as end:
            code = end.code
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            atexit._run_exitfuncs()
            sys.stdout.flush()
            os._exit(code if isinstance(code, int) else 0)

    def problem(self) -> str | None:
        """What is wrong with what lies at OUT now."""
        if not self.out.exists():
            return "the old one is gone" if self.verb.over and not recovered(self.out) else None
        try:
            self.verb.check(self.out)
        except (LuvcError, AssertionError, ValueError, OSError) as error:
            return f"{type(error).__name__}: {str(error).splitlines()[0]}"
        return None

    def left(self) -> list[str]:
        """Scratch names, and what lies in the temporary folder."""
        beside = [path.name for path in self.out.parent.rglob("*") if safe_files.is_scratch(path.name)]
        return beside + [f"tmp/{path.name}" for path in self.temporary.iterdir() if "luvc" in path.name]


def recovered(out: Path) -> bool:
    """The next load puts back what two renames had moved aside."""
    return safe_files.recover(out) and (out / MANIFEST).is_file()


def kill_at_rename(wanted: int) -> None:
    """End this process at the ``wanted``-th moment before or after a rename."""
    seen = 0

    def moment() -> None:
        nonlocal seen
        seen += 1
        if seen == wanted:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(call: Callable[..., object]) -> Callable[..., object]:
        def wrapper(*arguments: object, **named: object) -> object:
            moment()
            result = call(*arguments, **named)
            moment()
            return result

        return wrapper

    for owner, name in ((os, "rename"), (os, "replace"), (safe_files, "exchange")):
        setattr(owner, name, watched(getattr(owner, name)))


def be_careless() -> None:
    """Sabotage: write files where they are to be, piece by piece."""

    @contextlib.contextmanager
    def whole(path: Path) -> Iterator[object]:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w+b") as file:
            yield file

    def write_whole(path: Path, content: str | bytes) -> None:
        data = content.encode() if isinstance(content, str) else content
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
            file.flush()
            os.rename(path, path)  # noqa: PTH104
            file.write(data[len(data) // 2 :])

    safe_files.whole, safe_files.write_whole = whole, write_whole  # type: ignore[assignment]


def at_renames(name: str, place: Place, careless: bool = False) -> tuple[int, list[str]]:
    """Kills at each rename of a verb: how many there were, and what went wrong."""
    faults, number = [], 1
    while True:
        status = place.run(number, careless)
        if problem := place.problem():
            faults.append(f"{name}, killed at moment {number}: {problem}")
        if not os.WIFSIGNALED(status):
            break
        number += 1
    return number - 1, faults + _ended(name, place, status)


def at_random(name: str, place: Place, count: int, dice: random.Random) -> tuple[int, list[str]]:
    """``count`` kills of a verb at moments by chance: how many hit, and what went wrong."""
    begin = time.monotonic()
    faults = _ended(name, place, place.run(None))
    spent, hits = time.monotonic() - begin, 0
    for number in range(count):
        moment = dice.uniform(0, spent)
        hits += os.WIFSIGNALED(place.run(moment))
        if problem := place.problem():
            faults.append(f"{name}, kill {number} after {moment:.3f} s: {problem}")
    return hits, faults + _ended(name, place, place.run(None))


def _ended(name: str, place: Place, status: int) -> list[str]:
    """After a run that ended by itself: it worked, and nothing is left."""
    faults = [f"{name}: exit code {os.WEXITSTATUS(status)}, see {place.folder / 'log'}"] if status else []
    if not place.out.exists():
        faults.append(f"{name}: wrote nothing")
    return faults + [f"{name}: left {one}" for one in place.left()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", type=int, default=0)
    parser.add_argument("--renames", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbs", default=",".join(VERBS))
    parser.add_argument("--bundle", type=Path, help="one to start from; default: exported here")
    parser.add_argument("--careless", action="store_true")
    parser.add_argument("--whole", action="store_true", help="trace and measure too, which takes long")
    args, names, faults = parser.parse_args(), [], list[str]()
    names = args.verbs.split(",")
    import_what_is_slow()
    with tempfile.TemporaryDirectory(prefix="luvc-kills-", ignore_cleanup_errors=True) as folder:
        root = Path(folder)
        os.environ["XDG_CACHE_HOME"] = str(root / "cache")
        bundle = args.bundle or first(root)
        dice = random.Random(args.seed)
        for index, name in enumerate(names):
            place = Place(VERBS[name], root / name, bundle, not args.whole)
            begin = time.monotonic()
            if args.renames:
                count, problems = at_renames(name, place, args.careless)
                faults += problems
                report(name, "renames", count, problems, place, begin)
            if args.random:
                share = args.random // len(names) + (index < args.random % len(names))
                count, problems = at_random(name, place, share, dice)
                faults += problems
                report(name, "chance", count, problems, place, begin)
    return 1 if faults else 0


def report(name: str, how: str, count: int, problems: list[str], place: Place, begin: float) -> None:
    """Print what came of a verb."""
    print(f"{name}: {count} kills by {how}, {len(problems)} faults, {time.monotonic() - begin:.0f} s", flush=True)
    print(*problems, sep="\n", end="\n" if problems else "", flush=True)
    if problems:
        print((place.folder / "log").read_text()[-2000:])


def first(root: Path) -> Path:
    place = Place(VERBS["inspect"], root / "first", root, quick=False)
    place.verb = Verb(tuple(word for word in VERBS["export"].words if word != "--overwrite"), whole_bundle)
    if place.run(None):
        raise SystemExit((place.folder / "log").read_text())
    return place.out


def import_what_is_slow() -> None:
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
    import torch  # noqa: F401

    import luvc_export.calibration.ablation
    import luvc_export.cli
    import luvc_export.export.bundling  # noqa: F401
    from luvc_export.export.checkpoint import open_checkpoint

    open_checkpoint(str(CHECKPOINT))


if __name__ == "__main__":
    sys.exit(main())
