"""What the runtime's contract promises of its own code: nobody guesses a class, nobody else steps, no arrow runs up."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUNTIME = ROOT / "runtime"
#: Rooms of the runtime from the ground up; one imports those before it alone. Modules of its own folder count as rooms.
FLOORS = (
    "cpu_features", "memory", "state", "model", "call_times", "batching", "confined", "cuda", "host",
    "media", "prompt", "adapters", "host_backend", "ort_graphs", "sharing", "session_options", "product_check",
    "graphs", "speculation", "generation", "ort", "openvino", "tensorrt", "paired", "backends", "speed_probe",
    "backend_choice", "loaded_plan", "engine", "session", "streams", "bench",
)  # fmt: skip
#: What asks a thing for its class or its parts by name, and things that have ``Capabilities`` for that.
GUESSES, THINGS = {"isinstance", "hasattr", "getattr"}, ("backend", "cache", "slots", "half")
#: Protocols of the runtime, those of running models first.
PROTOCOLS = ("PendingStep", "Slots", "TokenChooser", "ForeseeingMask", "Context", "Engine")
#: Where slots are joined, extended and stepped.
STEPPERS = ("runtime/engine/", "runtime/tensorrt/slots.py")
SESSION = """
import sys, luvc_export.runtime.session
print(sum(name.split(".")[0] == "luvc_export" for name in sys.modules))
"""


def modules(folder: Path = RUNTIME) -> Iterator[tuple[str, ast.Module]]:
    """Path from the root and syntax of every module."""
    for path in sorted(folder.rglob("*.py")):
        yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def guesses(tree: ast.Module) -> list[str]:
    """Calls that ask a back-end, a cache or slots what it is."""
    texts = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in GUESSES:
            asked = ast.unparse(node.args[0]).rpartition(".")[2].lstrip("_")
            by_name = len(node.args) > 1 and ast.unparse(node.args[1]) == "str"  # a back-end's name, or a back-end
            texts += [ast.unparse(node)] if asked in THINGS and not by_name else []
        if isinstance(node, ast.Match) and ast.unparse(node.subject).rpartition(".")[2] in THINGS:
            texts.append(ast.unparse(node.subject))
    return texts


def steps(tree: ast.Module) -> list[str]:
    """Calls that let a prompt join slots, extend one or step."""
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    named = (func for func in calls if isinstance(func, ast.Attribute) and func.attr in ("join", "extend", "step"))
    return [ast.unparse(func) for func in named if ast.unparse(func.value).rpartition(".")[2].strip("_") == "slots"]


def arrows_up(trees: dict[str, ast.Module]) -> list[str]:
    """Imports at a module's top of rooms that stand higher."""
    up = []
    for path, tree in trees.items():
        here = Path(path).relative_to("runtime").parts[0].removesuffix(".py")
        for node in tree.body:
            parts = (node.module or "").split(".") if isinstance(node, ast.ImportFrom) else []
            if parts[:2] != ["luvc_export", "runtime"] or here == "__init__":
                continue
            assert isinstance(node, ast.ImportFrom)
            for room in [parts[2]] if len(parts) > 2 else [alias.name for alias in node.names]:
                if FLOORS.index(room) > FLOORS.index(here):
                    up.append(f"{path} -> {room}")
    return up


def protocols(trees: dict[str, ast.Module]) -> list[str]:
    """Classes of the runtime that are protocols."""
    nodes = (node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    return [node.name for node in nodes if any("Protocol" in ast.unparse(base) for base in node.bases)]


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    return dict(modules())


def test_nobody_guesses_what_a_back_end_is(trees: dict[str, ast.Module]) -> None:
    assert {path: texts for path, tree in trees.items() if (texts := guesses(tree))} == {}
    ignored = [path for path in RUNTIME.rglob("*.py") if "ignore[attr-defined]" in path.read_text(encoding="utf-8")]
    assert ignored == []
    wrong = ast.parse(
        "if isinstance(self._backend, Other) or hasattr(cache, 'x'):\n    pass\nmatch slots:\n    case 1: pass"
    )
    assert len(guesses(wrong)) == 3 and not guesses(ast.parse("isinstance(backend, str)"))


def test_the_engine_alone_joins_extends_and_steps(trees: dict[str, ast.Module]) -> None:
    package = dict(modules(ROOT / "luvc_export" / "serve")) | dict(modules(ROOT / "luvc_export" / "packing"))
    everywhere = trees | package | dict(modules(ROOT / "calibration"))
    callers = {path: calls for path, tree in everywhere.items() if (calls := steps(tree))}
    assert callers and all(path.startswith(STEPPERS) for path in callers), callers
    assert steps(ast.parse("self.slots.step({})\nslots.join([])\n', '.join(names)")) == [
        "self.slots.step",
        "slots.join",
    ]


def test_no_arrow_runs_up_inside_the_runtime(trees: dict[str, ast.Module]) -> None:
    rooms = {Path(path).relative_to("runtime").parts[0].removesuffix(".py") for path in trees} - {"__init__"}
    assert rooms == {*FLOORS} and arrows_up(trees) == []
    turned = {"runtime/state.py": ast.parse("from luvc_export.runtime.session import Session")}
    assert arrows_up(turned) == ["runtime/state.py -> session"]


def test_protocols_are_few(trees: dict[str, ast.Module]) -> None:
    """Back-ends derive from one class, whose defaults say what they may leave out."""
    assert sorted(protocols(trees)) == sorted(PROTOCOLS)


def test_a_session_imports_little() -> None:
    done = subprocess.run([sys.executable, "-c", SESSION], capture_output=True, text=True, check=True, cwd=ROOT)
    assert int(done.stdout) <= 100


def files_at(what: str, stacks: dict[str, list[list[str]]]) -> int:
    """Files of the runtime and the server that stood on the stack at once when ``what`` was called."""
    return max(len({*stack}) for stack in stacks[what])


@pytest.fixture(scope="module")
def stacks(demo_bundle: object) -> dict[str, list[list[str]]]:
    """What stood on the stack when pictures were encoded, and when a first token was chosen, of ``generate``."""
    from luvc_export.runtime.generation.sequence import TokenSequence
    from luvc_export.runtime.ort import OrtBackend
    from luvc_export.runtime.session import Session

    seen = defaultdict[str, list[list[str]]](list)

    def watched(name: str, real: object) -> object:
        def call(*arguments: object, **named: object) -> object:
            frame, files = sys._getframe(1), list[str]()
            while frame is not None:
                path = Path(frame.f_code.co_filename)
                files += [path.name] if {"runtime", "serve"} & {*path.parts} else []
                frame = frame.f_back  # type: ignore[assignment]
            seen[name].append(files)
            return real(*arguments, **named)  # type: ignore[operator]

        return call

    from luvc_export.demo.questions import cases

    session, case = Session(demo_bundle, "cpu", "thirds", threads=1), next(cases("heldout", 1))  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OrtBackend, "vision", watched("vision", OrtBackend.vision))
        patch.setattr(TokenSequence, "take", watched("take", TokenSequence.take))
        session.generate(list(case.images), case.prompt)
    return seen


def test_an_image_and_a_first_token_pass_few_files(stacks: dict[str, list[list[str]]]) -> None:
    """docs/engine.md lists them. Counted without the file that is called."""
    assert files_at("vision", stacks) + 1 <= 7, stacks["vision"]
    assert files_at("take", stacks) + 1 <= 8, stacks["take"][:1]
