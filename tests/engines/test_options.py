from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from luvc_export.engines import targets
from luvc_export.engines.options import BuildOptions
from luvc_export.errors import UsageError


def test_every_problem_at_once() -> None:
    wrong: dict[str, Any] = {"builder_optimization_level": 9, "hardware_compatibility": "amper+", "workspace_mib": 0}
    with pytest.raises(UsageError) as got:
        BuildOptions(**wrong)
    for part in ("--memPoolSize: got 0 MiB", "--builderOptimizationLevel: got 9", "did you mean 'ampere+'"):
        assert part in str(got.value)


@pytest.mark.parametrize(
    ("choice", "flag"),
    [
        ({"version_compatible": True}, "--versionCompatible"),
        ({"hardware_compatibility": "ampere+"}, "--hardwareCompatibilityLevel"),
        ({"timing_cache": Path("x")}, "--timingCacheFile"),
        ({"dynamic_plugins": Path(__file__)}, "--dynamicPlugins"),
    ],
)
def test_what_rtx_has_not_is_refused(choice: dict[str, Any], flag: str) -> None:
    with pytest.raises(UsageError, match=f"tensorrt_rtx has no {flag}"):
        BuildOptions(**choice).check(targets.find("rtx-ada").library)
    BuildOptions(**choice).check(targets.find("h100").library)


def test_a_plugin_library_that_is_not_there_is_refused(tmp_path: Path) -> None:
    options = BuildOptions(dynamic_plugins=tmp_path / "libluvc_plugins.so")
    with pytest.raises(UsageError, match=r"no such plugin library[\s\S]*where: --dynamicPlugins[\s\S]*README") as got:
        options.check(targets.find("jetson-agx-orin-jp62").library)
    assert got.value.exit_code == 2
