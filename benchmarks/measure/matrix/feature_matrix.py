"""Every choice of a plan on every back-end: answers of ONNX Runtime, OpenVINO and torch are equal, or refused.

    python benchmarks/measure/matrix/feature_matrix.py FOLDER [--family NAME ...] [--feature TEXT ...] [--again]

Tiny checkpoints of random weights are exported with one plan for each feature (``features.py``), and asked
(``answers.py``): first answers about padded and whole pictures, a second turn that is read from the caches, a batch
with a row of text alone, and text alone. Compared are tokens, log probabilities of the 20 likeliest, kept sets and
visual tokens; what is compared with are torch's answers to whole chats, one by one. A feature that is done is a
cell of its family's line in docs/results/feature-matrix.json; those that stand there are not run again. Exit code 1
where anything differs or ends otherwise than by an error of this package.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(Path(__file__).parent), str(HERE / "tests" / "export" / "families"), str(HERE / "tests")]
import family_chat  # noqa: E402
import torch  # noqa: E402
from answers import Questions, answers, apart, expected  # noqa: E402
from family_harness import Case  # noqa: E402
from family_questions import small  # noqa: E402
from features import LAYERS, TILES, Feature, asked, features  # noqa: E402
from quick_tracing import quicken  # noqa: E402
from torch_backend import TorchBackend  # noqa: E402

from luvc_export import export_bundle  # noqa: E402
from luvc_export.bundle.folder import Bundle  # noqa: E402
from luvc_export.core.plan import Plan  # noqa: E402
from luvc_export.core.plan.plan_set import with_buckets  # noqa: E402
from luvc_export.errors import LuvcError  # noqa: E402
from luvc_export.export.checkpoint import open_checkpoint  # noqa: E402
from luvc_export.pipeline import make_plan  # noqa: E402
from luvc_export.runtime.session import Session  # noqa: E402

OUTPUT = HERE / "docs" / "results" / "feature-matrix.json"
BACKENDS = ("torch", "cpu", "openvino")
#: Plans of a bundle: what was answered is written after each, what was traced is lost where the run is cut off.
MOST = 8
Record = dict[str, Any]


def plan_of(feature: Feature, name: str, tiny: Case, checkpoint: Path) -> dict[str, Plan]:
    """The plan of a feature under ``name``, with its bucket beside it.

    Raises:
        LuvcError: The family or the other choices do not go with it.
    """
    opened = open_checkpoint(str(checkpoint))
    schedule, choices = asked(feature, opened, tiny.plan.units, tiny.config.get_text_config().hidden_size)
    plan = make_plan(str(checkpoint), schedule, image_size=tiny.size, **choices)
    return {name: plan} if feature.bucket is None else {**with_buckets({name: plan}, [feature.bucket, 100])}


def exported(plans: Mapping[str, Plan], shared: str, tiny: Case, checkpoint: Path, folder: Path) -> Bundle:
    """A bundle of these plans; what the encoder does alike is traced once."""
    options: dict[str, Any] = {"image_size": tiny.size, "text_capacity": 256}
    if shared:
        options |= {"video": True} if shared == "clip" else {"tiles": (TILES,)}
    return export_bundle(str(checkpoint), folder, plans, overwrite=True, **options)


def compared(bundle: Bundle, plan: str, tiny: Case, shared: str) -> Record:
    """What the answers of every back-end are, in every way of asking."""
    questions = Questions.of(tiny, shared)
    reference = Session(bundle, TorchBackend(tiny, bundle.entry(plan).plan), plan)
    wanted = expected(reference, questions, bundle.entry(plan).plan.reads_text)
    record: Record = {"equal": 0, "worst": 0.0}
    for backend in BACKENDS:
        session = reference
        if backend != "torch":
            session = Session(bundle, backend, plan, threads=1, arithmetic="fp32")
        for way, answer in answers(session, questions):
            cell, expects = f"{backend}, {way}", wanted[way]
            try:
                answered = answer()
            except LuvcError as error:
                alike = isinstance(expects, LuvcError) and expects.what == error.what
                record.setdefault("refused" if alike or backend != "torch" else "differs", {})[cell] = error.what
                continue
            except Exception as error:
                traceback.print_exc()
                record.setdefault("differs", {})[cell] = f"{type(error).__name__}: {str(error)[:200]}"
                continue
            if isinstance(expects, LuvcError):
                record.setdefault("differs", {})[cell] = f"an answer, where torch says: {expects.what}"
                continue
            differences = [apart(mine, other) for mine, other in zip(answered, expects, strict=True)]
            record["worst"] = max(record["worst"], *(worst for _, worst in differences))
            if reason := next((text for text, _ in differences if text), None):
                record.setdefault("differs", {})[cell] = reason
            else:
                record["equal"] += 1
    return {**record, "worst": float(f"{record['worst']:.1e}")}


def tried(chosen: list[Feature], tiny: Case, checkpoint: Path, folder: Path) -> Iterator[tuple[Feature, Record]]:
    """A line for each feature: equal in so many of twelve cells, or refused with a reason."""
    plans: dict[Feature, dict[str, Plan]] = {}
    for number, feature in enumerate(chosen):
        try:
            plans[feature] = plan_of(feature, f"plan{number}", tiny, checkpoint)
        except LuvcError as error:
            yield feature, {"refused": {"plan": error.what}}
    for alike in together(plans):
        try:
            of_all = {name: plan for feature in alike for name, plan in plans[feature].items()}
            bundle = exported(of_all, alike[0].shared, tiny, checkpoint, folder)
        except LuvcError as error:
            if len(alike) > 1:
                for feature in alike:
                    yield from tried([feature], tiny, checkpoint, folder)
            else:
                yield alike[0], {"refused": {"export": error.what}}
            continue
        for feature in alike:
            name = next(iter(plans[feature])) + (f"@{feature.bucket}" if feature.bucket else "")
            yield feature, compared(bundle, name, tiny, feature.shared)


def together(plans: Mapping[Feature, Mapping[str, Plan]]) -> list[list[Feature]]:
    """Features whose plans have one encoder and share budgets alike: a bundle each."""
    groups: dict[tuple[Any, ...], list[Feature]] = {}
    for feature, plan in plans.items():
        one = next(iter(plan.values()))
        groups.setdefault((one.encoder, feature.shared, feature.bucket), []).append(feature)
    return [group[first : first + MOST] for group in groups.values() for first in range(0, len(group), MOST)]


def read() -> list[Record]:
    """What was run before."""
    data = json.loads(OUTPUT.read_text(encoding="utf-8")) if OUTPUT.is_file() else {}
    return [{"family": name, "feature": key} | record for name, cells in data.items() for key, record in cells.items()]


def write(records: list[Record]) -> None:
    """A line a family, by feature."""
    data: dict[str, Record] = {}
    for record in records:
        cell = {name: value for name, value in record.items() if name not in ("family", "feature")}
        data.setdefault(record["family"], {})[record["feature"]] = cell
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(cells)}" for name, cells in data.items())
    OUTPUT.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def run(families: list[str], words: list[str], again: bool, folder: Path) -> Iterator[Record]:
    """Try what stands in no line yet; give each line."""
    for name in families:
        tiny, checkpoint = small(name, LAYERS), folder / name
        if not checkpoint.is_dir():
            checkpoint.mkdir(parents=True)
            family_chat.save(tiny, checkpoint)
        done = {one["feature"] for one in read() if one["family"] == name and not again}
        chosen = [feature for feature in features() if feature.name not in done]
        chosen = [feature for feature in chosen if not words or any(word in feature.name for word in words)]
        for feature, record in tried(chosen, tiny, checkpoint, folder / "bundle"):
            yield {"family": name, "feature": feature.name} | record


def main() -> int:
    """Run what was asked for; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--family", action="append", help="default: those that have a line")
    parser.add_argument("--feature", action="append", default=[], help="those whose name holds it")
    parser.add_argument("--again", action="store_true", help="also those that stand there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    quicken()
    order = [feature.name for feature in features()]
    for record in run(
        options.family or sorted({one["family"] for one in read()}), options.feature, options.again, options.folder
    ):
        print(json.dumps(record), flush=True)
        key = (record["family"], record["feature"])
        records = [one for one in read() if (one["family"], one["feature"]) != key] + [record]
        write(sorted(records, key=lambda one: (one["family"], order.index(one["feature"]))))
    return int(any("differs" in record for record in read()))


if __name__ == "__main__":
    sys.exit(main())
