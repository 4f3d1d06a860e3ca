"""The house: how many modules a folder has, who knows scores by name, and names that say nothing."""

from __future__ import annotations

import ast
import re
import subprocess
from collections import Counter
from pathlib import Path

import luvc_export
from luvc_export.core.plan.schema_1 import SCORES as EARLY_SCORES

ROOT = Path(luvc_export.__file__).resolve().parents[1]
ROOMS = ("luvc_export", "export", "engines", "runtime", "calibration")
MOST = 15
#: One file for each thing of a kind, found by its name.
REGISTRIES = {
    "engines/targets",
    "export/compression/scores",
    "export/families",
    "export/surgeon/passes",
    "luvc_export/cli/commands",
}
#: Every score, without importing them: they need torch.
SCORES = {*EARLY_SCORES, *(path.stem for path in (ROOT / "export/compression/scores").glob("[a-z]*.py"))} - {"base"}
#: Rooms that run plans of any score, installed ones too.
BLIND = ("luvc_export/core", "runtime", "luvc_export/serve")
#: Old plans say nothing of what their score reads.
KNOWS_SCORES = "luvc_export/core/plan/schema_1.py"
#: Words that are scores and, in these modules, something else: what a prune of the encoder ranks units by, and a
#: picture's detail in OpenAI's API.
SOMETHING_ELSE = {
    "luvc_export/core/plan/sharing.py": {"dycoke", "vidcom2"},  # the quotas of these names
    "luvc_export/core/plan/encoder.py": {"norm", "residual"},
    "luvc_export/serve/interfaces/protocol.py": {"low"},
}
#: Names of parameters and variables that do not say what they hold. A score is ``given`` its input: that is documented.
NAMELESS = {"found", "given", "made", "said", "told"}
#: Beside the rooms: their functions have none of them either.
NAMED = ("benchmarks", "docs", "examples", "plugins", "tests")


def modules(rooms: tuple[str, ...] = ROOMS) -> list[Path]:
    """Modules of rooms; environments that a contributor keeps there (``benchmarks/.venv``) are not ours."""
    paths = [path for room in rooms for path in sorted((ROOT / room).rglob("*.py"))]
    return [path for path in paths if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)]


def crowded(paths: list[str]) -> set[str]:
    counts = Counter(path.rpartition("/")[0] for path in paths if not path.endswith("__init__.py"))
    return {folder for folder, count in counts.items() if count > MOST}


def named(source: str) -> set[str]:
    """Scores that texts of a module name, docstrings left out."""
    tree = ast.parse(source)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docstrings]
    return {text.value for text in texts if isinstance(text.value, str)} & SCORES


def test_a_folder_has_few_modules_unless_it_is_a_registry() -> None:
    paths = [path.relative_to(ROOT).as_posix() for path in modules()]
    assert crowded(paths) - REGISTRIES == set()
    assert {path.rpartition("/")[0] for path in paths} >= REGISTRIES
    assert crowded([f"runtime/a{number}.py" for number in range(MOST + 1)]) == {"runtime"}, "the check can fail"


def test_core_runtime_and_serve_name_no_score() -> None:
    naming = {path.relative_to(ROOT).as_posix(): named(path.read_text(encoding="utf-8")) for path in modules(BLIND)}
    assert {path for path, words in naming.items() if words - SOMETHING_ELSE.get(path, set())} == {KNOWS_SCORES}
    assert {path: naming[path] for path in SOMETHING_ELSE} == SOMETHING_ELSE, "what is excepted is there"
    for score in SCORES:
        assert named(f'if plan.score == "{score}":\n    pass\n') == {score} and not named(f'"""{score}"""\n')


def documented(arg: ast.arg) -> bool:
    return arg.arg == "given" and arg.annotation is not None and ast.unparse(arg.annotation).endswith("ScoreInput")


def nameless(source: str) -> dict[str, list[str]]:
    """Functions that bind a name of ``NAMELESS``, themselves or in functions inside them, by that name."""
    functions: dict[str, list[str]] = {}
    written = NAMELESS & {*re.findall(r"\w+", source)}
    for function in ast.walk(ast.parse(source)) if written else ():
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            nodes = list(ast.walk(function))
            bound = {node.arg for node in nodes if isinstance(node, ast.arg) and not documented(node)}
            bound |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
            for name in sorted(bound & written):
                functions.setdefault(name, []).append(f"{function.name} (line {function.lineno})")
    return functions


def test_names_say_what_the_thing_is() -> None:
    functions = [
        f"{path.relative_to(ROOT).as_posix()}: {name} in {where}"
        for path in modules(ROOMS + NAMED)
        for name, places in nameless(path.read_text(encoding="utf-8")).items()
        for where in places
    ]
    assert not functions, "a name that says nothing: call it what it is (logits, bundle, plan, request)"


def namesakes(paths: list[Path]) -> set[str]:
    return {name for name, count in Counter(path.name for path in paths).items() if count > 1}


def test_no_two_modules_of_tests_have_one_name() -> None:
    """pytest collects one of them and ends with an error at the other, whose tests never run."""
    assert not namesakes([path for path in modules(("tests", "examples")) if path.name.startswith("test_")])
    assert namesakes([Path("a/test_x.py"), Path("b/test_x.py"), Path("b/test_y.py")]) == {"test_x.py"}


def test_no_folder_is_left_out() -> None:
    names = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {name.partition("/")[0] for name in names.splitlines()} - {"setup.py"} == {*ROOMS, *NAMED}


def test_a_name_that_says_nothing_is_seen() -> None:
    source = """
def search(rows, *, given=None, **told):
    class Seen:
        async def of(self, plan):
            found: int = plan.found
            return [self.made for said in rows if (made := said)]
    return print("found", said=found)
"""
    inner = "of (line 4)"
    outer = "search (line 2)"
    both = [outer, inner]
    assert nameless(source) == {"found": both, "given": [outer], "made": both, "said": both, "told": [outer]}
    assert nameless("def score(self, given: scores.ScoreInput, found: int): pass") == {"found": ["score (line 1)"]}
    assert nameless("found = 1\ndef search(bundle): return bundle.found(said=bundle.made)") == {}


def slow_tests(source: str) -> dict[str, str]:
    """Of each test marked slow, alone or with its module, the one it names as ``beside``; empty where it names none."""
    beside, of_all = dict[str, str](), list[ast.expr]()
    for node in ast.parse(source).body if "mark.slow" in source else ():
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            of_all.append(node.value)
        is_test = isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        for mark in [*node.decorator_list, *of_all] if is_test else ():
            if ast.unparse(mark).startswith("pytest.mark.slow"):
                words = {word.arg: word.value for word in mark.keywords} if isinstance(mark, ast.Call) else {}
                beside[node.name] = ast.literal_eval(words["beside"]) if "beside" in words else ""
    return beside


def test_each_slow_test_names_a_quicker_one_that_there_is() -> None:
    slow = {
        (path, name): beside
        for path in modules(("tests", "examples"))
        for name, beside in slow_tests(path.read_text(encoding="utf-8")).items()
    }
    assert len(slow) >= 9
    for (path, name), beside in slow.items():
        file, _, quicker = beside.partition("::")
        assert f"def {quicker}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), (
            f"{path.name}::{name}: {beside}"
        )
        assert (ROOT / "tests" / file, quicker) not in slow, f"{path.name}::{name}: {beside} is slow too"


def test_a_slow_test_that_names_none_is_seen() -> None:
    source = "@pytest.mark.slow\ndef test_a(): ...\n@pytest.mark.slow(beside='x.py::y')\ndef test_b(): ..."
    assert slow_tests(source) == {"test_a": "", "test_b": "x.py::y"}
    module = "pytestmark = pytest.mark.slow(beside='x.py::y')\ndef of(): ...\ndef test_c(): ..."
    assert slow_tests(module) == {"test_c": "x.py::y"}


def test_ci_runs_what_is_marked_slow() -> None:
    """``make test`` leaves it out; two words of make and one mark, so that none is left out by both."""
    words = dict(re.findall(r"^(test|slow):.*\n\t.* -m pytest (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert words["test"] == words["slow"].replace("-m slow $(SLOW)", '-m "not slow"') != words["slow"]
    assert (
        r"SLOW = $(shell grep -rlE --include='test_*.py' 'mark\.slow|slow_but' tests examples)"
        in (ROOT / "Makefile").read_text()
    )
    assert {"make test", "make slow"} <= set((ROOT / ".ci/run").read_text().splitlines())
