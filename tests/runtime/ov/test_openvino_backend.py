"""OpenVINO runs what ONNX Runtime runs: answers, kept sets, states continued twice, weights in their files."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny_bundle
from numpy.typing import NDArray
from slow_cases import slow_but

from luvc_export.bundle import folder as bundles
from luvc_export.bundle.folder import Bundle
from luvc_export.core import graph_io
from luvc_export.errors import BundleError, LuvcError, MachineError, UsageError
from luvc_export.runtime.backends import open_backend
from luvc_export.runtime.cpu_features import cpu_features
from luvc_export.runtime.host.cache import HostCache
from luvc_export.runtime.openvino import device as devices
from luvc_export.runtime.openvino import islands
from luvc_export.runtime.openvino.backend import OpenVinoBackend
from luvc_export.runtime.openvino.device import Device
from luvc_export.runtime.openvino.model import GraphReader
from luvc_export.runtime.session import Session

pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")
IDS = [97, tiny_bundle.IMAGE_TOKEN, 98, 99]
HAS_BF16 = "bf16" in devices.find("CPU").arithmetics


def opened(bundle: Bundle, plan: str | None = None, arithmetic: str = "fp32", **options: Any) -> Session:
    backend = OpenVinoBackend(bundle, bundle.entry(plan), threads=1, arithmetic=arithmetic, **options)
    return Session(bundle, backend, plan, debug=options.get("debug", False))


def pixels(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 1, 4, 4, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle.write(tmp_path_factory.mktemp("ov") / "bundle")


@pytest.fixture(scope="module")
def ours(tiny: Bundle) -> Session:
    return opened(tiny)


@pytest.mark.parametrize("mode", ["copy", "reference"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("images", [0, 1, 2])
def test_it_computes_what_numpy_does(
    mode: str, dtype: str, images: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bundle = tiny_bundle.write(tmp_path_factory.mktemp("modes") / "bundle", mode, dtype)
    session, shown = opened(bundle), pixels(images)
    ids = [97, *[tiny_bundle.IMAGE_TOKEN] * images, 98, 99]
    step = session.default.run(ids, session.default.encode_images(shown) if images else None, all_logits=True)
    assert np.allclose(step.logits[0], tiny_bundle.expected(ids, shown), atol=1e-4)
    kept = step.kept.get(0, np.zeros((0, 2)))
    assert kept.tolist() == [[1, 2]] * images


@pytest.mark.parametrize("io", ["fp16", "bf16"])
def test_graphs_in_half_precision_run_on_a_cpu(io: str, tmp_path: Path) -> None:
    """ONNX Runtime has no bf16 kernels there; here caches and embeddings keep the graph's type."""
    session = opened(tiny_bundle.write(tmp_path / "bundle", io=io))
    step = session.default.run(IDS, session.default.encode_images(pixels(1)), all_logits=True)
    assert np.allclose(step.logits[0], tiny_bundle.expected(IDS, pixels(1)), rtol=0.05, atol=0.3)
    assert isinstance(step.state.cache, HostCache) and step.state.cache.nbytes == 2 * 2 * 4 * ((2 + 3) + 3)


@pytest.mark.parametrize(
    "arithmetic", ["fp32", pytest.param("bf16", marks=pytest.mark.skipif(not HAS_BF16, reason=""))]
)
def test_a_state_may_be_continued_twice(tiny: Bundle, arithmetic: str) -> None:
    """OpenVINO writes its own output tensors again at the next call: a cache that is one of them would change."""
    session = opened(tiny, arithmetic=arithmetic)
    backend = session.backend
    assert isinstance(backend, OpenVinoBackend)
    first = session.default.run(IDS, session.default.encode_images(pixels(1)))
    assert isinstance(first.state.cache, HostCache)
    before = [state.copy() for state in first.state.cache.floats()]
    logits = first.logits.copy()
    one = session.default.run([100], state=first.state)
    other = session.default.run([101, 102], state=first.state)
    again = session.default.run([100], state=first.state)
    assert np.array_equal(one.logits, again.logits) and not np.array_equal(one.logits, other.logits)
    assert np.array_equal(first.logits, logits)
    assert all(map(np.array_equal, first.state.cache.floats(), before))
    assert first.state.cache.lengths == (5, 3) and other.state.cache.lengths == (7, 5)
    assert not np.array_equal(*(step.state.cache.floats()[0][:, :, -1] for step in (one, other)))


def test_the_trap_is_there(ours: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sabotage: with OpenVINO's own output tensors the test above must fail."""
    from luvc_export.runtime.openvino.compiling import Compiled

    def own(self: Compiled) -> list[Any]:
        return [self.request.get_output_tensor(index) for index in range(len(self.model.outputs))]

    backend = ours.backend
    assert isinstance(backend, OpenVinoBackend)
    monkeypatch.setattr(Compiled, "fresh", own)
    first = ours.default.run([97, 98])
    assert isinstance(first.state.cache, HostCache)
    before = first.state.cache.floats()[0].copy()
    ours.default.run([99, 100, 101], state=first.state)
    now = first.state.cache.floats()[0]
    assert now.shape != before.shape or not np.array_equal(now, before)
    ours.backend.__dict__.pop("_decoder", None)  # its request has seen tensors of this test


def test_text_and_chats(tiny: Bundle, ours: Session, picture: NDArray[np.uint8]) -> None:
    theirs = Session(tiny, threads=1)
    for session in (ours, theirs):
        assert session.generate(None, "ab", max_new_tokens=3).finish_reason in ("stop", "length")
    answers = [one.generate(picture, "a", max_new_tokens=4) for one in (ours, theirs)]
    assert answers[0] == answers[1] or answers[0].token_ids == answers[1].token_ids
    assert (answers[0].backend, answers[0].arithmetic) == ("openvino:CPU", "fp32")
    chat: list[Any] = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a"}]},
        {"role": "assistant", "content": answers[0].text},
        {"role": "user", "content": "b"},
    ]
    turns = [one.generate(picture, messages=chat, after=first, max_new_tokens=4)
             for one, first in zip((ours, theirs), answers, strict=True)]  # fmt: skip
    assert turns[0].token_ids == turns[1].token_ids and turns[0].reused == turns[1].reused


def test_the_debug_graph_is_told_what_to_keep(tiny: Bundle) -> None:
    session = opened(tiny, debug=True)
    step = session.default.run(
        IDS, session.default.encode_images(pixels(1)), forced={0: np.array([[0, 3]])}, all_logits=True
    )
    assert np.allclose(step.logits[0], tiny_bundle.expected(IDS, pixels(1), (0, 3)), atol=1e-4)


def test_warm_up_and_what_it_leaves(tiny: Bundle) -> None:
    session = opened(tiny)
    backend = session.backend
    assert isinstance(backend, OpenVinoBackend)
    assert backend.placement() == {}
    assert session.warm_up() > 0
    assert set(backend.placement()) == {"vision", "decoder"} and backend.compile_seconds > 0
    assert opened(tiny).warm_up(images=0) > 0


def test_weights_are_the_files_themselves(demo_bundle: Bundle) -> None:
    """No copy, no second file: what the constants read lies in the mapping of ``weights``."""
    graph = GraphReader(demo_bundle).read(demo_bundle.entry("even").decoder)
    size = demo_bundle.path("weights").stat().st_size
    bases = {id(_root(array)) for array in graph.mapped}
    assert len(bases) == 1 and sum(array.nbytes for array in graph.mapped) <= size
    addresses = {array.ctypes.data for array in graph.mapped}
    constants = [node for node in graph.model.get_ops() if node.get_type_name() == "Constant"]
    shared = {node.data.ctypes.data for node in constants if node.get_element_type().to_string() != "bf16"}
    assert len(addresses & shared) >= 60


def _root(array: NDArray[Any]) -> Any:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array.base


def _spoil(folder: Path, change: Callable[[onnx.ModelProto], None]) -> Bundle:
    tiny_bundle.write(folder)
    model = onnx.load(folder / "decoder.onnx", load_external_data=False)
    change(model)
    (folder / "decoder.onnx").write_bytes(model.SerializeToString())
    return _signed(folder)


def _signed(folder: Path) -> Bundle:
    """The bundle with the decoder that lies there now, as its maker could have signed it."""
    data = json.loads((folder / bundles.MANIFEST).read_text(encoding="utf-8"))
    data["files"]["decoder.onnx"] = asdict(bundles.record(folder / "decoder.onnx"))
    (folder / bundles.MANIFEST).write_text(json.dumps(data), encoding="utf-8")
    return bundles.load(folder)


def _elsewhere(model: Any) -> None:
    next(pair for pair in model.graph.initializer[0].external_data if pair.key == "location").value = "tokenizer2.json"


def _an_address(model: Any) -> None:
    pairs = {pair.key: pair for pair in model.graph.initializer[0].external_data}
    pairs["location"].value = "*/_ORT_MEM_ADDR_/*"


def _too_far(model: Any) -> None:
    next(pair for pair in model.graph.initializer[0].external_data if pair.key == "offset").value = str(10**9)


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (_elsewhere, "a file the manifest does not list"),
        (_an_address, "a file the manifest does not list"),
        (_too_far, "beyond the end of a file"),
    ],
)
def test_weights_that_are_not_the_bundles(change: Any, refusal: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=refusal):
        opened(_spoil(tmp_path / "bundle", change)).default.run([97])


def test_a_graph_it_cannot_take(tmp_path: Path) -> None:
    def foreign(model: Any) -> None:
        node = next(node for node in model.graph.node if node.op_type == "MatMul")
        node.op_type, node.domain = "GatherBlockQuantized", "com.microsoft"

    with pytest.raises(
        MachineError, match=r"OpenVINO cannot convert this graph[\s\S]*GatherBlockQuantized[\s\S]*cpu"
    ) as caught:
        opened(_spoil(tmp_path / "bundle", foreign)).default.run([97])
    assert caught.value.exit_code == 3


def test_no_graph_at_all(tmp_path: Path) -> None:
    tiny_bundle.write(tmp_path / "bundle")
    (tmp_path / "bundle" / "decoder.onnx").write_bytes(b"\xff" * 40)
    with pytest.raises(BundleError, match="no ONNX graph"):
        opened(_signed(tmp_path / "bundle")).default.run([97])


@pytest.mark.parametrize(
    ("name", "kind", "refusal"),
    [
        ("openvino:NPU", UsageError, "fixed shapes alone"),
        ("openvino:TPU", UsageError, "unknown OpenVINO device"),
        ("openvino:GPU.7", MachineError, "does not find this device"),
        ("openvino:", UsageError, "unknown back-end"),
        ("cpu:0", UsageError, "unknown back-end"),
    ],
)
def test_devices_that_are_not_there(tiny: Bundle, name: str, kind: type[LuvcError], refusal: str) -> None:
    with pytest.raises(kind, match=refusal) as caught:
        open_backend(name, tiny)
    assert caught.value.exit_code == (3 if kind is MachineError else 2)


def test_arithmetic_that_is_not_there(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Device("CPU", "an old one", ("fp32",), "fp32")
    monkeypatch.setattr(devices, "find", lambda name: plain)
    assert OpenVinoBackend(tiny, tiny.entry()).arithmetic == "fp32"
    with pytest.raises(
        MachineError, match=r"does not compute in that[\s\S]*--arithmetic bf16[\s\S]*fp32 here"
    ) as caught:
        open_backend("openvino", tiny, arithmetic="bf16")
    assert caught.value.exit_code == 3
    with pytest.raises(UsageError, match="unknown arithmetic"):
        open_backend("openvino", tiny, arithmetic="int3")
    with pytest.raises(MachineError, match="what the graph or the engine is in"):
        open_backend("cpu", tiny, arithmetic="bf16")
    assert open_backend("cpu", tiny, arithmetic="fp32").arithmetic == "fp32"


def test_openvino_that_is_missing(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "openvino":
            raise ModuleNotFoundError("No module named 'openvino'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    devices.load_library.cache_clear()
    devices.core.cache_clear()
    try:
        with pytest.raises(MachineError, match=r"openvino is not installed[\s\S]*luvc-export\[openvino\]") as caught:
            open_backend("openvino", tiny)
    finally:
        monkeypatch.undo()
        devices.load_library.cache_clear()
        devices.core.cache_clear()
    assert caught.value.exit_code == 3


@pytest.mark.skipif(not HAS_BF16, reason="this CPU has no bf16")
def test_islands_stay_in_fp32_and_products_do_not(demo_bundle: Bundle) -> None:
    """Scores, similarities, norms above a prune and angles in fp32; of products only those of scores and merges."""
    entry = demo_bundle.entry("thirds")
    backend = OpenVinoBackend(demo_bundle, entry, arithmetic="bf16", threads=1)
    backend.load()
    seen: dict[str, set[str]] = {}
    for compiled in (backend._vision, backend._decoder):
        for node in compiled.model.get_runtime_model().get_ops():
            info = node.get_rt_info()
            kind, precision = (info[key].astype(str) for key in ("layerType", "runtimePrecision"))
            names = info["originalLayersNames"].astype(str) + node.get_friendly_name()
            seen.setdefault(kind, set()).add(precision)
            ranking = any(word in names for word in ("SpectrumPrune", "MergeAxis"))
            if ranking and kind in ("Reduce", "TopK", "FullyConnected", "MatMul", "Math"):
                assert precision in ("f32", "i32"), (kind, names)
            if kind == "FullyConnected" and not ranking:
                assert precision == "bf16" or "node_linear" in names, names
            if "share_rope" in names and kind in ("Math", "Eltwise"):
                assert precision == "f32", names
    products = backend.precisions()["decoder"]["FullyConnected"]
    prunes = sum(bool(keep) for _, _, keep in entry.plan.prunes)
    assert products["f32"] == 2 * prunes and products["bf16"] >= 40


@pytest.mark.parametrize("whole", slow_but([True], [True, False]))
def test_an_mlp_above_a_prune_is_narrowed_as_one(
    demo_bundle: Bundle, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Conversions between its products, and the plug-in runs three of them instead of one node on a CPU with AMX."""
    if not whole:
        monkeypatch.setattr(islands, "_narrow_gate", lambda library, node: 0)
    entry = demo_bundle.entry("thirds")
    graph, layers = GraphReader(demo_bundle).read(entry.decoder), demo_bundle.manifest.decoder.layers
    islands.narrow_products(devices.load_library(), graph.model)
    gates = [node for node in graph.model.get_ops() if node.get_type_name() in ("Swish", "Sigmoid")]
    inputs = [node.input_value(0).get_node() for node in gates]
    assert len(gates) == layers and {node.get_type_name() for node in inputs} == {"MatMul"} | (
        set() if whole else {"Convert"}
    )
    narrow = [node for node in inputs if node.get_output_element_type(0) == devices.load_library().Type.bf16]
    last = max(layer for layer, _, keep in entry.plan.prunes if keep)
    assert len(narrow) == (last if whole else 0) and last > 1
    if whole and HAS_BF16 and "AMX-BF16" in cpu_features():
        backend = OpenVinoBackend(demo_bundle, entry, arithmetic="bf16", threads=2)
        backend.load(images=False)
        assert backend.precisions()["decoder"]["LLMMLP"] == {"bf16": layers}


@pytest.mark.skipif(not HAS_BF16, reason="this CPU has no bf16")
@pytest.mark.parametrize("narrowed", slow_but([True], [True, False]))
def test_caches_are_not_widened_at_every_step(
    demo_bundle: Bundle, narrowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above a prune, too, keys and values go into attention as they lie; the plug-in by itself would widen them."""
    if not narrowed:
        monkeypatch.setattr(islands, "_narrow_attention", lambda library, node: False)
    backend = OpenVinoBackend(demo_bundle, demo_bundle.entry("thirds"), arithmetic="bf16", threads=1)
    backend.load(images=False)
    nodes = backend._decoder.model.get_runtime_model().get_ops()
    standing = {*graph_io.past_names(demo_bundle.manifest.decoder.layers)}
    outputs = [node.output(0) for node in nodes if node.get_friendly_name() in standing]
    readers = [port.get_node().get_rt_info() for output in outputs for port in output.get_target_inputs()]
    precisions = {facts["outputPrecisions"].astype(str) for facts in readers} - {"i32"}  # who asks how many rows
    assert precisions == ({"bf16"} if narrowed else {"bf16", "f32"})


@pytest.mark.slow(beside="runtime/ov/test_openvino_backend.py::test_islands_stay_in_fp32_and_products_do_not")
def test_both_graphs_answer_alike_on_the_bundled_model(demo_bundle: Bundle) -> None:
    """fp32: the same kept sets and tokens; the whole measurement is benchmarks/measure/openvino/times.py."""
    from luvc_export.calibration.tasks import find

    task = find("glyph")
    cases = list(task.cases(task.report[0], 3, task.report[1]))
    asks: list[Any] = [{"image": list(case.images), "prompt": case.prompt} for case in cases]
    for plan in ("none", "thirds"):
        left, right = Session(demo_bundle, plan=plan, threads=1), opened(demo_bundle, plan)
        rows = [side.generate_batch(asks, max_new_tokens=4) for side in (left, right)]
        assert [item.token_ids for item in rows[0]] == [item.token_ids for item in rows[1]]
        for case in cases:
            one, other = (side.generate(list(case.images), case.prompt, max_new_tokens=6) for side in (left, right))
            assert one.token_ids == other.token_ids
            assert one.selection.kept.keys() == other.selection.kept.keys()
            for layer, kept in one.selection.kept.items():
                assert np.array_equal(kept, other.selection.kept[layer])


def test_inputs_of_a_decoder_are_known_by_name(ours: Session) -> None:
    ours.default.run([97])
    backend = ours.backend
    assert isinstance(backend, OpenVinoBackend)
    assert {*graph_io.DECODER_INPUTS} <= backend._decoder.inputs.keys()
