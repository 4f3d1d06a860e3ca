"""What a running model does, frozen: tokens and log probabilities of every back-end times every capability.

Two trees on one machine: ``PYTHONPATH=.:tests:tests/contract python -m cells --write OLD.json`` in the old one (with
this folder copied into it), then ``--compare OLD.json`` in the new one. It uses public names alone, so that it runs on
a tree whose inside is another. ``--compare`` says for each cell ``equal`` (to the last bit), ``tokens`` (equal tokens,
log probabilities within ``TOLERANCE``) or ``differs``, and exits with 1 if any differs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import demo_cache
import feature_bundles
import lora_bundle
import numpy as np

from luvc_export.bundle.folder import Bundle, load
from luvc_export.demo.questions import cases
from luvc_export.errors import LuvcError
from luvc_export.runtime.session import Session

#: Log probabilities: sums of fp32 in another order, of rows packed otherwise (tests/runtime/engine/test_answers.py).
TOLERANCE = 1e-3
#: Of cells whose random model makes more of it: 3.8e-3 on a CPU with AMX from where another CPU froze them.
WIDER = {"openvino | buckets | buckets": 5e-3}
BACKENDS = {"cpu": "auto", "openvino": "fp32", "openvino+cpu": "fp32", "openvino+openvino": "fp32"}
LONG: dict[str, Any] = {"min_new_tokens": 12, "max_new_tokens": 12, "logprobs": 0}
CASES = [*itertools.islice(cases("heldout", 14), 14)]
FORMS = ("concat", "inplace")
#: Memory of the stand-in GPU.
GPU_BYTES = "STAND_IN_BYTES", str(512 << 20)
ROOT = Path(__file__).resolve().parents[2]
Record = list[tuple[list[int], list[float]]]


def record(*answers: Any) -> Record:
    """Tokens and log probabilities of answers."""
    return [(list(one.token_ids), [float(token.logprob) for token in one.logprobs or ()]) for one in answers]


def one_question(session: Session) -> Record:
    """A picture, and no picture."""
    case = CASES[0]
    return record(session.generate(list(case.images), case.prompt, **LONG), session.generate(None, "Hello", **LONG))


def batch(session: Session) -> Record:
    """Rows of unequal texts and unequal numbers of pictures, which end at unequal steps."""
    two = next(case for case in CASES if len(case.images) == 2)
    asks: list[Any] = [
        {"image": list(case.images), "prompt": case.prompt + " please" * at} for at, case in enumerate(CASES[:3])
    ]
    asks += [{"image": list(two.images), "prompt": two.prompt}, {"prompt": "Hello"}]
    options = {**LONG, "min_new_tokens": 2}
    return record(*session.generate_batch(asks, **options))


def turns(session: Session) -> Record:
    """A second turn with a picture more, twice from one answer."""
    pictures = [CASES[0].images[0], CASES[1].images[0]]
    first: list[Any] = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": CASES[0].prompt}]}]
    one = session.generate(pictures[:1], messages=first, **LONG)
    second = [*first, {"role": "assistant", "content": one.text}, {"role": "user", "content": first[0]["content"]}]
    more = [session.generate(pictures, messages=second, after=one, **LONG) for _ in range(2)]
    return record(one, *more)


def drawn(session: Session) -> Record:
    """Sampling with a seed."""
    case = CASES[2]
    options = {**LONG, "temperature": 0.8, "seed": 3, "top_p": 0.9}
    return record(session.generate(list(case.images), case.prompt, **options))


def lookup(bundle: Bundle, name: str, arithmetic: str) -> Record:
    """Drafts by look-up: one answer, and a batch."""
    session = Session(bundle, name, "thirds", 1, arithmetic=arithmetic, speculate="lookup:4")
    asks: list[Any] = [{"prompt": text} for text in ("where is red? where is red?", "row one row two row one")]
    return record(session.generate(None, asks[0]["prompt"], **LONG), *session.generate_batch(asks, **LONG))


def draft_pair(bundle: Bundle, name: str, arithmetic: str) -> Record:
    """Drafts by a smaller model: another plan of the bundle."""
    named = f"draft:{bundle.folder}#even:3"
    session = Session(bundle, name, "none", 1, arithmetic=arithmetic, speculate=named)
    case = CASES[0]
    return record(session.generate(list(case.images), case.prompt, **LONG))


def adapters(bundle: Bundle, name: str, arithmetic: str) -> Record:
    """LoRA adapters: two, and the base model, alone and in one batch."""
    folder = bundle.folder.parent
    names = [*lora_bundle.ADAPTERS][:2]
    session = Session(bundle, name, None, 1, arithmetic=arithmetic, lora={one: folder / one for one in names})
    asks: list[Any] = [{"prompt": "Hello", "adapter": one} for one in (names[0], None, names[1])]
    return record(session.generate(None, "Hello", adapter=names[0], **LONG), *session.generate_batch(asks, **LONG))


def server(bundle: Bundle, name: str, arithmetic: str) -> Any:
    """Over HTTP: a picture, the same again with another question, which hits the kept prefix, and two choices."""
    sys.path[:0] = [str(ROOT / "benchmarks" / "serving"), str(ROOT / "tests" / "serve")]
    from calling import user
    from running import serving

    from luvc_export.serve.models import Models, ServedModel

    session, answers = Session(bundle, name, "thirds", 1, arithmetic=arithmetic), []
    with serving(Models([ServedModel("demo", session)])) as (_, client):
        for prompt, more in (("What is here?", {}), ("digit of red?", {}), ("digit of red?", {"n": 2})):
            asked = {"messages": user(prompt, CASES[0].images[0]), "logprobs": True, "max_tokens": 12}
            choices = client.chat(model="demo", **asked, **more).json()["choices"]
            tokens = [choice["logprobs"]["content"] for choice in sorted(choices, key=lambda choice: choice["index"])]
            answers += [([one["token"] for one in some], [one["logprob"] for one in some]) for some in tokens]
    return answers


def buckets(session: Session) -> Record:
    """Pages of one colour but for some noise: each takes the smallest bucket that holds it, in turns and in a batch."""
    random, pages = np.random.default_rng(0), []
    for share in (0, 2, 1):
        pages.append(np.full((112, 168, 3), 200, np.uint8))
        rows = 112 * share // 2
        pages[-1][:rows] = random.integers(0, 256, pages[-1][:rows].shape)
    alone = [session.generate(page, "Hi", **LONG) for page in pages]
    return record(*alone, *session.generate_batch([{"image": page, "prompt": "Hi"} for page in pages], **LONG))


def clip_window(session: Session) -> Record:
    """Three clips of four frames through a window of two, which forgets by reading again and by taking rows out."""
    from luvc_export.runtime.streams.clip_window import ClipWindow

    random, answers = np.random.default_rng(0), []
    clips = [[random.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(4)] for _ in range(3)]
    for forget in ("rebuild", "evict"):
        window = ClipWindow(session, 2, forget)
        for clip in clips:
            window.show(clip)
            answers.append(window.ask("What then?", **LONG))
    return record(*answers)


OF_A_SESSION: dict[str, Callable[[Session], Record]] = {
    "one question": one_question, "batch of unequal rows": batch, "several turns with pictures": turns, "drawn": drawn,
}  # fmt: skip
OF_A_BUNDLE: dict[str, Callable[[Bundle, str, str], Record]] = {
    "look-up drafts": lookup, "draft pair": draft_pair, "adapters": adapters, "server and prefix hit": server,
}  # fmt: skip
#: Of a bundle each (``feature_bundles``).
OF_A_FEATURE: dict[str, Sequence[Callable[[Session], Record]]] = {
    "sliding windows": (one_question, batch, turns), "states": (one_question, batch, turns),
    "8-bit caches": (one_question, batch, turns), "buckets": (buckets,), "clip window": (clip_window,),
}  # fmt: skip


def on_stand_in(bundle: Bundle, form: str) -> Session:
    """A session on engines for three rows, executed by ONNX Runtime on the stand-in GPU, which has ``GPU_BYTES``."""
    import ort_engine
    import stand_in

    from luvc_export.runtime.cuda.device import Gpu

    engines = ort_engine.describe(bundle, "thirds", form, ort_engine.Capacity(text=192, groups=2, batch=3))
    return Session(engines.bundle, engines.backend(Gpu(library=stand_in.library()))[0], "thirds")


def jobs(folder: Path) -> dict[str, Callable[[], Any]]:
    """What makes each cell, by name: every back-end times every capability."""
    demo = demo_cache.demo_bundle(folder / "demo")
    lora = load(lora_bundle.lora_folder(folder / "lora") / "slots")
    opened: dict[tuple[str, str], Callable[[], Session]] = {
        (f"tensorrt {form}", "thirds"): cache(partial(on_stand_in, demo, form)) for form in FORMS
    }
    for (name, arithmetic), plan in itertools.product(BACKENDS.items(), ("none", "thirds")):
        opened[name, plan] = cache(partial(Session, demo, name, plan, 1, arithmetic=arithmetic))
    by_name: dict[str, Callable[[], Any]] = {}
    for ((name, plan), session), (feature, run) in itertools.product(opened.items(), OF_A_SESSION.items()):
        by_name[f"{name} | {plan} | {feature}"] = lambda run=run, session=session: run(session())  # type: ignore[misc]
    for (name, arithmetic), (feature, of) in itertools.product(BACKENDS.items(), OF_A_BUNDLE.items()):
        by_name[f"{name} | {feature}"] = partial(of, lora if feature == "adapters" else demo, name, arithmetic)
    for (name, arithmetic), (feature, runs) in itertools.product(BACKENDS.items(), OF_A_FEATURE.items()):
        with_feature = cache(partial(on_feature, folder, feature, name, arithmetic))
        for run in runs:
            by_name[f"{name} | {feature} | {run.__name__.replace('_', ' ')}"] = (
                lambda run=run, session=with_feature: run(session())  # type: ignore[misc]
            )
    return by_name


def on_feature(folder: Path, feature: str, name: str, arithmetic: str) -> Session:
    """A session of the bundle that has a feature, by its default plan."""
    return Session(feature_bundles.bundle(folder, feature), name, None, 1, arithmetic=arithmetic)


def cells(folder: Path, only: str = "") -> dict[str, Any]:
    """What each cell whose name has ``only`` gives, or what refuses it."""
    return {name: given_by(run) for name, run in jobs(folder).items() if only in name}


def given_by(run: Callable[[], Record]) -> Any:
    """A record, or the text of a refusal."""
    try:
        return [[ids, [float(number) for number in numbers]] for ids, numbers in run()]
    except LuvcError as error:
        return f"{type(error).__name__}: {error.what}"


def verdict(old: Any, new: Any, name: str = "") -> str:
    """``equal``, ``tokens`` or ``differs``, of the cell ``name``."""
    if old == new:
        return "equal"
    if isinstance(old, str) or isinstance(new, str) or len(old) != len(new):
        return "differs"
    for (ids, numbers), (others, also) in zip(old, new, strict=True):
        if ids != others or len(numbers) != len(also):
            return "differs"
        if numbers and np.abs(np.subtract(numbers, also)).max() > WIDER.get(name, TOLERANCE):
            return "differs"
    return "tokens"


def main() -> int:
    """Write, or compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--compare", type=Path)
    parser.add_argument("--only", default="", help="cells whose name has this")
    parser.add_argument("--folder", type=Path, help="where bundles are exported, and found the next time")
    options = parser.parse_args()
    os.environ.setdefault(*GPU_BYTES)
    with tempfile.TemporaryDirectory() as folder:
        results = cells(options.folder or Path(folder), options.only)
    if options.write:
        options.write.write_text(json.dumps(results), encoding="utf-8")
        return 0
    old = json.loads(options.compare.read_text(encoding="utf-8"))
    verdicts = {name: verdict(old.get(name), result, name) for name, result in results.items()}
    for name, one in verdicts.items():
        print(f"{one:8} {name}")
    counts = {kind: sum(one == kind for one in verdicts.values()) for kind in ("equal", "tokens", "differs")}
    print(counts)
    return int(counts["differs"] > 0)


if __name__ == "__main__":
    sys.exit(main())
