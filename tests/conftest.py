"""What several tests share: the bundled checkpoint, exported once a run."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

# Tiny models gain nothing from more threads, and spinning threads of several processes starve each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Bundles of fixtures are written here, some by hand; what a stranger's first run does has tests of its own.
os.environ.setdefault("LUVC_TRUST_BUNDLES", "1")
# A shell's background jobs start with SIGINT ignored, and so would what the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import demo_cache
import native_build
import pytest
from hypothesis import settings
from native_kernels import LIBRARY_VARIABLE, Native
from slow_cases import slow_but

from luvc_export.bundle.folder import Bundle
from luvc_export.runtime.speed_probe import first_token, one_row

settings.register_profile("repo", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("repo")


#: Makes the demo bundle, while the other worker has what does not need it.
FIRST = "test_main_job.py"
#: Modules of more than four CPU seconds, longest first by what a run of each said; what takes little ends the run. The
#: first two are ``make slow``'s.
LONGEST = (
    "test_tutorial.py", "test_kills.py", "test_family_graphs.py", "test_goldens.py", "test_equal.py", "test_pack.py",
    "test_family_plans.py", "test_vector_parity.py", "test_encoder_graphs.py", "test_cli.py",
    "test_openvino_backend.py", "test_elsewhere.py", "test_packed.py", "test_quantise_bundle.py",
    "test_ov_narrow_bundles.py", "test_build_bundle.py", "test_batch_pool.py", "test_call_plugins.py", "test_rows.py",
    "test_first_run.py", "test_trt_codes.py", "test_template_limits.py", "test_modelopt_backend.py",
    "test_family_encoders.py", "test_budgets_verb.py", "test_sabotage.py", "test_family_many_vectors.py",
    "test_family_answers.py", "test_window_rows.py", "test_family_runners.py", "test_paired.py", "test_parity.py",
    "test_build_vectors.py", "test_pack_vectors.py", "test_finished_steps.py", "test_trt_parity.py", "test_chat.py",
    "test_json_properties.py", "test_drafting.py", "test_search.py", "test_house.py", "test_packaging.py",
    "test_draft_model.py", "test_faults.py", "test_page.py", "test_chat_completions.py", "test_fuzz.py",
    "test_prefill.py", "test_narrow_bundle.py", "test_sliding_windows.py", "test_kept.py", "test_slot_rows.py",
    "test_model_types.py", "test_trt_backend.py", "test_names.py", "test_stored_formats.py", "test_guided.py",
    "test_cache_codes.py", "test_ablation.py", "test_family_unit_buckets.py", "test_deep_model.py",
    "test_run_sampling.py", "test_bundling.py", "test_trt_adapters.py", "test_family_odd.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order for two workers: the longest modules first, and what needs the demo bundle after the one that makes it.

    pytest-xdist keeps this order only with ``--no-loadscope-reorder``; else modules of few, long tests end the run.
    """
    waits = {item.path for item in items if "demo_bundle" in getattr(item, "fixturenames", ())}
    turns = {name: turn for turn, name in enumerate(LONGEST)}
    items.sort(key=lambda item: (item.path.name != FIRST, item.path in waits, turns.get(item.path.name, len(LONGEST))))


def pytest_collection_finish() -> None:
    """Once the tests' modules are imported: what only those that trace need, where there are any."""
    if "torch" in sys.modules:
        import quick_tracing

        quick_tracing.quicken()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is remembered of files and of products' times goes to a folder of this run, not to the user's.

    Times are kept though the machine is busy, else each run of ``doctor`` and of the choice of a back-end takes them;
    what is timed is small, for a short time, whatever the CPU's caches hold. Nothing has to outlive the machine, so no
    file is waited for until it lies on the disk.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one_row, "busy", lambda: False)
        patch.setattr(one_row, "spilling", lambda: lambda: None)
        patch.setattr(one_row, "SECONDS", 0.01)
        patch.setattr(first_token, "SECONDS", 0.02)
        for most in ("MOST_INNER", "MOST_COLUMNS", "MOST_HEAD"):
            patch.setattr(one_row, most, 512)
        patch.setattr(os, "fsync", lambda handle: None)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def server_loggers() -> Iterator[None]:
    """As they were: ``serve`` called in this process logs to a test's standard error, which is closed with the test."""
    loggers = [logging.getLogger(name) for name in ("luvc_export.serve", "uvicorn.error")]
    before = [(one, one.handlers, one.propagate, one.level) for one in loggers]
    yield
    for one, handlers, propagate, level in before:
        one.handlers, one.propagate = handlers, propagate
        one.setLevel(level)


@pytest.fixture(scope="session")
def demo_bundle(pytestconfig: pytest.Config) -> Bundle:
    """The bundled checkpoint with plans ``none``, ``even`` and ``thirds`` and debug decoders; never changed."""
    return demo_cache.demo_bundle(Path(pytestconfig.cache.mkdir("demo")))


@pytest.fixture(scope="session")
def unpadded_bundle(pytestconfig: pytest.Config) -> Bundle:
    """Its first layers with plan ``thirds``, exported with ``--ignore-padding``."""
    return demo_cache.unpadded_bundle(Path(pytestconfig.cache.mkdir("unpadded")))


@pytest.fixture(scope="session")
def short_bundle(pytestconfig: pytest.Config) -> Bundle:
    """Its first layers with plans ``none`` and ``thirds`` and a debug decoder: a third of the time; never changed."""
    return demo_cache.short_bundle(Path(pytestconfig.cache.mkdir("short")))


@pytest.fixture(scope="session", params=slow_but(["bf16"], ["bf16", "fp16"]))
def narrow_bundle(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Bundle:
    """See ``demo_cache.narrow_bundle``; never changed."""
    return demo_cache.narrow_bundle(Path(pytestconfig.cache.mkdir(f"narrow-{request.param}")), request.param)


@pytest.fixture(scope="session")
def lora(pytestconfig: pytest.Config) -> Path:
    """See ``lora_bundle.lora_folder``."""
    import lora_bundle

    return lora_bundle.lora_folder(Path(pytestconfig.cache.mkdir("lora")))


@pytest.fixture(scope="session")
def native_library(pytestconfig: pytest.Config) -> Native:
    """The library of ``$LUVC_NATIVE_LIBRARY``, or one built here from the sources of this checkout."""
    if os.environ.get(LIBRARY_VARIABLE):
        return Native()
    if missing := [tool for tool in ("cmake", "c++") if shutil.which(tool) is None]:
        pytest.skip(f"the native library is not built and cannot be: no {' and no '.join(missing)}")
    return Native(native_build.native_library(Path(pytestconfig.cache.mkdir("native"))))


@pytest.fixture
def copied_bundle(demo_bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of the demo bundle that a test may damage."""
    return Path(shutil.copytree(demo_bundle.folder, tmp_path / "bundle"))


@pytest.fixture
def copied_short(short_bundle: Bundle, tmp_path: Path) -> Path:
    """The same of the short one."""
    return Path(shutil.copytree(short_bundle.folder, tmp_path / "bundle"))
