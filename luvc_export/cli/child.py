"""A step of a trial in a process of its own that does not outlive it: ``python -m luvc_export.cli.child PID VERB ...``.

Beside the verbs there are two programs: ``engines`` (``trial.engine_measure``) and ``gpu-check`` (gpu-check.sh).
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys

_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG, see prctl(2)


def main() -> None:
    """Ask Linux to end this process with its parent, then do what is asked."""
    end_with(int(sys.argv.pop(1)))
    if sys.argv[1] == "engines":
        from luvc_export.trial.engine_measure import main as measure

        sys.exit(measure(sys.argv[2:]))
    if sys.argv[1] == "gpu-check":
        script, out = sys.argv[2:]
        done = subprocess.run(
            ["bash", script], stdout=sys.stderr, env={**os.environ, "OUT": out, "PYTHON": sys.executable}
        )
        print(json.dumps({"exit_code": done.returncode}))
        return
    from luvc_export.cli import main as verbs

    verbs()


def end_with(parent: int) -> None:
    """End when process ``parent`` does, where the system can say so (``prctl``, Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() != parent:  # it went before we asked
            sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    main()
