"""One cell of ``sixteen_bits.py``: a bundle of a family, a type and a kind of plan, and what each check says of it.

A bundle with every plan that needs no options of its own serves several kinds: plans of codes are added to it, states
and windows are kinds of layers that ``none`` shows. Exports are what takes time.
"""

from __future__ import annotations

import shutil
import sys
import traceback
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(HERE / "tests" / "export" / "families"), str(HERE / "tests")]
import family_chat  # noqa: E402
import numpy as np  # noqa: E402
import onnx  # noqa: E402
import torch  # noqa: E402
from family_harness import MADE_HERE, Case  # noqa: E402
from family_questions import SLIDING, exportable, few, questions  # noqa: E402
from quick_tracing import quicken  # noqa: E402

from luvc_export import build_engine, export_bundle, make_plan  # noqa: E402
from luvc_export.bundle.folder import Bundle, load  # noqa: E402
from luvc_export.calibration.parity.compare import Answered  # noqa: E402
from luvc_export.calibration.parity.result import Gate, ParityResult  # noqa: E402
from luvc_export.calibration.parity.run import open_pair, parity  # noqa: E402
from luvc_export.calibration.parity.tolerances import tolerances  # noqa: E402
from luvc_export.calibration.quantise.agreement import Remembered  # noqa: E402
from luvc_export.calibration.quantise.cache_calibration import calibrate_caches  # noqa: E402
from luvc_export.calibration.quantise.calibrate import calibrate  # noqa: E402
from luvc_export.calibration.quantise.recipe import Recipe  # noqa: E402
from luvc_export.calibration.runners import open_bundle  # noqa: E402
from luvc_export.calibration.runners.base import LOGITS, Runner  # noqa: E402
from luvc_export.calibration.runners.graph import GraphRunner  # noqa: E402
from luvc_export.core.plan.plan_set import with_buckets  # noqa: E402
from luvc_export.core.precision import CACHES, PRECISIONS  # noqa: E402
from luvc_export.errors import LuvcError  # noqa: E402
from luvc_export.pipeline import make_plans, prepare_build  # noqa: E402
from luvc_export.runtime.prompt.case_lines import FileCase  # noqa: E402

PLAN, RTX, JETSON, FRAMES, RANK, LONGEST = "safe", "rtx-ada", "jetson-agx-orin-jp72", 4, 4, 8
#: Plans of one bundle, and kinds that one of them shows.
NAMED = ("none", PLAN, "luvc")
LAYERS = ("states", "windows")
#: Kinds that are precisions of weights (q4f16 is q4 of a bundle in fp16), and kinds that are precisions of caches.
WEIGHTS = tuple(name for name in PRECISIONS if name != "q4f16")
CODES = {suffix.removeprefix("_"): name for name, suffix in CACHES.items()}
#: Kinds that are options of a bundle, so that each is a bundle of its own, and what that names the plan.
OPTIONS = {"slots": "", "buckets": "@50", "clips": "@video"}
#: How much further from fp32 than the reference an engine may be: the worst of four cases differs by as much where
#: other sums round otherwise.
SLACK = 1.5
KINDS = (*NAMED, *WEIGHTS, *CODES, *LAYERS, *OPTIONS)
FAMILIES = tuple(MADE_HERE)
#: Gates of parity that say what becomes of logits, whose own distance has gates.
PREDICTIONS = {"KL of predictions", "top-1 agreement"}
TOKENS = PREDICTIONS | {"greedy agreement", "same text"}
KEPT = "kept tokens that no tie explains"
CHECKS = ("checker", "onnx runtime", "openvino fp32", "openvino bf16", "rtx build", "pack lint")
Cell = tuple[str, str, str]


class Without(Exception):  # noqa: N818
    """A family has nothing of a kind."""


class Cells:
    """Runs cells. A bundle is exported once a process and cell, or once for the kinds that share it.

    Args:
        folder: Checkpoints and bundles are written there.
        named: Plans of the bundle that several kinds share.
    """

    def __init__(self, folder: Path, named: Sequence[str] = NAMED) -> None:
        torch.set_num_threads(1)
        quicken()
        self.folder, self.named = folder, named
        self._bundles: dict[Cell, Bundle | LuvcError] = {}
        self._results: dict[tuple[str, ...], dict[str, str]] = {}
        self._reference: tuple[Any, ...] = ((),)

    def __call__(self, name: str, kind: str, dtype: str, only: Collection[str] = CHECKS) -> dict[str, Any]:
        """What every check of ``only`` says, or why there is no bundle."""
        try:
            bundle, plan = self.exported(name, kind, dtype)
        except Without as without:
            return {"none": str(without)}
        except LuvcError as error:
            traceback.print_exc()
            return {"refused at export": error.what}
        except Exception as error:
            traceback.print_exc()
            return {"checks": dict.fromkeys(CHECKS, f"differs: no bundle, {shown(error)}")}
        key = (name, dtype, bundle.folder.name, plan)
        checks = self._results.setdefault(key, {})
        for check, run in self.checks(bundle, plan, name, dtype).items():
            if check in checks or check not in only:
                continue
            try:
                checks[check] = run()
            except LuvcError as error:
                print(f"{name} {kind} {dtype} {check}: {error}", file=sys.stderr)
                checks[check] = f"refused: {error.what}"
            except Exception as error:
                traceback.print_exc()
                checks[check] = f"differs: {shown(error)}"
        return {"checks": checks}

    def know(self, bundle: Bundle, name: str, dtype: str) -> None:
        """Take a bundle that was exported before as the one that kinds share."""
        self._bundles[name, "", dtype] = bundle

    def checkpoint(self, name: str) -> Path:
        """The family's tiny model, saved."""
        checkpoint = self.folder / name
        if not (checkpoint / "generation_config.json").is_file():
            checkpoint.mkdir(parents=True, exist_ok=True)
            family_chat.save(exportable(name), checkpoint)
        return checkpoint

    def exported(self, name: str, kind: str, dtype: str) -> tuple[Bundle, str]:
        """A bundle with a plan of a kind, and that plan's name.

        Raises:
            Without: The family has no such layers or films.
            LuvcError: A refusal.
        """
        tiny = exportable(name)
        check_has(tiny, kind)
        if kind in OPTIONS:
            return self._exported(name, kind, dtype), PLAN + OPTIONS[kind]
        bundle = self._exported(name, "", dtype)
        if kind in NAMED or kind in LAYERS:
            return bundle, kind if kind in NAMED else "none"
        ranges, bundle = bundle.folder.with_suffix(".ranges"), load(self._copied(bundle, "coded"))
        data = few(questions(name, "stills"))
        if kind in CODES:
            coded = calibrate_caches(bundle, data, CODES[kind], plan=PLAN, min_agreement=0, threads=1)
        else:
            precision = PRECISIONS["q4f16" if kind == "q4" and dtype == "fp16" else kind]
            coded = calibrate(
                bundle, data, Recipe(precision), plan=PLAN, min_agreement=0, threads=1, ranges_file=ranges
            )
        return load(coded.bundle.folder), coded.plan

    def _copied(self, bundle: Bundle, name: str) -> Path:
        """A copy of a bundle that may be changed."""
        folder = self.folder / f"{name}-{bundle.manifest.dtype}"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(bundle.folder, folder)
        return folder

    def _exported(self, name: str, kind: str, dtype: str) -> Bundle:
        """The bundle of a kind of its own, or of all others (``""``); a refusal is one the next time too."""
        key = (name, kind, dtype)
        if key not in self._bundles:
            try:
                self._bundles[key] = self._export(*key)
            except LuvcError as error:
                self._bundles[key] = error
        bundle = self._bundles[key]
        if isinstance(bundle, LuvcError):
            raise bundle
        return bundle

    def _export(self, name: str, kind: str, dtype: str) -> Bundle:
        tiny, checkpoint = exportable(name), str(self.checkpoint(name))
        folder = self.folder / "bundles" / "-".join(filter(None, (name, kind, dtype)))
        folder.with_suffix(".ranges").unlink(missing_ok=True)
        options: dict[str, Any] = {"image_size": tiny.size, "text_capacity": 256, "dtype": dtype, "overwrite": True}
        plans: Any = {
            plan: make_plan(checkpoint, plan, image_size=tiny.size) for plan in ((PLAN,) if kind else self.named)
        }
        if kind == "buckets":
            plans = {**with_buckets(plans, [50, 100])}
        elif kind == "clips":
            plans = make_plans(checkpoint, [PLAN], image_size=[tiny.size], joint_frames=FRAMES)
            options |= {"video": True}
        elif kind == "slots":
            options |= {"lora_slots": RANK}
        return load(export_bundle(checkpoint, folder, plans, **options).folder)

    def checks(self, bundle: Bundle, plan: str, name: str, dtype: str) -> dict[str, Callable[[], str]]:
        """What each check does."""

        def same(runner: str, arithmetic: str) -> Callable[[], str]:
            return lambda: self.same(bundle, plan, name, dtype, runner, arithmetic)

        def built() -> str:
            build_engine(self._copied(bundle, "engines"), RTX, plan)
            return "built"

        def packed() -> str:
            prepare_build(bundle, JETSON, plan)
            return "passed"

        runs = (lambda: typed(bundle, plan), same("onnx", "fp32"), same("openvino", "fp32"), same("openvino", "bf16"))
        return dict(zip(CHECKS, (*runs, built, packed), strict=True))

    def same(self, bundle: Bundle, plan: str, name: str, dtype: str, runner: str, arithmetic: str) -> str:
        """Whether a plan answers in one engine as transformers' model in a type, or the compressed modules in it.

        What fails a gate is equal too where, by every gate it fails, it is as near to the model in fp32 as the
        reference in that type is (in bf16 where the engine computes in it): the gate sees that rounding. So is a plan
        of codes that answers as ONNX Runtime does with the same codes in fp32, or as this engine does in this
        arithmetic. Rounding a row of four-bit weights moves the rows after it, so codes of a bundle in bf16 may be
        others than in fp32: they must be as near to the model as those, and answer as its graphs widened do.

        Raises:
            LuvcError: The engine or parity refuses.
        """
        reference = f"{'hf' if plan == 'none' else 'torch'}:{self.checkpoint(name)}"

        def pair(type_: str) -> tuple[Runner, Runner]:
            return open_pair(
                reference, f"{runner}:{bundle.folder}#{plan}", dtype=type_, threads=1, arithmetic=arithmetic
            )

        key = (name, dtype, bundle.folder.name, plan)
        if self._reference[0] != key:
            asked = questions(name, "videos" if plan.endswith("@video") else "stills")
            self._reference = key, Remembered(pair(dtype)[0]), asked
        _, model, asked = self._reference
        candidate = pair(dtype)[1]

        def held(one: Any, other: Any) -> ParityResult:
            return parity(one, other, asked, observe=len(asked), longest=LONGEST)

        result = held(model, candidate)
        text = verdict(result, asked)
        if dtype == "fp32" or not text.startswith("differs: "):
            return text
        failures = [gate for gate in result.gates if not gate.passed]
        if codes := bundle.entry(plan).quantised:
            kind = "q4" if codes.precision == "q4f16" else codes.precision
            whole, own_plan = self.exported(name, kind, "fp32")
            for engine, computed, how in (("onnx", "fp32", ""), (runner, arithmetic, " computed so too")):
                pair_of = f"{engine}:{whole.folder}#{own_plan}", f"{runner}:{bundle.folder}#{plan}"
                coded = Remembered(open_pair(*pair_of, threads=1, arithmetic=computed)[0])
                beside = verdict(held(coded, candidate), asked)
                if beside.startswith("equal"):
                    return f"{beside} to the same codes in fp32{how}"
                far = {gate.name: gate for gate in held(model, coded).gates}
                if dtype == "bf16" and all(as_near(gate, far[gate.name]) for gate in failures):
                    widened = Remembered(open_bundle(str(bundle.folder), plan, threads=1))
                    beside = verdict(held(widened, candidate), asked)
                    if beside.startswith("equal"):
                        return f"{beside} to its own codes in fp32, as near to the model as a bundle's in fp32"
            return text
        wide, alike = Remembered(pair("fp32")[0]), model if arithmetic != "bf16" else Remembered(pair("bf16")[0])
        own, others = ({gate.name: gate for gate in held(wide, one).gates} for one in (candidate, alike))
        failed = [(own[gate.name], others[gate.name]) for gate in failures]
        print("to fp32:", [(one.name, one.got, other.got) for one, other in failed], file=sys.stderr)
        tensors = [pair for pair in failed if pair[0].name not in TOKENS]
        if not all(as_near(*each) for each in tensors):
            return text
        if all(as_near(*each) for each in failed):
            return "equal, as near to fp32 as the reference"
        ties = tied(result, asked)
        return f"equal, as near to fp32 as the reference, {ties}" if ties else text


def as_near(own: Gate, reference: Gate) -> bool:
    """Whether a figure's distance from what is perfect is that of the reference, but for ``SLACK``."""
    ideal = 0.0 if own.high else 1.0
    return abs(ideal - own.got) <= SLACK * abs(ideal - reference.got)


def check_has(tiny: Case, kind: str) -> None:
    """Check that a family has what a kind is about.

    Raises:
        Without: It has not.
    """
    shape = tiny.family.decoder_shape(tiny.config)
    if kind == "states" and not any(state.axis is None for state in shape.kept):
        raise Without("no layer keeps a state")
    if kind == "windows" and str(tiny) not in SLIDING:
        raise Without("no layer has a window")
    if kind == "clips" and tiny.family.video(tiny.config) is None:
        raise Without("the family takes no films")


def shown(error: Exception) -> str:
    """An exception in one short line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def verdict(result: ParityResult, asked: Sequence[FileCase]) -> str:
    """Whether every gate of parity passed; those that did not go to stderr with their values.

    A few answers of a random model are no share of many: one that differs counts as equal where the reference itself
    has both tokens within the committed width of a tie (``Tolerances.tie``) at the first that differs. Nor is one kept
    token of the few that these pictures have.
    """
    prunes = [one for case in result.comparison.measured for one in case.overlap.values()]
    few = sum(one.unexplained for one in prunes) <= 1
    failed = [gate for gate in result.gates if not gate.passed and not (few and gate.name == KEPT)]
    for gate in failed:
        print(gate, file=sys.stderr)
    names = [gate.name for gate in failed]
    if not names:
        return "equal"
    ties = tied(result, asked) if {*names} <= TOKENS else None
    return f"equal, {ties}" if ties else f"differs: {', '.join(names)}"


def tied(result: ParityResult, asked: Sequence[FileCase]) -> str | None:
    """How many answers part at a tie of the reference; None where one parts elsewhere.

    So must positions of the prompt where a gate of predictions failed; what such a gate lets pass needs no tie.
    """
    comparison = result.comparison
    width = tolerances(comparison.reference.dtype, comparison.candidate.dtype).tie.value
    apart = [pair for pair in zip(asked, comparison.answered, strict=True) if pair[1].diverged is not None]
    gaps = [gap(comparison.reference, *pair) for pair in apart]
    wrong = not all(gate.passed for gate in result.gates if gate.name in PREDICTIONS)
    guesses = [one.prediction.widest_gap for one in comparison.measured if one.prediction] if wrong else []
    print(f"ties: {gaps}, at most {width}", file=sys.stderr)
    widest = max([*gaps, *guesses], default=0.0)
    return f"{len(gaps)} of {len(asked)} answers after a tie ({widest:.2g} apart)" if widest <= width else None


def gap(reference: Any, case: FileCase, answered: Answered) -> float:
    """How far below its best logit the reference has the tokens that differ first, relative to the largest.

    It is told its own words up to there, in one call. Infinite where an answer only ends earlier.
    """
    own, other, at = answered.reference.tokens, answered.candidate.tokens, answered.diverged
    assert at is not None
    if at >= min(len(own), len(other)):
        return float("inf")
    runner = reference.runner
    request = runner.prompting.prepare(case) if isinstance(runner, GraphRunner) else runner._request(case)
    longer = replace(request, token_ids=[*request.token_ids, *own[:at]])
    seen = runner._observe([longer], None, None)[0] if isinstance(runner, GraphRunner) else runner._observe(longer)
    logits = seen.tensors[LOGITS][-1]
    best = logits.max()
    return float(max(best - logits[own[at]], best - logits[other[at]]) / np.abs(logits).max())


def typed(bundle: Bundle, plan: str) -> str:
    """The types of a plan's graphs, by the checker's own inference."""
    for file in sorted(bundle.manifest.files_of(plan)):
        if file.endswith(".onnx"):
            onnx.checker.check_model(str(bundle.path(file)), full_check=True)
    return "typed"
