"""Serve the bundled model and let each client's environment run its checks: ``clients.sh`` makes the environments."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from calling import data_uri
from soak import serving

from luvc_export import export_bundle, make_plan
from luvc_export.demo import CHECKPOINT, IMAGE_SIZE
from luvc_export.demo.questions import cases

OFFICIAL = Path(__file__).resolve().parent / "official"
#: Environment and script of each client.
SCRIPTS = {
    "openai": ("openai", "openai_python.py"),
    "openai's own tests": ("openai", "openai_standard.py"),
    "openai's types by schemathesis": ("openai", "openai_types.py"),
    "langchain": ("openai", "langchain_chat.py"),
    "langchain's standard tests": ("openai", "langchain_standard.py"),
    "litellm": ("litellm", "litellm_library.py"),
    "tools by openai": ("openai", "tools/tools_openai.py"),
    "tools by langchain": ("openai", "tools/tools_langchain.py"),
    "tools by litellm": ("litellm", "tools/tools_litellm.py"),
    "tools by instructor": ("litellm", "tools/tools_instructor.py"),
    "tools by pydantic-ai": ("openai", "tools/tools_pydantic_ai.py"),
    "tools by openai-agents": ("openai", "tools/tools_agents.py"),
    "tools by llama-index": ("litellm", "tools/tools_llamaindex.py"),
    "tools by dspy": ("litellm", "tools/tools_dspy.py"),
    "openai for node": ("node", "openai_node.mjs"),
}
#: Where scripts find what they share.
SHARED = {"PYTHONPATH": str(OFFICIAL)}
#: What would have a client reach out: prices of models, traces.
NOTHING = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LANGCHAIN_TRACING_V2": "false", "DO_NOT_TRACK": "1"}
#: Seconds a client may take.
PATIENCE = 300


def bundle(folder: Path) -> Path:
    """The bundle of ``$LUVC_BUNDLE``, or one exported to ``folder``."""
    if place := os.environ.get("LUVC_BUNDLE"):
        return Path(place)
    plan = make_plan(str(CHECKPOINT), "even", image_size=IMAGE_SIZE)
    export_bundle(str(CHECKPOINT), folder / "demo", {"even": plan}, image_size=IMAGE_SIZE, text_capacity=1024)
    return folder / "demo"


def command(environment: Path, script: str) -> list[str] | None:
    """What runs a script, in an environment; None where that is not there."""
    if script.endswith(".mjs"):
        copy = environment / script  # modules are looked for beside a script
        if not (environment / "node_modules").is_dir():
            return None
        shutil.copyfile(OFFICIAL / script, copy)
        return ["node", str(copy)]
    python = environment / "bin" / "python"
    return [str(python), str(OFFICIAL / script)] if python.is_file() else None


def main() -> None:
    """Run all checks; exit code 1 if one fails."""
    environments, failed, absent = Path(sys.argv[1]), [], []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        client = stack.enter_context(serving(f"{bundle(folder)}#even", "cpu", 1))
        case = next(cases("heldout", 1, 0, ("where_is",)))
        facts = {
            "url": f"http://127.0.0.1:{client.port}/v1",
            "model": client.call("GET", "/v1/models").json()["data"][0]["id"],
            "picture": data_uri(case.images[0]),
            "question": case.prompt,
            "answer": case.answer,
        }
        env = {**os.environ, **SHARED, **NOTHING}
        for name, (environment, script) in SCRIPTS.items():
            words = command(environments / environment, script)
            if words is None:
                absent.append(name)
                continue
            begun = time.monotonic()
            done = subprocess.run(words, input=json.dumps(facts), text=True, check=False, env=env, timeout=PATIENCE)
            failed += [name] if done.returncode else []
            print(f"{name}: {'FAILED' if done.returncode else 'ok'}, {time.monotonic() - begun:.1f} s", flush=True)
    if absent:
        print("not installed, not tried: " + ", ".join(absent))
    print("failed: " + ", ".join(failed) if failed else f"{len(SCRIPTS) - len(absent)} clients work")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
