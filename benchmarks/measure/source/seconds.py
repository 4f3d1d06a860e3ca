"""Where the suite's time goes: worker seconds and CPU seconds by folder, by module and by issue's share.

As a plugin it writes a record for each test: ``PYTHONPATH=benchmarks/measure/source python -m pytest -p seconds
--seconds OUT.jsonl -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"``; ``python
benchmarks/measure/source/seconds.py OUT.jsonl [BEFORE.jsonl] [--modules N] [--tests N]`` adds them up. CPU seconds are
user and system time of the worker and of the children it has waited for; they say the same on a busy machine. What a
fixture of a session takes counts for the test that first asks.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

#: Words of a test's id, by the issue that gave its tests a share of the time. The first that fits counts. Families'
#: tests are the first two together: of families that came after the first nine, wherever they lie.
SHARES = {
    "56 strangers": r"narrow_bundles?\.py|build_narrow|sixteen_bits|family_heads|codes_in_bf16|plain_graph|shell_habits"
    r"|/reading/test_(remarks|tokenizer_files|weight_files)|core/test_text|template_values|files_that_steps_read|that_it_answers",
    "60 readers": r"glm_ocr|lighton_ocr|hunyuan_vl|qianfan_ocr|granite_docling|minicpmv4_7|ovis2|cosmos3_edge"
    r"|/new_family/|test_long_answers",
    "35 families": r"gemma4|qwen3_5|mistral3|lfm2_vl|paligemma|fast_?vlm|paddleocr_vl|llava_next|cosmos"
    r"|sliding_windows",
    "37 decode": r"/speculation/|/test_one_row\.py|/product_check/|/adapters/|_adapters\.py|_slots\.py|test_paired"
    r"|lora_cli|answer_styles|engine/test_drafts|test_bench_drafts|test_engine_times|/ov/test_(narrow|shared_head|tails)"
    r"|adapter_beside_codes|grouped_heads.*a_draft_behind",
    "36 codes": r"/stored/|/packed/|quantised_checkpoint|/quantise/test_(cache_(codes|rounding)|widening)"
    r"|/test_(trt|pack)_codes|/passes/test_(rewrite_codes|append_kv)|weight_order|/test_trt_unload|/bench/test_plan_memory"
    r"|does_not_fit_beside_another|of_open_plans|plans_take_turns",
    "38 video": r"test_(film|camera|video|watching|frame_scores|time_merge|time_options)\b|family_(time|video|turns)"
    r"|glyph_clips|onevision_video",
    "61 vectors": r"/search/|glyph_search|/test_(search_cli|embed_cli|vector_parity|embeddings|rerank|pooling)\.py"
    r"|/test_(pairs|tasks|clusters)\.py|family_(many_)?vector|family_encoders|(batch|build|pack|triton)_vectors"
    r"|long_attention|sentence_transformers",
}

_STARTED = time.perf_counter()


class Spent(NamedTuple):
    """Seconds of the clock, and of the processor."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> Spent:
        """What this process has taken."""
        return cls(time.perf_counter(), sum(os.times()[:4]))

    def since(self, before: Spent) -> Spent:
        """What lies between."""
        return Spent(self.wall - before.wall, self.cpu - before.cpu)


class Watch:
    """Notes what each phase of each test took; a report brings it from the worker to the process that writes."""

    def __init__(self, path: Path | None) -> None:
        self._path, self._last, self._tests = path, Spent(_STARTED, 0.0), dict[str, list[Spent]]()

    def pytest_collection_finish(self, session: Any) -> None:
        """The process's start, imports and collection are nobody's."""
        spent = Spent.now().since(self._last)
        self._last = Spent.now()
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["collection"] = list(spent)

    def pytest_runtest_makereport(self, item: Any) -> None:
        """Called at the end of setup, call and teardown; returns nothing, so pytest makes the report."""
        now = Spent.now()
        item.user_properties.append(("seconds", list(now.since(self._last))))
        self._last = now

    def pytest_runtest_logreport(self, report: Any) -> None:
        """The last phase's report knows all three."""
        if self._path and report.when == "teardown":
            spent = [Spent(*value) for name, value in report.user_properties if name == "seconds"]
            self._tests[report.nodeid] = spent

    def pytest_testnodedown(self, node: Any) -> None:
        """A worker is done."""
        if collection := getattr(node, "workeroutput", {}).get("collection"):
            self._tests[f"(collection of {node.gateway.id})"] = [Spent(*collection)]

    def pytest_sessionfinish(self) -> None:
        """Write what was noted."""
        if self._path:
            rows = [
                [name, *(round(sum(part), 3) for part in zip(*spent, strict=True))]
                for name, spent in self._tests.items()
            ]
            self._path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def pytest_addoption(parser: Any) -> None:
    """``--seconds FILE``."""
    parser.addoption("--seconds", type=Path, help="write seconds of every test here, as lines of JSON")


def pytest_configure(config: Any) -> None:
    """On workers and on the one that writes."""
    path = config.getoption("--seconds")
    config.pluginmanager.register(Watch(None if hasattr(config, "workerinput") else path), "seconds of tests")


def read(path: Path) -> dict[str, Spent]:
    """Seconds by test."""
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return {name: Spent(wall, cpu) for name, wall, cpu in rows}


def share(name: str) -> str:
    """The issue that a test's time counts for."""
    return next((issue for issue, words in SHARES.items() if re.search(words, name)), "none")


def module(name: str) -> str:
    """The file of a test."""
    return name.partition("::")[0]


def folder(name: str) -> str:
    """The folder of a test's file."""
    return name if name.startswith("(") else str(PurePosixPath(module(name)).parent)


def added(tests: dict[str, Spent], key: Callable[[str], str]) -> dict[str, Spent]:
    """Seconds by ``key`` of a test's name, most CPU first."""
    sums: dict[str, list[Spent]] = defaultdict(list)
    for name, spent in tests.items():
        sums[key(name)].append(spent)
    together = {name: Spent(*map(sum, zip(*parts, strict=True))) for name, parts in sums.items()}
    return dict(sorted(together.items(), key=lambda row: -row[1].cpu))


def lines(now: dict[str, Spent], before: dict[str, Spent], most: int | None = None) -> Iterable[str]:
    """A row for each sum: worker seconds, CPU seconds and the same before."""
    for name, spent in [*now.items()][:most]:
        old = before.get(name)
        yield f"{spent.wall:8.1f} {spent.cpu:8.1f} " + (f"{old.wall:8.1f} {old.cpu:8.1f} " if old else "") + name


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("records", type=Path, nargs="+", help="what --seconds wrote; a second file is what was before")
    parser.add_argument("--modules", type=int, default=0, help="so many modules of most CPU seconds")
    parser.add_argument("--tests", type=int, default=0, help="so many tests")
    asked = parser.parse_args()
    now, *older = map(read, asked.records)
    before = older[0] if older else {}
    print("  worker      CPU" + ("   before      CPU" if before else ""))
    for key, most in ((lambda _: "in all", None), (share, None), (folder, None)):
        print(*lines(added(now, key), added(before, key), most), "", sep="\n")
    for key, most in ((module, asked.modules), (str, asked.tests)):
        if most:
            print(*lines(added(now, key), added(before, key), most), "", sep="\n")


if __name__ == "__main__":
    main()
