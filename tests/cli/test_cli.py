"""Verbs from the outside: exit codes, output for people and for machines, and every bad input of the issue."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from cli_words import Cli
from flat_plans import flat_plan
from PIL import Image

from luvc_export.bundle.folder import Bundle
from luvc_export.cli import main
from luvc_export.core.plan import EncoderPrune, Plan
from luvc_export.demo import CHECKPOINT, IMAGE_SIZE
from luvc_export.demo.questions import cases

SIZE = f"{IMAGE_SIZE[0]}x{IMAGE_SIZE[1]}"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of the bundled checkpoint that a test may damage."""
    return Path(shutil.copytree(CHECKPOINT, tmp_path / "checkpoint"))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(next(cases("heldout", 1)).images[0]).save(path)
    return path


def refused(result: tuple[int, str, str], *texts: str, code: int = 2) -> None:
    assert result[0] == code, result
    for text in texts:
        assert text in result[2], result[2]
    assert "Traceback" not in result[1] + result[2]


def test_run_answers_streams_and_draws(cli: Cli, demo_bundle: Bundle, picture: Path, tmp_path: Path) -> None:
    case = next(cases("heldout", 1))
    kept = tmp_path / "kept.png"
    args = ["run", demo_bundle.folder, "--image", picture, "--prompt", case.prompt, "--max-new-tokens", 8]
    code, out, err = cli(*args, "--plan", "thirds", "--show-kept", kept)
    assert (code, out.strip()) == (0, case.answer)
    assert "visual tokens by layer 80 80 40 40 20 0" in err
    assert "plan thirds" not in err
    with Image.open(kept) as sheet:
        assert sheet.width > 1000
    code, out, err = cli(*args, "--plan", "none", "--json", "--verbose")
    data = json.loads(out)
    assert "plan none, products in fp32, images of" in err and "answers are written with all" in err
    assert code == 0 and data["text"] == case.answer and data["timings"]["visual_tokens"] == [108] * 6


def test_plan_prints_a_table_and_writes_a_file_that_export_takes(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    code, out, _ = cli("plan", CHECKPOINT, "--image-size", SIZE, "--speedup", 2, "-o", file)
    assert code == 0 and "prefill FLOPs 2.0" in out and "merged to" not in out
    plan = Plan.from_json(json.loads(file.read_text()))
    assert plan.schedule == "speedup 2" and plan.keep[-1] == 0
    code, out, _ = cli("plan", CHECKPOINT, "--image-size", SIZE, "--plan", file, "--json")
    assert code == 0 and Plan.from_json(json.loads(out)["plan"]) == plan
    code, out, _ = cli("plan", CHECKPOINT, "--image-size", SIZE, "--speedup", 2, "--kv-only", "2-3", "-o", file)
    frozen = Plan.from_json(json.loads(file.read_text()))
    assert code == 0 and "keys and values" in out and frozen.llm.kv_only == (2, 3)
    assert sum(frozen.keep) > sum(plan.keep)  # the same cost leaves room for more


def test_plan_refuses_a_file_that_is_not_for_the_model(cli: Cli, tmp_path: Path) -> None:
    file, prune = tmp_path / "other.json", EncoderPrune(1, 0.5, window=3)
    file.write_text(json.dumps(flat_plan((9, 12), (108, 0), encoder_prune=prune).to_json()))
    code, out, err = cli("plan", CHECKPOINT, "--plan", file)
    assert code == 2 and not out and "got 2 budgets, the model has 6 layers" in err
    assert "encoder.prune.window: got 3, expected 0" in err


def test_inspect_and_doctor(cli: Cli, demo_bundle: Bundle) -> None:
    code, out, _ = cli("inspect", demo_bundle.folder, "--verify")
    assert code == 0 and "every hash is right" in out and "decoder.thirds.onnx" in out
    code, out, _ = cli("inspect", demo_bundle.folder, "--json")
    assert code == 0 and set(json.loads(out)["cost"]) == {"none", "even", "thirds"}
    page = demo_bundle.folder.parent / "surgery.html"
    code, out, _ = cli("inspect", demo_bundle.folder, "--surgery", "--html", page)
    assert code == 0 and "fuse_spectrum_prune" in out and "fuse_spectrum_prune" in page.read_text()
    code, out, _ = cli("inspect", demo_bundle.folder, "--surgery", "--json")
    assert code == 0 and json.loads(out)["decoder.thirds.onnx"][0]["target"] == "cpu"
    code, out, _ = cli("doctor", "--json", "--need", "export")
    assert code == 0 and json.loads(out)["parts"]["export"]["missing"] == []
    code, _, err = cli("doctor", "--need", "run on the moon")
    assert code == 2 and "unknown part" in err


def test_wrong_model_type_suggests(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"model_type": "qwen2_5vl"}))
    refused(cli("export", checkpoint, "-o", tmp_path / "b"), "did you mean 'qwen2_5_vl'?", "config.json")
    assert not (tmp_path / "b").exists()


def test_missing_weights(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    refused(
        cli("export", checkpoint, "-o", tmp_path / "b"), "weight file of the checkpoint is missing", "model.safetensors"
    )
    (checkpoint / "pytorch_model.bin").write_bytes(b"x")
    refused(cli("export", checkpoint, "-o", tmp_path / "b"), "pickled weights")


@pytest.mark.parametrize("cut", [3, 200, 5_000_000])
def test_truncated_weights(cli: Cli, checkpoint: Path, tmp_path: Path, cut: int) -> None:
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    refused(cli("export", checkpoint, "-o", tmp_path / "b"), "truncated or damaged", "model.safetensors")


def test_tensor_missing_or_of_another_shape(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    path = checkpoint / "model.safetensors"
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    name = next(key for key in header if key.endswith("layers.3.mlp.up_proj.weight"))

    def write(changed: dict[str, object]) -> None:
        text = json.dumps(changed).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])

    write({"gone" if key == name else key: value for key, value in header.items()})
    export = ("export", checkpoint, "-o", tmp_path / "b", "--image-size", SIZE)
    refused(cli(*export), "lacks tensors", "layers.3.mlp.up_proj")
    write(header | {name: header[name] | {"shape": header[name]["shape"][::-1]}})
    refused(cli(*export), "does not fit its config", "up_proj")


def test_no_checkpoint_and_quantised_checkpoint(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(cli("export", tmp_path / "empty", "-o", tmp_path / "b"), "not a checkpoint", "config.json")
    config = json.loads((checkpoint / "config.json").read_text())
    for method, refusal in (("awq", "no tensor of it is"), ("bitsandbytes", "calibrate --precision q4")):
        quantised = config | {"quantization_config": {"quant_method": method}}
        (checkpoint / "config.json").write_text(json.dumps(quantised))
        refused(cli("export", checkpoint, "-o", tmp_path / "b"), refusal, method)


def test_no_tokenizer(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "tokenizer.json").unlink()
    refused(
        cli("export", checkpoint, "-o", tmp_path / "b", "--image-size", SIZE), "no fast tokenizer", "save_pretrained"
    )


@pytest.mark.parametrize(
    ("args", "texts"),
    [
        (["--image-size", "250x336"], ["multiples of 28", "--image-size 252x336"]),
        (["--image-size", "big"], ["cannot read the image size"]),
        (["--plan", "third"], ["did you mean 'thirds'"]),
        (["--plan", "1000,20,0"], ["got 1000, expected 0 to 108"]),
        (["--plan=-5,3,0"], ["got -5, expected 0 to 108"]),
        (["--plan", "60,20,0"], ["got 3 budgets, the model has 6 layers"]),
        (["--plan", "nowhere.json"], ["no such plan file"]),
        (["--speedup", "99"], ["--speedup cannot be met"]),
        (["--text-capacity", "5000"], ["1 to 2048 (the model's context)"]),
        (["--fit", "padd"], ["did you mean 'pad'"]),
        (["--dtype", "fp8"], ["did you mean"]),
        (["--merge-keep", "0"], ["must be a fraction"]),
        (["--score", "lo"], ["did you mean 'low'"]),
        (["--score", "scope", "--steps", "60"], ["60 rounds to keep 52 tokens before layer 1: at most 52"]),
        (["--score", "maxmin", "--steps", "65"], ["steps: got 65, expected a whole number from 0 to 64"]),
        (["--plan", "staged", "--steps", "8"], ["steps: score 'residual' has no such setting", "maxmin, scope"]),
        (["--kv-only", "2,x"], ["cannot read the layers", "such as 8-20,24"]),
        (["--kv-only", "2,9"], ["kv_only[1]: got layer 9, expected 0 to 4: there are 6 layers"]),
        (["--kv-only", "1-2", "--plan", "none"], ["compresses nothing"]),
        (["--joint-frames", "7"], ["so many frames make no video", "2 or a multiple of it"]),
        (
            ["--joint-frames", "4", "--plan", "60,40,30,20,10,0"],
            ["fixed budgets are for one image or for those that share them"],
        ),
    ],
)
def test_export_refuses_what_does_not_fit(cli: Cli, tmp_path: Path, args: list[str], texts: list[str]) -> None:
    words = args if "--image-size" in args else ["--image-size", SIZE, *args]
    refused(cli("export", CHECKPOINT, "-o", tmp_path / "b", *words), *texts)
    assert list(tmp_path.iterdir()) == []


def test_export_overwrites_nothing(cli: Cli, tmp_path: Path, copied_bundle: Path) -> None:
    before = (copied_bundle / "luvc.json").read_bytes()
    refused(cli("export", CHECKPOINT, "-o", copied_bundle, "--image-size", SIZE), "--overwrite")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    refused(cli("export", CHECKPOINT, "-o", tmp_path / "mine", "--overwrite"), "not a bundle")
    assert (copied_bundle / "luvc.json").read_bytes() == before


def test_run_refuses_bad_bundles_pictures_and_prompts(
    cli: Cli, demo_bundle: Bundle, copied_bundle: Path, picture: Path, tmp_path: Path
) -> None:
    noise = tmp_path / "noise.jpg"
    noise.write_bytes(b"no picture at all")
    ask = ("--prompt", "where is 7?")
    refused(cli("run", demo_bundle.folder, "--image", noise, *ask), "noise.jpg")
    refused(cli("run", demo_bundle.folder, "--image", tmp_path / "gone.png", *ask), "gone.png")
    refused(cli("run", demo_bundle.folder, "--image", picture, "--prompt", "?" * 3000), "longer than")
    refused(cli("run", demo_bundle.folder, "--plan", "third", *ask), "did you mean 'thirds'")
    refused(cli("run", demo_bundle.folder, "--backend", "gpu", *ask), "unknown back-end")
    refused(cli("run", demo_bundle.folder, "--temperature", "-1", *ask), "temperature")
    refused(cli("run", demo_bundle.folder, "--show-kept", tmp_path / "k.png", *ask), "--image")
    refused(cli("run", tmp_path, *ask), "not a bundle")
    film, shown = tmp_path / "film.mp4", tmp_path / "frames"
    film.write_bytes(b"\x00\x00\x00\x18ftypmp42")
    shown.mkdir()
    shutil.copy(picture, shown / "1.png")
    refused(cli("run", demo_bundle.folder, "--video", film, *ask), "the film is damaged or truncated", "film.mp4")
    refused(cli("run", demo_bundle.folder, "--video", shown, *ask), "this bundle takes no video", "--video")
    refused(cli("run", demo_bundle.folder, "--image", picture, "--frames", "3", *ask), "pass --video")
    weights = copied_bundle / "weights"
    data = bytearray(weights.read_bytes())
    data[1000] ^= 1
    weights.write_bytes(data)
    refused(cli("run", copied_bundle, "--image", picture, *ask), "weights", "has changed since it was exported")


def test_parity_refuses_before_it_compares(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "luvc.json").touch()
    ask = ("parity", "hf:demo", tmp_path / "luvc.json", "--task", "glyph")
    refused(cli(*ask), "this is a file, and a model is a folder", f"give the folder: {tmp_path}")
    refused(cli("parity", f"hf:{tmp_path}", "demo", "--task", "glyph"), "this is a bundle, not a checkpoint")
    for share in ("7", "-1", "nan"):
        refused(cli(*ask, f"--retention={share}"), "a share must lie between 0 and 1", "--retention")


@pytest.mark.parametrize("value", ["-1", "0", "nan", "inf"])
def test_no_such_memory(cli: Cli, tmp_path: Path, value: str) -> None:
    refused(
        cli("build", tmp_path, "--target", "rtx-ada", f"--device-memory={value}"),
        "the device's memory is not a positive number of GiB",
    )


def test_frames_merge_in_clips_alone(cli: Cli, tmp_path: Path) -> None:
    refused(cli("plan", "demo", "--merge-frames", "0.5"), "frames of a clip merge", "--joint-frames")
    refused(cli("export", "demo", "-o", tmp_path / "new", "--merge-frames", "0.5"), "--joint-frames")
    refused(cli("plan", "demo", "--data", "glyph", "--json", "--kv", "int8"), "the JSON of a search holds no costs")


def test_so_many_threads_are_refused(cli: Cli, tmp_path: Path) -> None:
    """100,000 of them once took the machine's memory."""
    refused(cli("run", tmp_path, "--prompt", "?", "--threads", 100_000), "--threads", "1024")


@pytest.mark.parametrize("words", [("demo",), ("make-random", "smolvlm-256m")])
def test_a_seed_is_not_negative(cli: Cli, tmp_path: Path, words: tuple[str, ...]) -> None:
    refused(cli(*words, "-o", tmp_path / "new", "--seed=-1"), "'--seed'")


@pytest.mark.parametrize(("pattern", "refusal"), [("(", "no regular expression"), ("nothing", "no product matches")])
def test_calibrate_refuses_a_pattern_before_it_collects(
    cli: Cli, demo_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, pattern: str, refusal: str
) -> None:
    monkeypatch.setattr("luvc_export.calibration.quantise.ranges.collected", lambda *arguments: 1 / 0)
    words = ("calibrate", demo_bundle.folder, "--precision", "int8", "--data", "glyph", "--count", 56)
    refused(cli(*words, "--keep-high", pattern), refusal, "--keep-high")


def test_an_error_follows_no_empty_line(cli: Cli, tmp_path: Path) -> None:
    assert cli("build", tmp_path, "--target", "rtx-ada")[2].startswith("error: this is not a bundle")


def test_a_back_end_this_machine_lacks_is_exit_3(cli: Cli, demo_bundle: Bundle, picture: Path) -> None:
    from onnxruntime import get_available_providers

    if "CUDAExecutionProvider" in get_available_providers():
        pytest.skip("this machine has CUDA")
    refused(
        cli("run", demo_bundle.folder, "--image", picture, "--prompt", "where is 7?", "--backend", "cuda"),
        "CUDA",
        code=3,
    )


def test_unknown_verbs_and_internal_errors(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = cli("exprot")
    assert code == 2 and "export" in err
    monkeypatch.setattr("luvc_export.export.checkpoint.open_checkpoint", lambda *a, **k: 1 / 0)
    code, _, err = cli("plan", CHECKPOINT)
    assert code == 70 and "ZeroDivisionError" in err and "--debug" in err and "Traceback" not in err
    monkeypatch.setattr(sys, "argv", ["luvc-export", "--debug", "plan", str(CHECKPOINT)])
    with pytest.raises(ZeroDivisionError):
        main()


@pytest.mark.slow(beside="bundle/test_replacing.py::test_killed_at_each_step_nothing_is_lost_and_nothing_left")
def test_interrupting_an_export_leaves_nothing(tmp_path: Path) -> None:
    """SIGINT, then SIGTERM, as soon as the temporary folder stands: no bundle, no leftover, no traceback."""
    code = f"""
import os, signal, sys
from luvc_export import bundle, cli
from luvc_export.export import weights
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
sys.argv = ["luvc-export", "export", {str(CHECKPOINT)!r}, "-o", {str(tmp_path / "out")!r}, "--image-size", "{SIZE}"]
plain, codes = weights.skeleton, []
for number in (signal.SIGINT, signal.SIGTERM):
    def interrupted(*args, **named):
        assert any(name.endswith(".part") for name in os.listdir({str(tmp_path)!r}))
        os.kill(os.getpid(), number)
        return plain(*args, **named)
    weights.skeleton = interrupted
    try:
        cli.main()
    except SystemExit as stop:
        codes.append(stop.code)
print(codes, signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout == "[130, 143] True\n", result.stderr
    assert result.stderr.count("interrupted") == 2 and "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []
