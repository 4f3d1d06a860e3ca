"""The list of passes: its order by names, duplicates refused, one from outside that runs and is reported."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from installed import installed
from surgery_harness import Traced, operators, small

from luvc_export.core.target import ORT_CPU
from luvc_export.errors import CheckFailed, UsageError
from luvc_export.export.surgeon import pass_list, passes, run_passes
from luvc_export.export.surgeon.passes import cast_precision

ORDER = [
    "rewrite_codes", "patch_layout", "fuse_orthogonal_merge", "fuse_spectrum_prune", "share_rope", "share_norm",
    "fuse_qkv", "fuse_gate_up", "cast_precision", "call_plugins", "inline_functions", "unpack_heads",
    "inplace_kv", "append_kv", "pack_heads", "append_argmax", "lower_dialect", "fold_shapes", "drop_unread",
    "drop_lora_slots", "drop_visual_rows", "split_kv_cache", "group_query_heads", "split_head",
]  # fmt: skip
ENTRY = "[luvc_export.passes]\nabs_twice = abs_twice\n"
MODULE = """
from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon.graph import up

ORDER = 65

def requires(surgery):
    return None if any(surgery.nodes("Abs")) else "there is no Abs"

def apply(surgery):
    twice = [node for node in surgery.nodes("Abs") if up(node.inputs[0], "Abs")]
    for node in twice:
        surgery.replace(node.outputs[0], node.inputs[0])
    return len(twice)

def ensures(surgery, fired):
    surgery.graph.cleanup()
    if any(up(node.inputs[0], "Abs") for node in surgery.nodes("Abs")):
        raise CheckFailed("an Abs of an Abs is left")
"""


def test_the_order_of_our_passes() -> None:
    assert passes.names() == ORDER
    assert [step.__name__.rsplit(".", 1)[-1] for step in pass_list()] == [*ORDER, "lint"]


def test_every_file_has_a_place() -> None:
    files = {path.stem for path in Path(passes.__file__).parent.glob("*.py")} - {"__init__", "base"}
    assert files == set(ORDER)
    assert [passes.find(name).ORDER for name in ORDER] == list(range(0, 10 * len(ORDER), 10))


def test_two_passes_in_one_place_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cast_precision, "ORDER", 90)
    with pytest.raises(UsageError, match=r"same place(.|\n)*ORDER = 90(.|\n)*call_plugins, cast_precision"):
        pass_list()


def test_an_installed_pass_runs_in_its_place_and_is_reported(tmp_path: Path) -> None:
    model = small("g (float[2] x) => (float[2] y) { a = Abs(x)  b = Abs(a)  y = Neg(b) }")
    with installed(tmp_path, ENTRY, "abs_twice", MODULE):
        assert passes.names() == [*ORDER[:7], "abs_twice", *ORDER[7:]]
        after, report = run_passes(model, ORT_CPU, passes=passes.ordered())
        assert operators(after, "Abs") == 1
        [installed_pass] = [item for item in report.passes if item.name == "abs_twice"]
        assert (installed_pass.fired, installed_pass.before, installed_pass.after) == (1, 3, 2)
    assert passes.names() == ORDER
    assert operators(run_passes(model, ORT_CPU, passes=passes.ordered())[0], "Abs") == 2


def test_an_installed_pass_is_in_the_report_of_a_whole_run(tmp_path: Path, traced: Traced) -> None:
    with installed(tmp_path, ENTRY, "abs_twice", MODULE):
        after, report = run_passes(traced.decoder, ORT_CPU)
    assert [item.name for item in report.passes] == [*ORDER[:7], "abs_twice", *ORDER[7:], "lint"]
    assert next(item.reason for item in report.passes if item.name == "abs_twice") == "there is no Abs"
    onnx.checker.check_model(after)


def test_an_installed_pass_that_breaks_its_promise_is_caught(tmp_path: Path) -> None:
    model = small("g (float[2] x) => (float[2] y) { a = Abs(x)  b = Abs(a)  y = Neg(b) }")
    lazy = MODULE.replace("surgery.replace(node.outputs[0], node.inputs[0])", "pass")
    with installed(tmp_path, ENTRY, "abs_twice", lazy), pytest.raises(CheckFailed, match="Abs of an Abs") as caught:
        run_passes(model, ORT_CPU, passes=passes.ordered())
    assert caught.value.__notes__ == ["in pass abs_twice"]


@pytest.mark.parametrize(
    ("entry", "module", "refusal"),
    [
        (ENTRY, "import nothing_there", "installed pass cannot be loaded(.|\n)*nothing_there(.|\n)*remove the package"),
        (
            ENTRY,
            MODULE.replace("def ensures", "def ensure"),
            "what an installed package calls a pass is something else(.|\n)*that has ensures too",
        ),
        (ENTRY, MODULE.replace("ORDER = 65", "ORDER = 6.5"), "that has ORDER, a whole number too"),
        (ENTRY.replace("abs_twice =", "other ="), MODULE, "a module called other"),
        (ENTRY, MODULE.replace("65", "60"), r"same place(.|\n)*ORDER = 60(.|\n)*abs_twice, fuse_qkv"),
    ],
    ids=["import", "function", "order", "name", "place"],
)
def test_a_broken_package_is_named(tmp_path: Path, entry: str, module: str, refusal: str) -> None:
    with installed(tmp_path, entry, "abs_twice", module), pytest.raises(UsageError, match=refusal):
        pass_list()


def test_an_unknown_pass_suggests() -> None:
    with pytest.raises(UsageError, match="did you mean 'fuse_qkv'"):
        passes.find("fuse_qvk")
