"""Engines on this GPU: what the stand-in of the driver cannot show."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import pytest
import time_engines
from flat_plans import flat_plan

from luvc_export.bundle.folder import Bundle
from luvc_export.calibration.tasks import find
from luvc_export.core.target import Target
from luvc_export.engines import library
from luvc_export.errors import MachineError
from luvc_export.export.surgeon import run_passes
from luvc_export.export.surgeon.graph import PLAN_KEY
from luvc_export.export.surgeon.passes import append_argmax
from luvc_export.pipeline import build_engine
from luvc_export.runtime.cuda.device import Gpu
from luvc_export.runtime.session import Session
from luvc_export.runtime.tensorrt.backend import TrtBackend
from luvc_export.runtime.tensorrt.engine import make_log

pytestmark = pytest.mark.gpu

VOCABULARY = 151936


@pytest.fixture(scope="module")
def target() -> Target:
    try:
        return time_engines.usable(".".join(map(str, Gpu().info.capability)))[0]
    except MachineError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def built(demo_bundle: Bundle, target: Target, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = shutil.copytree(demo_bundle.folder, tmp_path_factory.mktemp("engines") / "bundle")
    return build_engine(folder, target.name, "thirds")


def test_the_gpu_chooses_what_the_host_would(built: Bundle, target: Target) -> None:
    task = find("glyph")
    asked = [case for case in task.cases(task.report[0], 60, 5) if len(case.images) == 1][:8]
    sessions = [
        Session(built, kind(built, "thirds", target.name), "thirds") for kind in (TrtBackend, time_engines.HostChooses)
    ]
    for case in asked:
        ours, theirs = (item.generate(case.images[0], case.prompt) for item in sessions)
        assert ours.token_ids == theirs.token_ids


def test_steps_under_way_do_not_disturb_each_other(built: Bundle, target: Target) -> None:
    """Many steps on the stream, read at the end: host memory in turns, caches and the token in stream order."""
    session = Session(built, TrtBackend(built, "thirds", target.name), "thirds")
    task = find("glyph")
    case = next(case for case in task.cases(task.report[0], 20, 5) if len(case.images) == 1)
    request = session.prepare(case.images[0], case.prompt)

    def tokens(read: Callable[[Any], Any]) -> list[int]:
        step = session.default.run(request.token_ids, session.default.encode_images(request.images))
        token, state, tokens = int(step.logits[0, -1].argmax()), step.state, []
        for _ in range(12):
            token, state = session.default.sample(token, state)
            tokens.append(read(token))
        return [item if isinstance(item, int) else item.read()[0] for item in tokens]

    assert tokens(lambda token: token) == tokens(lambda token: token.read()[0])


def test_an_unload_gives_the_gpu_its_memory_back(built: Bundle, target: Target) -> None:
    """A state stays where it is. The first load may leave what the library and the driver keep for all engines."""
    gpu, tokens = Gpu(), [10, 40, 41, 42]
    backend = TrtBackend(built, "thirds", target.name, gpu=gpu)
    session = Session(built, backend, "thirds")
    session.warm_up()
    backend.unload()
    free = gpu.memory()[0]
    first = session.default.run(tokens)
    session.default.encode_images(np.zeros((1, 1, *session.size, 3), np.uint8))
    wanted = session.default.run([5], state=first.state).logits
    weights = backend._entry.footprint.weights
    assert free - gpu.memory()[0] > weights // 2
    backend.unload()
    assert free - gpu.memory()[0] < weights // 2 + backend._caches.nbytes
    assert np.array_equal(session.default.run([5], state=first.state).logits, wanted)


def tied() -> onnx.ModelProto:
    """``choose_token`` behind an input of logits."""
    text = f"g (float[1,1,{VOCABULARY}] x) => (float[1,1,{VOCABULARY}] logits) {{ logits = Identity(x) }}"
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> {text}')
    model.metadata_props.add(key=PLAN_KEY, value=json.dumps(flat_plan((1, 4), (4, 4), last_layer="full").to_json()))
    return model


@pytest.mark.parametrize("places", [(70_000, 151_935), (0, 1), (5, 100_000, 150_000), tuple(range(40, 60))])
def test_of_equal_logits_the_first_is_chosen(target: Target, places: tuple[int, ...], tmp_path: Path) -> None:
    """As ONNX says of TopK and numpy of argmax; TensorRT's documentation does not say."""
    decoder, _ = run_passes(tied(), target.spec, passes=(append_argmax,))
    logits = np.random.default_rng(0).normal(size=(1, 1, VOCABULARY)).astype(np.float32)
    logits[..., list(places)] = 9.5
    assert choose(target, decoder.SerializeToString(), logits) == (places[0], 9.5)
    logits[0, 0, 77_777] = np.nan
    assert choose(target, decoder.SerializeToString(), logits) == (77_777, np.inf)


def choose(target: Target, model: bytes, logits: Any) -> tuple[int, float]:
    """Build and run with TensorRT's own API: ``next_token`` and ``next_logit``."""
    trt, gpu = library.load(target.library), Gpu()
    log = make_log(trt)
    engine = trt.Runtime(log).deserialize_cuda_engine(build(trt, log, model, target))
    stream, context = gpu.new_stream(), engine.create_execution_context()
    kinds = {"x": np.float32, "logits": np.float32, "next_token": np.int64, "next_logit": np.float32}
    sizes = {"x": logits.nbytes, "logits": logits.nbytes, "next_token": 8, "next_logit": 4}
    memory = {name: gpu.allocate(size, name) for name, size in sizes.items()}
    host = {name: gpu.pinned(size) for name, size in sizes.items()}
    host["x"].array()[:] = logits.reshape(-1).view(np.uint8)
    gpu.upload(memory["x"].address, host["x"].address, sizes["x"], stream)
    for name, block in memory.items():
        assert context.set_tensor_address(name, block.address)
    assert context.execute_async_v3(stream)
    for name in ("next_token", "next_logit"):
        gpu.download(host[name].address, memory[name].address, sizes[name], stream)
    gpu.synchronize(stream)
    token, logit = (host[name].array().view(kinds[name])[0] for name in ("next_token", "next_logit"))
    return int(token), float(logit)


def build(trt: Any, log: Any, model: bytes, target: Target) -> Any:
    """A plan for ``target``, strongly typed as all engines are."""
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    assert parser.parse(model), log.lines
    config = builder.create_builder_config()
    if target.library.cross_build:
        config.num_compute_capabilities = 1
        name = f"SM{str(target.device.compute_capability).replace('.', '')}"
        config.set_compute_capability(trt.ComputeCapability.__members__[name], 0)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None, log.lines
    return plan
