"""Two engines in one back-end: prompts on the first, steps on the second, and what goes over between them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from luvc_export.bundle.folder import Bundle
from luvc_export.core.element_types import BY_PRECISION
from luvc_export.demo.questions import cases
from luvc_export.errors import MachineError, UsageError
from luvc_export.runtime import backend_choice
from luvc_export.runtime.backend_choice import choose
from luvc_export.runtime.backends import open_backend
from luvc_export.runtime.openvino import device as devices
from luvc_export.runtime.paired import PAIRS, PairedBackend, plans
from luvc_export.runtime.product_check import check as product_check
from luvc_export.runtime.session import Session
from luvc_export.runtime.speed_probe import one_row

pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")
LONG: dict[str, Any] = {"min_new_tokens": 12, "max_new_tokens": 12, "logprobs": 0}


@pytest.fixture(scope="module", params=[*PAIRS])
def paired(request: pytest.FixtureRequest, short_bundle: Bundle) -> Session:
    return Session(short_bundle, request.param, "thirds", threads=1, arithmetic="fp32")


@pytest.fixture(scope="module")
def plain(short_bundle: Bundle) -> Session:
    return Session(short_bundle, "cpu", "thirds", threads=1)


def furthest(paired: Session, plain: Session) -> float:
    """How far log probabilities of a paired answer are from those of one engine."""
    case = next(cases("heldout", 1))
    one, other = (session.generate(list(case.images), case.prompt, **LONG) for session in (paired, plain))
    assert one.logprobs is not None and other.logprobs is not None
    return max(abs(a.logprob - b.logprob) for a, b in zip(one.logprobs, other.logprobs, strict=True))


def test_answers_are_those_of_one_engine(paired: Session, plain: Session) -> None:
    assert furthest(paired, plain) < 1e-3
    assert paired.backend.name in PAIRS and paired.backend.arithmetic == "fp32+fp32"


def test_keys_in_the_place_of_values_move_answers(
    paired: Session, plain: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage."""
    steps = paired.backend.steps  # type: ignore[attr-defined]
    honest = steps.adopt
    monkeypatch.setattr(steps, "adopt", lambda values: honest([values[at ^ 1] for at in range(len(values))]))
    assert furthest(paired, plain) > 1e-2


def test_rows_share_calls_and_take_several_tokens(paired: Session, plain: Session) -> None:
    asks: list[Any] = [{"prompt": text} for text in ("row one row two row", "x", "one two one two one")]
    drafting = Session(paired.bundle, paired.backend, "thirds", speculate="lookup")
    wanted = [plain.generate(None, ask["prompt"], **LONG).token_ids for ask in asks]
    for session in (paired, drafting):
        assert [one.token_ids for one in session.generate_batch(asks, **LONG)] == wanted


def test_a_chat_comes_back_to_prompts(paired: Session, plain: Session) -> None:
    """A second turn about another picture: the steps' caches go back, and over again."""
    pictures = [case.images[0] for case in cases("heldout", 2, 3, ("colour_of_digit",))]
    answers = []
    for session in (paired, plain):
        turns: list[Any] = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "colour of 3?"}]}]
        first = session.generate(pictures[:1], messages=turns, max_new_tokens=4)
        turns += [{"role": "assistant", "content": first.text}, {**turns[0]}]
        second = session.generate(pictures, messages=turns, after=first, max_new_tokens=4)
        answers.append((first.token_ids, second.token_ids, second.reused))
    assert answers[0] == answers[1]


def test_caches_that_need_no_other_type_are_handed_on(short_bundle: Bundle) -> None:
    backend = open_backend("openvino+cpu", short_bundle, "none", 1, arithmetic="fp32")
    assert isinstance(backend, PairedBackend)
    state = Session(short_bundle, backend, "none").default.run([97, 98, 99]).state
    after = backend.for_steps(state.cache)
    assert after.kind.owner is backend.steps and np.shares_memory(state.cache.floats()[0], after.array(0))


def test_the_steps_load_no_encoder_and_all_goes_back(short_bundle: Bundle) -> None:
    backend = open_backend("openvino+cpu", short_bundle, "none", 1)
    assert isinstance(backend, PairedBackend)
    backend.load()
    assert set(backend.placement()) == {"vision", "decoder", "steps"} and backend.placement()["steps"]
    assert "_vision" not in backend.steps.__dict__
    backend.unload()
    assert not backend.steps.placement() and not backend.prompts.placement()
    backend.load(images=False)
    assert set(backend.placement()) == {"decoder", "steps"}, "what was unloaded is loaded again"


def with_codes(bundle: Bundle, precision: str = "q8", own: bool = True, **layers: str) -> Bundle:
    """A bundle that has a plan ``coded`` beside ``none``, or alone."""
    entry = bundle.manifest.plans["none"]
    quantised: Any = SimpleNamespace(precision=precision, weights="weights.coded", recipe={}, layers=dict(layers))
    plans = {"coded": replace(entry, quantised=quantised), **({"none": entry} if own else {})}
    return replace(bundle, manifest=replace(bundle.manifest, plans=plans, default_plan="coded"))


def test_one_half_runs_the_plan_that_was_quantised(short_bundle: Bundle) -> None:
    """Prompts where weights alone are in codes; on OpenVINO steps, where activations are too."""
    for steps in ("cpu", "openvino"):
        assert plans(with_codes(short_bundle), None, steps) == ("none", "coded")
        assert plans(with_codes(short_bundle, own=False), "coded", steps) == ("coded", "coded")
        assert plans(short_bundle, "thirds", steps) == ("thirds", "thirds")
    eight = with_codes(short_bundle, "int8")
    assert (plans(eight, None, "cpu"), plans(eight, None, "openvino")) == (("none", "coded"), ("coded", "none"))


def test_steps_without_codes_answer_behind_a_prompt_in_int8(
    short_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luvc_export.runtime.confined.first_run.check", lambda *asked: None)
    ask = list(next(cases("heldout", 1)).images), "what?"
    backend: Any = open_backend("openvino+openvino", with_codes(short_bundle, "int8"), threads=1, arithmetic="fp32")
    answer = Session(with_codes(short_bundle, "int8"), backend, "coded").generate(*ask, **LONG)
    assert answer.token_ids == Session(short_bundle, "cpu", "none", threads=1).generate(*ask, **LONG).token_ids
    assert backend.prompts._int8 is not None and backend.steps._int8 is None and backend.arithmetic == "fp32+fp32"
    assert not backend.steps._packs and backend.in_place == 0, "and its weights are packed once at most"


def test_auto_reads_floats_at_steps_where_they_lie(short_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    eight, kind = with_codes(short_bundle, "int8"), BY_PRECISION["bf16"].onnx
    monkeypatch.setattr(devices, "reads_in_place", lambda *asked: True)
    assert choose(eight).name == "openvino", "weights are stored in 32 bits"
    weights = [SimpleNamespace(kind=kind, bytes=3), SimpleNamespace(kind=0, bytes=2)]
    monkeypatch.setattr(backend_choice, "walk_graph", lambda *asked: (weights, []))
    choice = choose(eight)
    assert choice.name == "openvino+openvino" and "steps read weights in 16 bits" in choice.line
    assert choose(eight, arithmetic="fp32").name == choose(short_bundle, "none").name == "openvino"
    assert choose(with_codes(short_bundle, "int8", own=False)).name == "openvino"
    monkeypatch.setattr(devices, "reads_in_place", lambda *asked: False)
    assert choose(eight).name == "openvino"


@pytest.mark.parametrize(("precision", "group"), [("q8", 128), ("q4", None)])
def test_steps_in_8_bits_have_longer_groups(short_bundle: Bundle, precision: str, group: int | None) -> None:
    bundle = with_codes(short_bundle, precision)
    backend: Any = open_backend("openvino+openvino", bundle, "coded", 1, allow_unverified=True, arithmetic="fp32")
    asked = {} if group is None else {"DYNAMIC_QUANTIZATION_GROUP_SIZE": group}
    assert backend.steps._settings() == asked and backend.prompts._settings() == {}
    backend.steps.load(images=False)
    if group is not None:
        compiled = backend.steps._decoder.model
        assert compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE") == group, "and the plug-in takes it"


def test_what_has_no_debug_decoder_or_no_caches_of_the_host_is_refused(
    short_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="two engines have no debug decoder"):
        open_backend("openvino+cpu", short_bundle, debug=True)
    manifest = replace(short_bundle.manifest, dtype="bf16")
    monkeypatch.setattr("luvc_export.runtime.confined.first_run.check", lambda *asked: None)
    with pytest.raises(MachineError, match="cannot go from one engine to another"):
        open_backend("openvino+cpu", replace(short_bundle, manifest=manifest))
    with pytest.raises(UsageError, match="unknown back-end"):
        open_backend("cpu+openvino", short_bundle)


def test_auto_takes_what_the_probe_says(short_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = with_codes(short_bundle)
    times = {"openvino": 2.0e-3, "openvino+openvino": 1.2e-3, "openvino+cpu": 1.0e-3}
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(one_row, "step_times", lambda *of, **how: asked.append((*of, how)) or times)
    choice = choose(bundle)
    assert len(asked) == 1, "products are timed once"
    choose(with_codes(short_bundle, lm_head="q8", embed_tokens="fp32"))
    assert [of[-1] for of in asked] == [{"coded_head": False}, {"coded_head": True}]
    assert choice.name == "openvino+cpu"
    assert choice.line.startswith("backend openvino+cpu: products of a step 1.00 ms, openvino alone 2.00 ms")
    times["openvino+cpu"] = 1.3e-3
    assert choose(bundle).name == "openvino+openvino"
    times |= {"openvino+openvino": 1.9e-3, "openvino+cpu": 1.9e-3}
    assert choose(bundle).name == "openvino", "a tenth faster is too little for weights of both"
    times["openvino+cpu"] = 0.1e-3
    assert choose(bundle, "none").name == choose(with_codes(short_bundle, own=False)).name == "openvino"
    assert choose(bundle, arithmetic="fp32").name == "openvino"
    del times["openvino"]
    assert choose(bundle).name == "openvino"
    monkeypatch.setattr(backend_choice, "_cuda", lambda *asked: None)
    asked.clear()
    assert choose(bundle).name == "cuda" and not asked, "nothing is timed where an engine before runs"


def test_products_in_8_bits_are_in_blocks(demo_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luvc_export.runtime.confined.first_run.check", lambda *asked: None)
    bundle = with_codes(demo_bundle)
    pair: Any = open_backend("openvino+cpu", bundle, threads=1)
    assert pair.steps._only_steps and pair.steps._in_blocks
    alone: list[Any] = [open_backend("cpu", bundle, plan, threads=1) for plan in ("coded", "none")]
    assert [one._in_blocks for one in alone] == [True, False], "prompts too, of plans with codes"
    assert not any(one.notes for one in alone)
    monkeypatch.setattr(product_check, "onnxruntime_blocks", lambda: False)
    wrong: Any = open_backend("cpu", bundle, "coded", threads=1)
    assert not wrong._in_blocks and "in blocks wrong here" in wrong.notes[0], "and where they are wrong, it is said"


def test_auto_needs_memory_for_both(short_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_row, "step_times", lambda *asked, **how: {"openvino": 2.0, "openvino+cpu": 1.0})
    monkeypatch.setattr(backend_choice.memory, "available_bytes", lambda: 1000)
    choice = choose(with_codes(short_bundle))
    assert choice.name == "openvino" and "openvino+cpu: " in choice.line and "for two engines" in choice.line


@pytest.mark.slow(beside="runtime/test_paired.py::test_steps_without_codes_answer_behind_a_prompt_in_int8")
def test_steps_of_codes_keep_what_is_not_coded_in_bf16(short_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luvc_export.runtime.confined.first_run.check", lambda *asked: None)
    bf16 = "bf16" in devices.find("CPU").arithmetics
    for own in (True, False):  # whether the plan in floats is there
        coded = open_backend("openvino+openvino", with_codes(short_bundle, own=own), threads=1)
        assert isinstance(coded, PairedBackend) and coded.narrow_floats == (coded.arithmetic == "bf16+fp32") == bf16
    for name, plan in (("openvino+cpu", None), ("openvino+openvino", "none")):
        other = open_backend(name, with_codes(short_bundle), plan, 1)
        assert isinstance(other, PairedBackend) and not other.narrow_floats
