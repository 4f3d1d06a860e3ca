"""A family's skeleton: what is written of it, what is asked, and that nothing runs before the answers."""

from __future__ import annotations

import difflib
import json
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

import luvc_export
from luvc_export.cli.commands.new_family import new_family
from luvc_export.errors import CheckpointError, MachineError, UsageError
from luvc_export.export import families
from luvc_export.export.new_family.facts import described
from luvc_export.export.new_family.text import Skeleton, skeleton

FILES = Path(luvc_export.__file__).resolve().parent / "export" / "families"
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "families"))
import family_harness as harness  # noqa: E402
from test_house import nameless  # noqa: E402

#: The most of a family's lines that its skeleton may lack: 40 % of three put together from parts that are there; three
#: quarters of one whose template of videos no config says.
MEASURED = {"qianfan_ocr": 0.4, "lighton_ocr": 0.4, "qwen2_vl": 0.4, "smolvlm": 0.75}


def of(name: str) -> Skeleton:
    """The skeleton as it would be if the family were not there."""
    return skeleton(described(name, frozenset({name})))


def by_hand(written: str, final: str) -> float:
    """Share of the lines of ``final`` that are not the skeleton's."""
    left, right = ([line.strip() for line in text.splitlines() if line.strip()] for text in (written, final))
    blocks = difflib.SequenceMatcher(None, left, right, autojunk=False).get_matching_blocks()
    return 1 - sum(block.size for block in blocks) / len(right)


@pytest.mark.parametrize("name", MEASURED)
def test_a_family_s_lines_that_its_skeleton_has(name: str) -> None:
    assert by_hand(of(name).family, (FILES / f"{name}.py").read_text(encoding="utf-8")) <= MEASURED[name]
    assert by_hand("", "one\ntwo") == 1, "the check can fail"


def test_a_config_that_leaves_its_heads_size_to_checkpoints_has_a_skeleton() -> None:
    assert "several axes" in " ".join(of("hunyuan_vl").questions)


def test_what_a_tower_of_known_names_has_beside_them_is_asked() -> None:
    asked = " ".join(of("glm_ocr").questions)
    assert all(name in asked for name in ("attn.q_norm", "downsample", "post_layernorm", "merger.gate_proj"))
    assert "gated=True" in of("glm_ocr").family and "window_size" in " ".join(of("qwen2_5_vl").questions)


def answered(name: str, merge: str = "") -> Any:
    """The skeleton's family with its questions taken away, and how its patches are joined."""
    module = types.ModuleType("luvc_skeleton")
    text = re.sub(r"raise NotImplementedError\(f.*", merge, of(name).family)
    text = re.sub(r"    open_questions = \(.*?\n    \)\n", "", text, flags=re.DOTALL)
    sys.modules[module.__name__] = module
    exec(compile(text, "skeleton", "exec"), module.__dict__)
    return module.FAMILY  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "merge"), [("qianfan_ocr", ""), ("qwen2_vl", "return merger.mlp(self.per_unit(merger.ln_q(x)))")]
)
def test_a_skeleton_whose_parts_are_right_is_transformers(name: str, merge: str) -> None:
    family = answered(name, merge)
    tiny = harness.build(family, family.tiny_config())
    ids, images = tiny.prompt(2), tiny.images(2)
    run = harness.lay_out(tiny, tiny.plan, ids, *harness.encode_images(tiny, tiny.plan, images)[:2])
    ours = harness.logits(tiny, family.decoder(tiny.model, tiny.plan), run)
    theirs = harness.reference_logits(tiny, harness.reference(tiny, ids, images))
    assert torch.isfinite(ours).all() and harness.difference(ours, theirs) < harness.TOLERANCE


def _ruff(*files: Path) -> None:
    """Lint and form, by the rules of this checkout."""
    rules = str(FILES.parents[2] / "pyproject.toml")
    for words in (["check", "--ignore", "INP001"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *words, "--config", rules, *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["vipllava", "glm4v"])
def test_the_files_are_in_the_house_s_form(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that some family is like, and what it lists on the screen is what the file lists."""
    new_family(model_type=name, output=tmp_path, as_json=True)
    written = json.loads(capsys.readouterr().out)
    assert written["files"] == [str(tmp_path / f"{name}.py"), str(tmp_path / f"{name}_checkpoint.py")]
    _ruff(*map(Path, written["files"]))
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile((tmp_path / f"{name}.py").read_text(encoding="utf-8"), name, "exec"), module.__dict__)
    assert list(module.FAMILY.open_questions) == written["open_questions"]
    asked = " ".join(written["open_questions"])
    assert all(word in asked for word in ("merge order", "positions", "soft caps", "template"))
    with pytest.raises(UsageError, match=r"this file is there already(.|\n)*name another folder"):
        new_family(model_type=name, output=tmp_path, as_json=True)


@pytest.mark.parametrize(
    ("name", "refusal"),
    [
        ("llava", r"there is a family for this model type(.|\n)*export/families/llava.py"),
        ("glm_orc", r"no model of pictures and text of this type(.|\n)*glm_ocr(.|\n)*config.json"),
        ("llama", r"no model of pictures and text of this type"),
        ("fuyu", r"transformers cannot make this model(.|\n)*no vision_config of its own"),
    ],
)
def test_types_without_a_skeleton(name: str, refusal: str, tmp_path: Path) -> None:
    with pytest.raises((UsageError, MachineError), match=refusal):
        new_family(model_type=name, output=tmp_path, as_json=True)
    assert not [*tmp_path.iterdir()]


def test_a_family_with_a_question_is_not_there_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    family = families.find("llava", "test")
    monkeypatch.setattr(type(family), "open_questions", ("positions: which?",))
    with pytest.raises(CheckpointError, match=r"not finished(.|\n)*positions: which\?(.|\n)*take each line away"):
        families.find("llava", "test")


def test_the_page_s_example_passes_the_house_s_rules(tmp_path: Path) -> None:
    page = (FILES.parents[2] / "docs" / "adding-a-family.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert not nameless(example) and nameless(example.replace("states", "found"))
    (tmp_path / "vipllava.py").write_text(example, encoding="utf-8")
    _ruff(tmp_path / "vipllava.py")
