"""A step of a trial in a process of its own that does not outlive it: ``python -m luvc_export.cli.child PID VERB ...``.

Beside the verbs there are two programs: ``engines`` (``trial.engine_measure``) and ``gpu-check`` (gpu-check.sh).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from luvc_export.signals import end_with


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


if __name__ == "__main__":
    main()
