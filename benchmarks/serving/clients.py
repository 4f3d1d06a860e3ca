"""Serve the bundled model and let each client's environment run its checks: ``clients.sh`` makes the environments.

``clients.py ENVIRONMENTS [--only NAME ...] [--page docs/serving.md]``: some alone; all, whole, and the page's tables
are written.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from calling import Client, data_uri
from soak import serving

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / folder) for folder in ("tests/export/families", "tests")]
import vector_bundles  # noqa: E402

from luvc_export import export_bundle, load_bundle, make_plan  # noqa: E402
from luvc_export.core.files import pages  # noqa: E402
from luvc_export.demo import CHECKPOINT, IMAGE_SIZE  # noqa: E402
from luvc_export.demo.questions import cases  # noqa: E402

OFFICIAL = Path(__file__).resolve().parent / "official"
#: Environment and script of each client.
SCRIPTS = {
    "openai": ("openai", "openai_python.py"),
    "openai's own tests": ("openai", "openai_standard.py"),
    "openai's schemas by schemathesis": ("openai", "openai_schemas.py"),
    "openai's and langchain's embeddings": ("openai", "openai_vectors.py"),
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
PATIENCE = 600


def bundle(folder: Path) -> Path:
    """The bundle of ``$LUVC_BUNDLE``, or one exported to ``folder``."""
    if place := os.environ.get("LUVC_BUNDLE"):
        return Path(place)
    plan = make_plan(str(CHECKPOINT), "even", image_size=IMAGE_SIZE)
    export_bundle(str(CHECKPOINT), folder / "demo", {"even": plan}, image_size=IMAGE_SIZE, text_capacity=1024)
    return folder / "demo"


def vectors(folder: Path, stack: ExitStack) -> dict[str, str]:
    """Serve the tiny model with one vector an input that tests export; what its clients are told."""
    place = vector_bundles.kept(folder / "vectors", "qwen2_vl") / "bundle"
    client, texts = stack.enter_context(serving(str(place), "cpu", 1)), ["a page of numbers", "x"]
    expected = load_bundle(place, "cpu", threads=1).embed(texts=texts)
    return {
        "vectors_url": f"http://127.0.0.1:{client.port}/v1",
        "vectors_model": client.call("GET", "/v1/models").json()["data"][0]["id"],
        "texts": json.dumps(texts),
        "vectors": json.dumps(expected.tolist()),
        "dimensions": str(vector_bundles.SIZES[0]),
    }


def end_of_answers(client: Client) -> str:
    """The id of the token behind the bundled model's answers."""
    asked = {"prompt": "<|im_end|>", "add_special_tokens": False}
    (token,) = client.call("POST", "/tokenize", json.dumps(asked).encode()).json()["tokens"]
    return str(token)


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


def ran(name: str, words: list[str], facts: str, env: dict[str, str]) -> tuple[bool, list[list[str]]]:
    """Whether a client's script ends well, and its rows of the page (``common.report``); what it says is shown."""
    begun = time.monotonic()
    done = subprocess.run(words, input=facts, stdout=subprocess.PIPE, text=True, check=False, env=env, timeout=PATIENCE)
    well = done.returncode == 0
    print(f"{done.stdout}{name}: {'ok' if well else 'FAILED'}, {time.monotonic() - begun:.1f} s", flush=True)
    lines = done.stdout.splitlines()
    rows = [line.removeprefix("row: ").split(" | ") for line in lines if line.startswith("row: ")]
    return well, rows or [[name, "passes"]]


def write(page: Path, rows: list[list[str]]) -> None:
    """Tables of all clients, and of the tests of others that fail, which the run has held to their lists."""
    failing = [
        [suite["suite"], reason, ", ".join(f"`{name}`" for name in names)]
        for suite in (json.loads(file.read_text(encoding="utf-8")) for file in sorted(OFFICIAL.glob("*_standard.json")))
        for reason, names in suite["tests"].items()
    ]
    tables = pages.table(("client", "outcome"), rows), pages.table(("suite", "reason", "tests that fail"), failing)
    page.write_text(pages.within(page.read_text(encoding="utf-8"), "clients", "\n".join(tables)), encoding="utf-8")


def main() -> None:
    """Run all checks; exit code 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("environments", type=Path)
    parser.add_argument("--only", nargs="*", default=[""], help="clients whose names have one of these")
    parser.add_argument("--page", type=Path, help="the page whose table is written, if all run and work")
    asked = parser.parse_args()
    names = [name for name in SCRIPTS if any(part in name for part in asked.only)]
    failed, absent, rows = list[str](), list[str](), list[list[str]]()
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
            "end": end_of_answers(client),
            **vectors(folder, stack),
        }
        env = {**os.environ, **SHARED, **NOTHING, **({"LUVC_WHOLE": "1"} if asked.page else {})}
        for name in names:
            words = command(asked.environments / SCRIPTS[name][0], SCRIPTS[name][1])
            if words is None:
                absent.append(name)
                continue
            well, its_rows = ran(name, words, json.dumps(facts), env)
            failed += [] if well else [name]
            rows += its_rows
    spent = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    print(f"{spent:.0f} s of CPU, of clients and server")
    if absent:
        print("not installed, not tried: " + ", ".join(absent))
    print("failed: " + ", ".join(failed) if failed else f"{len(names) - len(absent)} clients work")
    if asked.page and not failed and not absent and len(names) == len(SCRIPTS):
        write(asked.page, rows)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
