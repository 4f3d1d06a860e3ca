"""What a library says of an engine it refuses; TensorRT-RTX itself where it is installed."""

from __future__ import annotations

import pytest

from luvc_export.errors import BundleError, LuvcError, MachineError
from luvc_export.runtime.tensorrt import engine as library

VERSION = (
    "The engine plan file is not compatible with this version of TensorRT, expecting library version 10.3.0.26 got "
    "10.16.1.11, please rebuild."
)


@pytest.mark.parametrize(
    ("lines", "kind", "says"),
    [
        ([VERSION], MachineError, r"another version of TensorRT(.|\n)*10\.16\.1\.11(.|\n)*expected: tensorrt 10\.3"),
        (["CUDA initialization failure with error: 2: out of memory"], MachineError, "not enough memory on the GPU"),
        (["Serialization assertion plan->header.size == blobSize failed."], BundleError, "no whole engine"),
        (["Cuda Runtime (no CUDA-capable device is detected)"], MachineError, "cannot start on this machine"),
        ([], BundleError, "does not load\n(.|\n)*nothing in the log"),
        (  # TensorRT-RTX 1.7.1 on an H200, every compute capability it builds for tried
            [
                "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine cannot run on this GPU,"
                " which has compute capability 9.0. Supported compute capabilities: 8.9. TensorRT-RTX does not support"
                " this compute capability, so the engine cannot be rebuilt for it.)"
            ],
            MachineError,
            r"not for this GPU\n.*decoder\.engine\n.*capability 9\.0(.|\n)*fix: luvc-export build for a target",
        ),
    ],
)
def test_a_refusal_in_our_words(lines: list[str], kind: type[LuvcError], says: str) -> None:
    error = library.refusal(lines, "tensorrt 10.3", "decoder.engine")
    assert type(error) is kind
    with pytest.raises(kind, match=says):
        raise error


def test_a_missing_library_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MachineError, match=r"tensorrt is not installed(.|\n)*JetPack") as caught:
        library.load_library("tensorrt")
    assert caught.value.exit_code == 3


def engine() -> bytes:
    trt = pytest.importorskip("tensorrt_rtx", reason="pip install 'luvc-export[rtx]'")
    builder = trt.Builder(library.make_log(trt))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    activation = network.add_activation(
        network.add_input("x", trt.float16, (2, 8)), trt.ActivationType.RELU
    ).get_output(0)
    network.mark_output(activation)
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    return bytes(builder.build_serialized_network(network, config))


@pytest.mark.parametrize("cut", [10, 1000, -1], ids=["ten bytes", "a thousand", "the last one"])
def test_tensorrt_rtx_refuses_a_truncated_engine(cut: int) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="pip install 'luvc-export[rtx]'")
    with pytest.raises(BundleError, match=r"no whole engine of this library(.|\n)*expected: an engine of tensorrt_rtx"):
        library.deserialize(trt, library.make_log(trt), engine()[:cut], "decoder.engine")


def test_tensorrt_rtx_refuses_another_file() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="pip install 'luvc-export[rtx]'")
    with pytest.raises(BundleError, match=r"magicTag"):
        library.deserialize(trt, library.make_log(trt), b"\0" * 4096, "decoder.engine")


def test_plugins_are_loaded_before_the_engine() -> None:
    """Both are rubbish: what TensorRT-RTX refuses first is what it was given first."""
    trt = pytest.importorskip("tensorrt_rtx", reason="pip install 'luvc-export[rtx]'")
    with pytest.raises(MachineError, match=r"did not load the plugins\n  where: plugins of decoder\.engine") as caught:
        library.deserialize(trt, library.make_log(trt), b"\0" * 4096, "decoder.engine", b"no library")
    assert caught.value.exit_code == 3 and "plugins/README.md" in str(caught.value)


def test_a_whole_engine_needs_a_gpu() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="pip install 'luvc-export[rtx]'")
    try:
        library.deserialize(trt, library.make_log(trt), engine(), "decoder.engine")
    except MachineError as error:
        assert "cannot start on this machine" in str(error)
    else:
        pytest.skip("this machine has a GPU")
