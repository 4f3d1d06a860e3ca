"""What a trial does: small steps, each a verb in a process of its own, and what of its output goes into the report.

Only what ``pick`` functions name is kept: no path, no name of a file, a host or a checkpoint, no text of an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luvc_export.core.named_plans import DEFAULT_PLAN
from luvc_export.demo import CHECKPOINT, IMAGE_SIZE
from luvc_export.trial.cases import QUESTIONS

Json = dict[str, Any]
#: The plan with compression, and the one without.
PLANS = (DEFAULT_PLAN, "none")
#: Prompt and answer of a bench, in tokens.
_TEXT, _NEW_TOKENS, _REPEATS = 64, 8, 5
_TEXT_CAPACITY = 256
CHECKS = Path(__file__).resolve().parents[2] / "plugins" / "gpu-check.sh"
#: Steps that are programs of their own and no verbs (``cli.child``).
PROGRAMS = ("engines", "gpu-check")


@dataclass(frozen=True)
class Asked:
    """What the user asked for.

    Args:
        model: A checkpoint: folder or hub id.
        target: Whose engines.
        folder: Of the trial.
        canvas: Words that say the size of the image input, as ``plan`` and ``export`` take them; none for the usual.
    """

    model: str
    target: str | None
    folder: Path
    canvas: tuple[str, ...] = ()

    @property
    def bundle(self) -> str:
        """The bundle's folder."""
        return str(self.folder / "bundle")

    @property
    def size(self) -> list[str]:
        """What was asked for, or ``--image-size`` of the bundled model; other families say themselves."""
        if self.canvas:
            return [*self.canvas]
        bundled = Path(self.model).resolve() == CHECKPOINT.resolve()
        return ["--image-size", f"{IMAGE_SIZE[0]}x{IMAGE_SIZE[1]}"] if bundled else []


@dataclass(frozen=True)
class Step:
    """A step.

    Args:
        name: Short, as ``--only`` takes it.
        title: For people.
        needs: What it cannot do without: names of ``lacks.LACKS``.
        after: Steps whose results it reads.
        seconds: How long it takes: at least, and for each GiB of weights. Assumed, from runs on two cores.
        command: Arguments of the verb, or of one of ``PROGRAMS``.
        pick: What of its JSON is kept.
    """

    name: str
    title: str
    needs: tuple[str, ...]
    after: tuple[str, ...]
    seconds: tuple[float, float]
    command: Callable[[Asked], list[str]]
    pick: Callable[[Json], Json]


def _export(asked: Asked) -> list[str]:
    plans = [word for name in PLANS for word in ("--plan", name)]
    sizes = ["--text-capacity", str(_TEXT_CAPACITY), *asked.size]
    return ["export", asked.model, "-o", asked.bundle, *plans, "--weights", "reference", "--overwrite", *sizes]


def _parity(reference: str, candidate: str) -> Callable[[Asked], list[str]]:
    def command(asked: Asked) -> list[str]:
        sides = [each.format(m=asked.model, b=asked.bundle, t=asked.target) for each in (reference, candidate)]
        asks = ["--cases", str(asked.folder / "cases" / "cases.jsonl"), "--count", str(QUESTIONS), "--observe", "2"]
        return ["parity", *sides, *asks, "--max-new-tokens", str(_NEW_TOKENS)]

    return command


def _bench(asked: Asked) -> list[str]:
    sizes = ["--text", str(_TEXT), "--new-tokens", str(_NEW_TOKENS), "--repeats", str(_REPEATS)]
    return ["bench", f"{asked.bundle}#{PLANS[0]}", "--vs", f"#{PLANS[1]}", *sizes]


def _build(plan: str) -> Callable[[Asked], list[str]]:
    return lambda asked: ["build", asked.bundle, "--target", str(asked.target), "--plan", plan]


def _engines(asked: Asked) -> list[str]:
    return ["engines", asked.bundle, str(asked.target), *PLANS]


def _kept(asked: Asked) -> list[str]:
    picture, drawn = asked.folder / "cases" / "case-0.png", asked.folder / "kept.png"
    shown = ["--image", str(picture), "--prompt", "What is there to see?", "--show-kept", str(drawn)]
    return ["run", asked.bundle, "--plan", PLANS[0], *shown, "--max-new-tokens", str(_NEW_TOKENS)]


def _checks(asked: Asked) -> list[str]:
    return ["gpu-check", str(CHECKS), str(asked.folder.resolve() / "gpu-check")]


def checkout() -> bool:
    """Whether this is a checkout, with the scripts that test native kernels."""
    return CHECKS.is_file()


def _pick_plan(output: Json) -> Json:
    plan, cost = output["plan"], output["cost"]
    return {
        "keep": plan["llm"]["keep"],
        "grid": plan["encoder"]["grid"],
        "flops_ratio": cost["flops_ratio"],
        "kv_ratio": cost["kv_ratio"],
    }


def _pick_export(output: Json) -> Json:
    manifest = output["manifest"]
    return {
        "model_type": manifest["source"]["model_type"],
        "checkpoint_sha256": manifest["source"]["sha256"],
        "decoder": manifest["decoder"],
        "image_size": manifest["image"]["size"],
        "plans": {name: manifest["plans"][name]["plan"]["llm"]["keep"] for name in PLANS},
        "weights_mode": manifest["weights"]["mode"],
    }


def _pick_parity(output: Json) -> Json:
    kept = ("level", "name", "got", "limit", "passed")
    sides = {side: output[side]["dtype"] for side in ("reference", "candidate")}
    return {
        "passed": output["passed"],
        **sides,
        "gates": [{key: gate[key] for key in kept} for gate in output["gates"]],
    }


def _pick_bench(output: Json) -> Json:
    facts = ("backend", "arithmetic", "load_ms", "peak_mib", "kv_mib", "visual_tokens", "prefill_flops", "decode_bytes")
    cases = []
    for plan, case in zip(PLANS, output["cases"], strict=True):
        parts = {name: {key: part[key] for key in _SHARES} for name, part in case["profile"].items()}
        cases.append(
            {"plan": plan, **{key: case["facts"][key] for key in facts}, "runs": case["runs"], "kernels": parts}
        )
    machine = {key: output["machine"][key] for key in ("flops", "bandwidth", "threads")}
    return {"machine": machine, "cases": cases}


_SHARES = ("total_ms", "merge_ms", "prune_ms")


def _pick_build(output: Json) -> Json:
    engine = output["engine"]
    kept = ("target", "precision", "kv", "backend", "version", "compute_capabilities", "batch", "footprint")
    parts = {
        part: {"bytes": engine[part]["record"]["bytes"], "weight_bytes": engine[part]["weight_bytes"]}
        for part in ("vision", "decoder")
    }
    return {**{key: engine[key] for key in kept}, **parts}


def _pick_kept(output: Json) -> Json:
    return {"backend": output["backend"], "arithmetic": output["arithmetic"]}


def _as_told(output: Json) -> Json:
    return output


STEPS: tuple[Step, ...] = (
    Step(
        "plan", "what compression would save", ("export",), (), (8, 0), lambda a: ["plan", a.model, *a.size], _pick_plan
    ),
    Step("export", "a bundle with two plans, weights by reference", ("export",), (), (40, 30), _export, _pick_export),
    Step(
        "parity-none",
        "graphs without compression against transformers",
        ("export", "cpu"),
        ("export",),
        (30, 150),
        _parity("hf:{m}", "onnx:{b}#none"),
        _pick_parity,
    ),
    Step(
        f"parity-{DEFAULT_PLAN}",
        "graphs with compression against torch with compression",
        ("export", "cpu"),
        ("export",),
        (30, 150),
        _parity(f"torch:{{m}}#{DEFAULT_PLAN}", f"onnx:{{b}}#{DEFAULT_PLAN}"),
        _pick_parity,
    ),
    Step(
        "bench",
        "compressed and uncompressed in turns, prunes and merges alone",
        ("cpu",),
        ("export",),
        (40, 180),
        _bench,
        _pick_bench,
    ),
    Step("kept", "a picture of what is kept", ("cpu",), ("export",), (15, 30), _kept, _pick_kept),
    *(
        Step(
            f"build-{plan}",
            f"engines of plan {plan}",
            ("export", "library"),
            ("export",),
            (25, 60),
            _build(plan),
            _pick_build,
        )
        for plan in PLANS
    ),
    Step(
        "engine-parity",
        "engines with compression against their graphs",
        ("export", "cpu", "gpu"),
        (f"build-{DEFAULT_PLAN}",),
        (30, 60),
        _parity(f"onnx:{{b}}#{DEFAULT_PLAN}", f"trt:{{b}}#{DEFAULT_PLAN}@{{t}}"),
        _pick_parity,
    ),
    Step(
        "engines",
        "engines in turns, with CUDA graphs and without, memory",
        ("gpu",),
        (f"build-{DEFAULT_PLAN}", "build-none"),
        (30, 30),
        _engines,
        _as_told,
    ),
    Step(
        "gpu-check",
        "native kernels, layers and engines of the checkout",
        ("checkout", "any-gpu"),
        (),
        (600, 0),
        _checks,
        _as_told,
    ),
)


def find(name: str) -> Step:
    """The step called ``name``."""
    return next(step for step in STEPS if step.name == name)


def lacks(asked: Asked, lacking: Mapping[str, str | None], step: Step, done: Mapping[str, str]) -> str | None:
    """Why a step cannot be done; None if it can.

    Args:
        asked: By the user.
        lacking: Of each need, what is missing, None where nothing is.
        step: Which.
        done: State of the steps so far.
    """
    missing = [str(lacking[need]) for need in step.needs if lacking[need]]
    missing += [f"step {name} gave nothing" for name in step.after if done.get(name) != "done"]
    return "; ".join(missing) or None
