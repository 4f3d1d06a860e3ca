"""Serve the bundled model and let each client's environment run its checks: ``clients.sh`` makes the environments."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from calling import data_uri
from soak import serving

from luvc_export import export_bundle, make_plan
from luvc_export.demo import CHECKPOINT, IMAGE_SIZE
from luvc_export.demo.questions import cases

HERE = Path(__file__).resolve().parent


def bundle(folder: Path) -> Path:
    """The bundle of ``$LUVC_BUNDLE``, or one exported to ``folder``."""
    if given := os.environ.get("LUVC_BUNDLE"):
        return Path(given)
    plan = make_plan(str(CHECKPOINT), "even", image_size=IMAGE_SIZE)
    export_bundle(str(CHECKPOINT), folder / "demo", {"even": plan}, image_size=IMAGE_SIZE, text_capacity=256)
    return folder / "demo"


def main() -> None:
    """Run all checks; exit code 1 if one fails."""
    environments, failed = Path(sys.argv[1]), []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        client = stack.enter_context(serving(f"{bundle(folder)}#even", "cpu", 1))
        case = next(cases("heldout", 1, 0, ("where_is",)))
        told = {
            "url": f"http://127.0.0.1:{client.port}/v1",
            "model": client.call("GET", "/v1/models").json()["data"][0]["id"],
            "picture": data_uri(case.images[0]),
            "question": case.prompt,
            "answer": case.answer,
        }
        for environment, names in (("openai", ("openai", "langchain")), ("litellm", ("litellm",))):
            python = environments / environment / "bin" / "python"
            for name in names:
                command = [str(python), str(HERE / "clients_check.py"), name]
                done = subprocess.run(command, input=json.dumps(told), text=True, check=False)
                failed += [name] if done.returncode else []
    print("failed: " + ", ".join(failed) if failed else "all clients work")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
