"""The pure parts of a pack: what a board says, whether it fits, which wheels it takes, whether an answer is right."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jetson_root
import numpy as np
import pytest

import luvc_export
from luvc_export.bundle.manifest import Footprint
from luvc_export.calibration.parity.tolerances import tolerances
from luvc_export.engines import targets
from luvc_export.errors import UsageError
from luvc_export.packing import bootstrap, device_facts, programs, wheels
from luvc_export.packing.answer import Answer, compare_answers
from luvc_export.packing.device_facts import Clock, DeviceFacts

MIB = 2**20
ORIN = targets.find("jetson-agx-orin-jp62")
FOOTPRINT = Footprint(weights=400 * MIB, kv=10 * MIB, activations=20 * MIB, workspace=64 * MIB, loading=300 * MIB)
LIMITS = tolerances("fp32", "fp16")


def test_a_board_is_read_from_its_files(tmp_path: Path) -> None:
    facts = device_facts.read(jetson_root.write(tmp_path, mode=3, held=False))
    assert facts == DeviceFacts(
        "NVIDIA Jetson AGX Orin Developer Kit",
        (36, 4, 3),
        "10.3.0.30",
        60_000_000 * 1024,
        "MODE_50W",
        jetson_root.MODES,
        (Clock("policy0", 115.2, 2201.6, 2201.6), Clock("17000000.gpu", 306.0, 1300.5, 1300.5)),
    )
    (tmp_path / "etc/nv_tegra_release").unlink()
    assert device_facts.read(tmp_path).l4t == (36, 4, 3), "the package says it too"


def test_jetpack_7_2_is_read_as_well(tmp_path: Path) -> None:
    facts = device_facts.read(jetson_root.write(tmp_path, "7.2"))
    assert (facts.l4t, facts.tensorrt) == ((39, 2, 0), "10.16.1.11")


def test_a_removed_package_is_not_there(tmp_path: Path) -> None:
    status = jetson_root.write(tmp_path) / "var/lib/dpkg/status"
    status.write_text(status.read_text(encoding="utf-8").replace("install ok installed", "deinstall ok config-files"))
    assert device_facts.read(tmp_path).tensorrt is None


def test_what_is_no_board_says_nothing(tmp_path: Path) -> None:
    assert device_facts.read(tmp_path) == DeviceFacts(None, None, None, None, None, (), ())


def findings(tmp_path: Path, building: bool = False, **board: object) -> device_facts.Findings:
    return device_facts.check(device_facts.read(jetson_root.write(tmp_path, **board)), ORIN, FOOTPRINT, building)  # type: ignore[arg-type]


def test_the_board_the_pack_was_made_for_is_taken(tmp_path: Path) -> None:
    assert findings(tmp_path) == device_facts.Findings((), ())


@pytest.mark.parametrize(
    ("board", "building", "problems"),
    [
        ({"jetpack": "7.2"}, False, ["Jetson Linux 39.2.0: expected Jetson Linux >=36.4,<37", "TensorRT 10.16.1.11"]),
        (
            {"free_kib": 699 * 1024},
            False,
            ["699 MiB of memory free: .* predicted to need 700 .*plan while loading 300"],
        ),
        ({"free_kib": 1400 * 1024}, True, ["1,400 MiB of memory free: building is predicted to need 1,412"]),
        ({"free_kib": 1400 * 1024}, False, []),
    ],
)
def test_another_board_is_refused(
    tmp_path: Path, board: dict[str, object], building: bool, problems: list[str]
) -> None:
    reasons = findings(tmp_path, building, **board).problems
    assert len(reasons) == len(problems)
    for got, expected in zip(reasons, problems, strict=True):
        assert re.match(expected, got), got


def test_no_board_is_refused_and_what_is_unknown_is_said(tmp_path: Path) -> None:
    outcome = device_facts.check(device_facts.read(tmp_path), ORIN, FOOTPRINT, building=True)
    assert "this is no Jetson" in outcome.problems[0] and len(outcome.problems) == 1
    assert any("memory, so it was not checked" in line for line in outcome.warnings)


@pytest.mark.parametrize(
    ("modes", "mode", "warned"),
    [
        (("15W", "25W", "MAXN_SUPER"), "25W", True),
        (("15W", "25W", "MAXN_SUPER"), "MAXN_SUPER", False),
        (("15W", "7W"), "15W", False),
        (("15W", "7W"), "7W", True),
        (("MAXN", "MODE_30W"), "MODE_30W", True),
    ],
)
def test_a_mode_below_the_fastest_is_warned_of(modes: tuple[str, ...], mode: str, warned: bool) -> None:
    slow = DeviceFacts("board", (36, 4, 3), "10.3.0.30", 2**40, mode, modes, (Clock("gpu", 1.0, 1.0, 1.0),))
    assert bool(device_facts.check(slow, ORIN, FOOTPRINT, False).warnings) == warned


def test_clocks_that_may_fall_are_warned_of(tmp_path: Path) -> None:
    (warning,) = findings(tmp_path, held=False).warnings
    assert "policy0, 17000000.gpu may fall" in warning and "jetson_clocks" in warning


@pytest.mark.parametrize(
    ("name", "python", "fits"),
    [
        ("numpy-2.2.6-cp310-cp310-manylinux_2_17_aarch64.manylinux2014_aarch64.whl", "3.10", True),
        ("numpy-2.2.6-cp310-cp310-manylinux_2_17_aarch64.manylinux2014_aarch64.whl", "3.12", False),
        ("numpy-2.2.6-cp310-cp310-manylinux2014_x86_64.whl", "3.10", False),
        ("tokenizers-0.23.3-cp39-abi3-manylinux2014_aarch64.whl", "3.10", True),
        ("tokenizers-0.23.3-cp311-abi3-manylinux2014_aarch64.whl", "3.10", False),
        ("Jinja2-3.1.6-py3-none-any.whl", "3.10", True),
        ("pillow-12.0.0-1-cp310-cp310-linux_aarch64.whl", "3.10", True),
        ("pillow-12.0.0-cp310-cp310-manylinux_2_39_aarch64.whl", "3.10", False),
        ("pillow-12.0.0-cp312-cp312-manylinux_2_39_aarch64.whl", "3.12", True),
        ("pillow-12.0.0-cp310-cp310-musllinux_1_2_aarch64.whl", "3.10", False),
    ],
)
def test_a_wheel_fits_by_its_name(name: str, python: str, fits: bool) -> None:
    assert wheels.fits(wheels.parse(name), python, "aarch64") == fits


@pytest.mark.parametrize("name", ["numpy.whl", "numpy-2.2.6.tar.gz", "a--py3-none-any.whl"])
def test_what_is_no_wheel_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="not the name of a wheel"):
        wheels.parse(name)


def test_missing_wheels_are_named_with_what_is_there() -> None:
    names = ["Jinja2-3.1.6-py3-none-any.whl", "numpy-1.24.0-cp310-cp310-manylinux2014_aarch64.whl"]
    names += ["Pillow-12.0.0-cp311-cp311-manylinux2014_aarch64.whl"]
    assert wheels.missing(map(wheels.parse, names), "3.10", "aarch64") == [
        "numpy>=1.26 (there is numpy-1.24.0-cp310-cp310-manylinux2014_aarch64.whl)",
        "pillow>=11 (there is Pillow-12.0.0-cp311-cp311-manylinux2014_aarch64.whl)",
        "tokenizers>=0.21",
        "markupsafe>=2.0",
    ]


def test_bounds_are_those_of_the_package() -> None:
    text = (Path(luvc_export.__file__).resolve().parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    for item in wheels.REQUIRED:
        if item.distribution != "markupsafe":  # jinja2's own
            assert f'"{item.distribution}>={item.at_least}"' in text


def elf(folder: Path, machine: int) -> Path:
    """The head of a shared library for ``machine`` (elf.h)."""
    path = folder / "libluvc_plugins.so"
    path.write_bytes(
        b"\x7fELF\2\1\1" + bytes(9) + (3).to_bytes(2, "little") + machine.to_bytes(2, "little") + bytes(64)
    )
    return path


def test_plugins_are_for_the_board(tmp_path: Path) -> None:
    programs.check_plugins(None, ORIN)
    programs.check_plugins(elf(tmp_path, 183), ORIN)
    with pytest.raises(UsageError, match=r"not for the board\n.*\n.*x86_64\n.*aarch64\n.*build it on the board"):
        programs.check_plugins(elf(tmp_path, 62), ORIN)
    (tmp_path / "text.so").write_text("no library")
    with pytest.raises(UsageError, match="no ELF file"):
        programs.check_plugins(tmp_path / "text.so", ORIN)


def reference() -> Answer:
    random = np.random.default_rng(0)
    logits = random.normal(size=(3, 50)).astype(np.float32)
    logits[np.arange(3), [7, 8, 9]] = 10
    return Answer((1, 2), (7, 8, 9), "said", logits, {1: np.arange(20)[None], 2: np.arange(8)[None]})


def swapped(answer: Answer, count: int) -> Answer:
    kept = {**answer.kept, 1: answer.kept[1].copy()}
    kept[1][0, -count:] += 100
    return replace(answer, kept=kept)


def test_an_answer_that_differs_by_rounding_passes_with_its_figures() -> None:
    exact = reference()
    rounded = exact.logits.astype(np.float16).astype(np.float32) + np.float32(1e-3)
    verdict = compare_answers(exact, replace(exact, logits=rounded), LIMITS)
    error = np.linalg.norm(rounded - exact.logits) / np.linalg.norm(exact.logits)
    assert verdict.passed and (verdict.overlap, verdict.tokens) == (1.0, 1.0)
    assert verdict.rel_l2 == pytest.approx(error, rel=1e-4) and 1e-4 < error < 2e-2
    ours, theirs = (np.exp(x.astype(np.float64)) for x in (rounded, exact.logits))
    ours, theirs = (p / p.sum(-1, keepdims=True) for p in (ours, theirs))
    assert verdict.kl == pytest.approx((theirs * np.log(theirs / ours)).sum(-1).max(), rel=1e-2, abs=1e-9)


def test_one_swapped_token_passes_with_the_logits_that_follow_it() -> None:
    off = replace(reference(), logits=reference().logits * np.float32(1.03))
    assert not compare_answers(reference(), off, LIMITS).passed
    assert compare_answers(reference(), swapped(off, 1), LIMITS).passed


def test_more_swapped_tokens_pass_only_where_the_logits_do_not_show_it() -> None:
    assert compare_answers(reference(), swapped(reference(), 3), LIMITS).passed
    verdict = compare_answers(
        reference(), swapped(replace(reference(), logits=reference().logits * np.float32(1.03)), 3), LIMITS
    )
    assert "3 tokens of one image are not those the reference keeps" in verdict.reasons[0]


def test_a_word_may_be_another_only_in_a_tie() -> None:
    near, far = reference(), reference()
    for answer, other in ((near, 9.9), (far, 9.0)):
        answer.logits[1, 30] = other
    other_word = (7, 30, 9)
    assert compare_answers(near, replace(near, token_ids=other_word), LIMITS).passed
    assert "word 2 is another" in compare_answers(far, replace(far, token_ids=other_word), LIMITS).reasons[0]


@pytest.mark.parametrize(
    ("sabotage", "reason"),
    [
        (lambda answer: replace(answer, logits=answer.logits * np.float32(1.5)), "logits differ by 5.0e-01"),
        (
            lambda answer: replace(answer, logits=np.where(answer.logits == 10, np.nan, answer.logits)),
            "logits differ by inf",
        ),
        (lambda answer: replace(answer, logits=np.roll(answer.logits, 1, axis=1)), "KL divergence"),
        (lambda answer: replace(answer, logits=answer.logits[:2]), "logits differ by inf"),
        (lambda answer: replace(answer, prompt_ids=(1, 3)), "the prompt has other tokens"),
        (lambda answer: replace(answer, kept={1: answer.kept[1]}), "kept tokens by layer {1: (1, 20)}"),
        (lambda answer: replace(answer, kept={**answer.kept, 2: answer.kept[2][:, :7]}), "the reference has"),
    ],
)
def test_a_departing_answer_fails(sabotage, reason: str) -> None:  # type: ignore[no-untyped-def]
    verdict = compare_answers(reference(), sabotage(reference()), LIMITS)
    assert not verdict.passed and any(reason in line for line in verdict.reasons), verdict


GOOD: dict[str, Any] = {
    "wheels": ["a-1-py3-none-any.whl"],
    "requirements": [{"distribution": "a", "module": "a", "at_least": "1"}],
    "files": {"wheels/a-1-py3-none-any.whl": {"sha256": "0", "bytes": 1}},
    "python": "3.10",
}
ODD = [
    *({**GOOD, "wheels": odd} for odd in (None, 7, "a.whl", {}, [7], ["../a-1-py3-none-any.whl"], ["a.whl"], [["a"]])),
    *({**GOOD, "files": odd} for odd in (None, [], {"a": None}, {"a": {"sha256": 7}}, {"a": []})),
    *({**GOOD, "requirements": odd} for odd in (None, {}, [None], [{}], [{"module": 7}])),
    *({**GOOD, "requirements": [{**GOOD["requirements"][0], "module": odd}]} for odd in ("", ".", "a.b", "..x", None)),
    *({**GOOD, "python": odd} for odd in (None, 3)),
    *([], None, 7, "pack", {}),
]


@pytest.mark.parametrize("data", [*(json.dumps(odd) for odd in ODD), "[" * 200_000, "", "\x00", "{"], ids=str)
def test_an_odd_pack_json_is_damage_and_no_case_that_failed(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1 says that a case failed, and a traceback ends in it: twelve of twenty-four did."""
    monkeypatch.setattr(bootstrap, "HERE", tmp_path)
    monkeypatch.setattr(bootstrap, "SITE", tmp_path / "site")
    monkeypatch.setattr(sys, "argv", ["install-and-verify"])
    (tmp_path / "pack.json").write_text(data)
    with pytest.raises(SystemExit) as stop:
        bootstrap.main()
    printed = capsys.readouterr()
    assert stop.value.code == 2 and "this is not a pack" in printed.err and printed.out == "NOT VERIFIED\n"


def test_a_bug_of_its_own_is_no_case_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["install-and-verify"])
    monkeypatch.setattr(bootstrap, "_read", lambda: 1 / 0)
    assert bootstrap.main() == 70
