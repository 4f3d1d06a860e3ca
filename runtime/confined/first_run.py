"""The first run of graphs that were not written here happens in a helper process: what it breaks is the helper's.

A runtime trusts graphs, and one made for it can damage the memory of the process before its output is refused. The
helper opens the plan as this process would and runs it once; it ends before anything is loaded here, so that weights
are never in memory twice. Graphs that ran are remembered (``bundle.graph_trust``), this user's own exports always are.
"""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable
from typing import Any

from luvc_export.bundle import graph_trust
from luvc_export.bundle.folder import Bundle
from luvc_export.errors import BundleError, LuvcError, MachineError
from luvc_export.runtime.confined.helpers import Helpers, TooMuchError

#: Where this is set, every bundle is taken as this user's own.
TRUST = "LUVC_TRUST_BUNDLES"
_TASK = "luvc_export.runtime.engine.first_run_task"
#: The helper's memory is as this process's would be: graphs check it before they load.
_MEMORY = 2**62
#: Seconds on the clock: to begin with, and for each GiB of files, which a disk of 20 MiB/s reads in 51.
_SECONDS, _A_GIB = 300.0, 60.0
_left_out = False
_told = False


def leave_out() -> None:
    """Take every bundle as known: in the helper itself."""
    global _left_out
    _left_out = True


def check(
    bundle: Bundle,
    plan: str | None,
    backend: str,
    threads: int | None = None,
    debug: bool = False,
    arithmetic: str = "auto",
) -> None:
    """Run a plan once in a helper, unless its graphs are known here. Arguments as of ``backends.open_backend``.

    Raises:
        BundleError: The helper was ended by the graphs, or they take too long.
        LuvcError: What opening or running them raised there.
        MachineError: The helper ran out of memory, or none can be started.
    """
    request = {"backend": backend, "threads": threads, "debug": debug, "arithmetic": arithmetic}
    check_with(_TASK, request, bundle, plan, backend.partition(":")[0], debug)


def check_with(
    task: str, request: dict[str, Any], bundle: Bundle, plan: str | None, runner: str, debug: bool = False
) -> None:
    """``check`` for what opens graphs in another way than ``backends`` do.

    Args:
        task: Module of a helper's task (``helpers.Helpers``) that ends in ``answer``.
        request: What it is asked, beside ``folder`` and ``plan``.
        bundle: A checked bundle.
        plan: Name of a plan; None for the default.
        runner: What runs the graphs, and all that decides their inputs beside the bundle.
        debug: The debug decoder is meant.

    Raises:
        LuvcError: See ``check``.
    """
    if _left_out or os.environ.get(TRUST) or bundle.manifest.weights.mode == "none":
        return
    if any(graph_trust.known(bundle, plan, one, debug) for one in (graph_trust.OWN, runner)):
        return
    size = sum(known.bytes for known in bundle.manifest.files.values()) / 2**30
    clock = _SECONDS + _A_GIB * size
    helpers = Helpers(task, _MEMORY, seconds=clock * (os.cpu_count() or 1), most=1, clock=clock)
    try:
        reply, _ = helpers.call({"folder": str(bundle.folder.absolute()), "plan": plan, **request})
    except TooMuchError as error:
        raise _ended(bundle, plan, runner, error) from error
    finally:
        helpers.close()
    if "error" in reply:
        raise BundleError.from_json(reply["error"])
    if "unforeseen" in reply:
        raise BundleError(
            "the first run of this bundle, in a helper process, did not come to its end",
            where=f"{bundle.folder}: plan {plan or bundle.manifest.default_plan}, {runner}",
            got=reply["unforeseen"],
            fix="do not use this bundle; export it again from the checkpoint",
        )
    if not graph_trust.remember(bundle, plan, runner, debug):
        _say_forgotten()


def answer(run: Callable[[], None]) -> tuple[dict[str, Any], bytes]:
    """What a task replies: nothing, or what opening and running a plan raised."""
    leave_out()  # this is it
    try:
        run()
    except LuvcError as error:
        return {"error": error.to_json()}, b""
    except MemoryError:
        raise
    except Exception as error:
        return {"unforeseen": f"{type(error).__name__}: {str(error)[:300]}"}, b""
    return {}, b""


def _say_forgotten() -> None:
    """Once in a process: the next start runs the helper again."""
    global _told
    if _told:
        return
    _told = True
    warnings.warn(
        f"the first run in a helper process is remembered until this process ends, and no longer: "
        f"{graph_trust.place()} cannot be written, or is not yours alone. Let XDG_CACHE_HOME name a folder that you "
        f"can write and that stays, or set {TRUST}=1 where every bundle is your own",
        RuntimeWarning,
        stacklevel=2,
    )


def _ended(bundle: Bundle, plan: str | None, runner: str, error: TooMuchError) -> LuvcError:
    where = f"{bundle.folder}: plan {plan or bundle.manifest.default_plan}, {runner}"
    if error.code == -getattr(signal, "SIGKILL", 9) and not error.late:
        return MachineError(
            "the first run of this bundle, in a helper process, was killed: for want of memory, if not by you",
            where=where,
            fix="use a machine with more memory; see docs/security.md",
        )
    names = {-one.value: one.name for one in signal.Signals}
    got = str(error) if error.late or error.code is None else names.get(error.code, f"exit code {error.code}")
    return BundleError(
        "the first run of this bundle, in a helper process, ended that process: its graphs are not run here",
        where=where,
        got=got,
        expected="an answer",
        fix="do not use this bundle; export it again from the checkpoint",
    )
