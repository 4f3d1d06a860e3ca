"""What a trial does: small steps, each a verb in a process of its own, and what of its output goes into the report.

Only what ``picks.json`` and ``pick`` functions name is kept: no path, no name of a file, a host or a checkpoint, no
text of an answer. What is asked are pictures of the demo, drawn here, so that nobody's own are needed. Right answers
are left out: parity compares two models, and one that was never shown such pictures may know none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from luvc_export.core.files.folders import make_folder, own_folder
from luvc_export.core.files.safe_files import whole, write_whole
from luvc_export.core.named_plans import DEFAULT_PLAN
from luvc_export.demo import CHECKPOINT, IMAGE_SIZE
from luvc_export.errors import LuvcError

Json = dict[str, Any]
#: The plan with compression, and the one without.
PLANS = (DEFAULT_PLAN, "none")
#: Scripts that test native kernels; a checkout has them.
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
        needs: What it cannot do without: names of ``machine.lacks``.
        after: Steps whose results it reads.
        seconds: How long it takes: at least, and for each GiB of weights. Assumed, from runs on two cores.
        pick: What of its JSON is kept.
        words: A verb or one of ``PROGRAMS`` and its arguments, with ``{model}``, ``{bundle}`` and the like in them.
    """

    name: str
    title: str
    needs: tuple[str, ...]
    after: tuple[str, ...]
    seconds: tuple[float, float]
    pick: Callable[[Json], Json]
    words: tuple[str, ...]

    def command(self, asked: Asked) -> list[str]:
        """The words, with what was asked for in its places; ``{size}`` is a word of its own and may be several."""
        values: Json = {"model": asked.model, "bundle": asked.bundle, "target": asked.target, "folder": asked.folder}
        values |= {"resolved": asked.folder.resolve(), "checks": CHECKS, "questions": QUESTIONS}
        expanded = (asked.size if word == "{size}" else [word.format(**values)] for word in self.words)
        return [word for words in expanded for word in words]


def _picked(spec: Any, output: Any) -> Any:
    """What an entry of ``picks.json`` names of a verb's JSON.

    A text is the way to a value, keys joined by dots; an object has an entry for each value that is kept; a list has
    the way to a list of the output, and the entry for each of its items.
    """
    if isinstance(spec, dict):
        return {name: _picked(inner, output) for name, inner in spec.items()}
    if isinstance(spec, list):
        way, inner = spec
        return [_picked(inner, each) for each in _picked(way, output)]
    for key in spec.split("."):
        output = output[key]
    return output


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


def _table(name: str) -> Any:
    """A JSON file beside this module, ``{plan}`` in it replaced by the plan with compression."""
    text = Path(__file__).with_name(f"{name}.json").read_text(encoding="utf-8")
    return json.loads(text.replace("{plan}", DEFAULT_PLAN))


_PICKS: dict[str, Callable[[Json], Json]] = {
    "bench": _pick_bench,
    "whole": lambda output: output,
    **{name: partial(_picked, spec) for name, spec in _table("picks").items()},
}


def _read(row: Json) -> Step:
    lists = {name: tuple(row[name]) for name in ("needs", "after", "seconds", "words")}
    return Step(**{**row, **lists, "pick": _PICKS[row["pick"]]})


#: Rows of ``steps.json``: words name what was asked for in braces.
STEPS = tuple(_read(row) for row in _table("steps"))


def find(name: str) -> Step:
    """The step called ``name``."""
    return next(step for step in STEPS if step.name == name)


def lacks(asked: Asked, lacking: Mapping[str, str | None], step: Step, done: Mapping[str, str]) -> str | None:
    """Why a step cannot be done; None if it can.

    ``lacking`` says of each need what is missing, None where nothing is; ``done`` is the state of the steps so far.
    """
    missing = [str(lacking[need]) for need in step.needs if lacking[need]]
    missing += [f"step {name} gave nothing" for name in step.after if done.get(name) != "done"]
    return "; ".join(missing) or None


QUESTIONS = 6
_SEED = 20260


def write_cases(folder: Path) -> Path:
    """Draw the pictures into ``folder`` and return the cases as JSON Lines; fonts missing, they are noise.

    They are the same each time, and drawn each time: a list that lay there could name pictures of somebody else's.

    Raises:
        UsageError: ``folder`` is a link.
    """
    from PIL import Image

    listed, lines = folder / "cases.jsonl", []
    make_folder(folder.parent)
    own_folder(folder)
    for number, (picture, prompt) in enumerate(_drawn()):
        name = f"case-{number}.png"
        with whole(folder / name) as file:
            Image.fromarray(picture).save(file, "PNG")
        lines.append(json.dumps({"image": name, "prompt": prompt}))
    write_whole(listed, "\n".join(lines) + "\n")
    return listed


def _drawn() -> list[tuple[Any, str]]:
    import numpy as np

    from luvc_export.demo.questions import cases

    try:
        single = (case for case in cases("heldout", 10 * QUESTIONS, _SEED) if len(case.images) == 1)
        return [(case.images[0], case.prompt) for case, _ in zip(single, range(QUESTIONS), strict=False)]
    except (LuvcError, ImportError):
        random = np.random.default_rng(_SEED)
        noise = [random.integers(0, 256, (224, 224, 3), np.uint8) for _ in range(QUESTIONS)]
        return [(picture, "What do you see?") for picture in noise]
