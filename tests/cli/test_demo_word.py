"""``demo`` in place of a checkpoint: every verb that takes one takes it, and no hub is asked."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from cli_words import Cli

from luvc_export.calibration import runners
from luvc_export.calibration.ablation import run as ablation
from luvc_export.cli import app
from luvc_export.cli.files import check_model
from luvc_export.demo import CHECKPOINT, IMAGE_SIZE, checkpoint_named
from luvc_export.errors import UsageError
from luvc_export.export import checkpoint

ROOT = Path(__file__).resolve().parents[2]


class Reached(Exception):  # noqa: N818
    """The work would begin now."""


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder without anything called demo, and a hub that is an error."""

    def asked(*arguments: Any) -> Path:
        raise AssertionError(f"the hub was asked for {arguments[0]}")

    for module in (checkpoint, checkpoint):
        monkeypatch.setattr(module, "download", asked)
    monkeypatch.chdir(tmp_path)


def taking_checkpoints() -> set[str]:
    """Verbs that have a parameter for one."""
    verbs = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return {name for name, verb in verbs.items() if any(one.name == "model" for one in verb.params)}


def test_these_are_the_verbs_that_take_a_checkpoint() -> None:
    """A new one belongs into the tests below."""
    assert taking_checkpoints() | {"parity"} == {"plan", "export", "pack", "ablate", "trial", "parity"}


def test_plan_demo(cli: Cli) -> None:
    code, out, err = cli("plan", "demo", "--json")
    assert code == 0, err
    units = [side // 28 for side in IMAGE_SIZE]
    assert json.loads(out)["plan"]["encoder"]["grid"] == units, "at the size that it was trained on"


@pytest.mark.parametrize(
    "words", [("export", "demo", "-o", "out"), ("pack", "demo", "--target", "jetson-thor", "-o", "out")]
)
def test_export_demo_and_pack_demo(cli: Cli, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    from luvc_export.pipeline import exporting

    def write(opened: Any, plans: Any, output: Any, options: Any, *more: Any) -> None:
        assert opened.folder == CHECKPOINT and options.image_size == IMAGE_SIZE
        raise UsageError("reached")

    monkeypatch.setattr("luvc_export.export.bundling.write_bundle", write)
    assert exporting is not None
    code, _, err = cli(*words)
    assert (code, "reached" in err) == (2, True), err


def test_ablate_demo(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(opened: Any, *more: Any) -> Any:
        assert opened.folder == CHECKPOINT
        raise UsageError("reached")

    monkeypatch.setattr(ablation.runners, "load_model", load)
    code, _, err = cli("ablate", "--model", "demo", "-o", "out")
    assert (code, "reached" in err) == (2, True), err


def test_trial_demo_and_parity_demo(cli: Cli) -> None:
    code, out, err = cli("trial", "demo", "--dry-run")
    assert code == 0 and "export" in out, err
    assert runners.parse("hf:demo").model == runners.parse("demo").model == str(CHECKPOINT)


def test_a_checkpoint_of_that_name_comes_first(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    assert checkpoint_named("demo") == str(CHECKPOINT), "a folder without config.json is none"
    (tmp_path / "demo" / "config.json").touch()
    assert checkpoint_named("demo") == "demo" and checkpoint_named("other") == "other"


def test_the_bundled_model_has_no_revisions() -> None:
    with pytest.raises(UsageError, match="a folder has no revisions"):
        check_model("demo", "main")


def test_the_first_lines_of_the_readme_name_no_hub() -> None:
    lines = re.findall(r"^luvc-export .*$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert [line.split()[1:3] for line in lines[:3]] == [["plan", "demo"], ["export", "demo"], ["run", "bundle"]]
