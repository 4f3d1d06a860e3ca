"""Several plans in one bundle: image sizes, and a budget that a whole video shares. One family shows it for all."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import family_chat
import family_harness as harness
import numpy as np
import pytest
from family_harness import TOLERANCE
from family_questions import small
from film_files import noise, write_film
from flat_plans import replan
from PIL import Image
from test_family_joint import MOMENTS
from test_family_video import CHAT, FPS, frames
from torch_backend import TorchBackend

from luvc_export import build_engine, export_bundle
from luvc_export.batch.job import BatchJob
from luvc_export.batch.run import run_batch
from luvc_export.bundle.folder import Bundle
from luvc_export.cli import main
from luvc_export.core import graph_io
from luvc_export.core.plan import Plan
from luvc_export.runtime.prompt.question import VideoClip
from luvc_export.runtime.session import Session
from luvc_export.serve.models import Models, ServedModel

FAMILY = "qwen2_vl"
ROOT = Path(__file__).resolve().parents[3]
#: Of a real film.
QUESTION, LENGTH = "What then?", 4
BACKENDS = ("cpu", "openvino")
#: Which plan is taken, and what a film shares, shows in one; test_family_graphs.py has the drop.
LAYERS = 1


def _wide() -> tuple[tuple[int, int], Plan]:
    """Another size, whose tokens are all kept."""
    size, plan = small(FAMILY, LAYERS).wide
    return size, replan(plan, merges=(), keep=(plan.units,), last_layer="full")


def _plans() -> dict[str, Plan]:
    """Two sizes without a prune, and a film of the first size with one."""
    (height, width), wide = _wide()
    first = replan(small(FAMILY, LAYERS).thirds, merges=())
    units = first.units
    film = replan(first, keep=(MOMENTS * units // 2,), joint_images=MOMENTS)
    return {"thirds": replan(first, keep=(units,)), f"thirds@{height}x{width}": wide, "thirds@video": film}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    tiny, folder = small(FAMILY, LAYERS), tmp_path_factory.mktemp(FAMILY)
    options: dict[str, Any] = {"image_size": tiny.size, "text_capacity": 256, "video": True}
    checkpoint = str(family_chat.save(tiny, folder / "checkpoint"))
    return export_bundle(checkpoint, folder / "bundle", _plans(), **options)


def test_the_size_that_fits_a_picture_is_used_and_said(bundle: Bundle) -> None:
    """One bundle, two sizes, one file of weights; a chat stays with the size it began with."""
    tiny, near = small(FAMILY, LAYERS), _plans()["thirds"]
    (height, width), wide = _wide()
    both = Session(bundle, "cpu", threads=1)
    assert bundle.sizes_of() == {tiny.size: "thirds", (height, width): f"thirds@{height}x{width}"}
    for size, plan in ((tiny.size, near), ((height, width), wide)):
        picture = np.random.default_rng(3).integers(0, 256, (*size, 3), dtype=np.uint8)
        answer = both.generate(picture, "what?", max_new_tokens=4)
        assert answer.selection.size == size
        alone = Session(bundle, TorchBackend(tiny, plan), plan=bundle.sizes_of()[size])
        assert answer.token_ids == alone.generate(picture, "what?", max_new_tokens=4).token_ids
        assert answer.visual_tokens == plan.keep
    assert [path.name for path in bundle.folder.iterdir()].count("weights") == 1


def test_run_takes_a_folder_of_frames(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twelve frames on disk, six of them looked at, under the plan for whole videos."""
    tiny = small(FAMILY, LAYERS)
    for index, frame in enumerate(frames(tiny, 12)):
        Image.fromarray(frame).save(tmp_path / f"{index}.png")
    asked = [
        "--prompt",
        "What then?",
        "--max-new-tokens",
        "2",
        "--show-kept",
        str(tmp_path / "kept" / "k.png"),
        "--json",
    ]
    argv = ["luvc-export", "run", str(bundle.folder), "--video", str(tmp_path), "--fps", "4", *asked]
    monkeypatch.setattr("sys.argv", argv)
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    record = json.loads(capsys.readouterr().out)
    facts = {"frames": 2 * MOMENTS, "of": 12, "fps": 4 * 2 * MOMENTS / 12, "times": None}
    assert record["video"] == {**facts, "seconds": 3.0, "every_seconds": 0.5}
    assert tuple(record["timings"]["visual_tokens"]) == bundle.manifest.plans["thirds@video"].plan.keep
    assert (tmp_path / "kept" / "k.png").is_file()


@pytest.mark.parametrize("backend", BACKENDS)
def test_videos_find_their_plan_and_keep_what_torch_keeps(bundle: Bundle, backend: str) -> None:
    """One bundle: pictures take the plan with a budget each, videos the one they share."""
    pytest.importorskip("openvino" if backend == "openvino" else "onnxruntime")
    tiny = small(FAMILY, LAYERS)
    plan = bundle.manifest.plans["thirds@video"].plan
    assert bundle.manifest.plans["thirds"].vision == bundle.manifest.plans["thirds@video"].vision
    ours, shown = Session(bundle, backend, threads=1, arithmetic="fp32"), frames(tiny, 2 * MOMENTS)
    torch_ = Session(bundle, TorchBackend(tiny, plan), plan="thirds@video")
    graph = Session(bundle, backend, threads=1, plan="thirds@video", arithmetic="fp32")
    request = torch_.prepare(messages=CHAT, video=shown, fps=FPS)
    steps = [
        one.default.run(request.token_ids, one.default.encode_images(request.images), blocks=request.blocks)
        for one in (graph, torch_)
    ]
    assert harness.difference(steps[0].logits, steps[1].logits) < TOLERANCE
    assert {*steps[0].kept} == {*steps[1].kept} and steps[0].kept
    for layer, kept in steps[1].kept.items():
        assert np.array_equal(steps[0].kept[layer], kept)
    for one in (ours, torch_):
        answer = one.generate(messages=CHAT, video=shown, fps=FPS, max_new_tokens=8)
        assert answer.visual_tokens == plan.keep
        assert len(answer.token_ids) == 8
    rows = ours.generate_batch(
        [{"messages": CHAT, "video": part, "fps": FPS} for part in (shown, shown[::-1])], max_new_tokens=4
    )
    assert all(row.visual_tokens == plan.keep for row in rows)
    assert ours.generate(shown[0], "?", max_new_tokens=2).visual_tokens == bundle.manifest.plans["thirds"].plan.keep
    assert ours.video_frames() == 2 * MOMENTS


def test_a_film_is_answered_alike_by_session_batch_and_server(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("av", reason="pip install 'luvc-export[video]'")
    for folder in ("benchmarks/serving", "tests/serve"):
        monkeypatch.syspath_prepend(str(ROOT / folder))
    from running import serving

    film = write_film(tmp_path / "clip.mp4", noise(20, *small(FAMILY, LAYERS).size), rate=4)
    own = Session(bundle, "cpu", threads=1, arithmetic="fp32")
    answer = own.generate(prompt=QUESTION, video=str(film), max_new_tokens=LENGTH, greedy=True)
    assert answer.selection.size and answer.visual_tokens == bundle.manifest.plans["thirds@video"].plan.keep

    lines: list[dict[str, Any]] = [{"id": "film", "prompt": QUESTION, "video": "clip.mp4"}]
    lines.append({"id": "none", "prompt": QUESTION, "video": "gone.mp4"})
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    sampling = {"max_new_tokens": LENGTH, "greedy": True}
    run_batch(BatchJob(bundle.folder, tmp_path / "asked.jsonl", tmp_path / "out", backend="cpu", sampling=sampling))
    parts = sorted((tmp_path / "out").glob("part-*"))
    rows = {row["id"]: row for part in parts for row in map(json.loads, part.read_text().splitlines())}
    assert rows["film"]["text"] == answer.text and "gone.mp4" in rows["none"]["error"]

    address = "data:video/mp4;base64," + base64.b64encode(film.read_bytes()).decode()
    content = [{"type": "video_url", "video_url": {"url": address}}, {"type": "text", "text": QUESTION}]
    asked = {
        "model": "film",
        "messages": [{"role": "user", "content": content}],
        "max_tokens": LENGTH,
        "temperature": 0,
    }
    with serving(Models([ServedModel("film", own)])) as (_, client):
        reply = client.call("POST", "/v1/chat/completions", json.dumps(asked).encode())
        assert reply.status == 200, reply.body
        assert json.loads(reply.body)["choices"][0]["message"]["content"] == answer.text
        content[0]["video_url"] = {"url": address[: len(address) // 3 // 4 * 4 + 22]}
        damaged = client.call("POST", "/v1/chat/completions", json.dumps(asked).encode())
        assert damaged.status == 400 and "film" in json.loads(damaged.body)["error"]["message"]
    assert len(answer.selection.placements) == MOMENTS


def test_triton_answers_about_a_clip_as_session_does(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan for whole clips, warmed up with one: frames as tensors, as one address, and as what a chat speaks of."""
    monkeypatch.syspath_prepend(ROOT / "tests" / "triton_model")
    from triton_python_backend_utils import Request, bytes_array

    from luvc_export.triton.inputs import question_from
    from luvc_export.triton.model import TritonPythonModel
    from luvc_export.triton.repository import RepositoryOptions, write_repository

    (name,) = write_repository(tmp_path, [f"{bundle.folder}#thirds@video"], RepositoryOptions(backend="cpu", threads=1))
    warm = (tmp_path / name / "warmup" / "video").read_bytes()
    assert (
        f'video" value {{ data_type: TYPE_STRING dims: [ {2 * MOMENTS} ]'
        in (tmp_path / name / "config.pbtxt").read_text()
    )
    parameters = {
        "bundle": str(bundle.folder),
        "backend": "cpu",
        "arithmetic": "fp32",
        "threads": "1",
        "plan": "thirds@video",
    }
    config = {"parameters": {key: {"string_value": value} for key, value in parameters.items()}}
    model = TritonPythonModel()
    model.initialize(
        {
            "model_config": json.dumps(config),
            "model_repository": str(tmp_path),
            "model_name": name,
            "model_instance_kind": "CPU",
            "model_instance_device_id": "0",
        }
    )

    def ask(**inputs: Any) -> dict[str, Any]:
        request = Request(
            {"max_tokens": np.array([LENGTH], np.int32), "temperature": np.zeros(1, np.float32), **inputs}
        )
        model.execute([request])
        ((response, _),) = request.sent
        assert response.error is None, response.error
        return response.said()

    shown = frames(small(FAMILY, LAYERS), 2 * MOMENTS)
    files = []
    for frame in shown:
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "PNG")
        files.append(file.getvalue())
    own = Session(bundle, "cpu", "thirds@video", 1, arithmetic="fp32")
    right = own.generate(prompt=QUESTION, video=shown, fps=FPS, max_new_tokens=LENGTH, greedy=True)
    asked, rate = bytes_array(QUESTION), np.array([FPS], np.float32)
    answer = ask(prompt=asked, video=bytes_array(*files), fps=rate)
    units = MOMENTS * own.plan.units
    text = len(own.prepare(prompt=QUESTION, video=shown, fps=FPS).token_ids) - MOMENTS
    assert (answer["text"], answer["prompt_tokens"]) == (right.text, text + units)
    address = b"data:video/png;base64," + b",".join(map(base64.b64encode, files))
    assert ask(prompt=asked, video=bytes_array(address), fps=rate) == answer
    chat = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": QUESTION}]}]
    assert ask(messages=bytes_array(json.dumps(chat)), video=bytes_array(*files), fps=rate) == answer
    (clip,) = question_from({"prompt": [QUESTION], "video": files, "fps": rate}.get).media
    assert isinstance(clip, VideoClip) and (clip.frames, clip.fps) == (tuple(files), pytest.approx(FPS))
    lengths = [int.from_bytes(warm[:4], "little")] * (2 * MOMENTS)
    assert len(warm) == sum(4 + length for length in lengths)


def test_a_bundle_for_videos_builds_without_a_gpu(bundle: Bundle) -> None:
    """Its pictures are two frames: what cuts them into patches must stay within TensorRT's eight axes."""
    pytest.importorskip("tensorrt_rtx", reason="pip install 'luvc-export[rtx]'")
    assert bundle.manifest.image.frames == 2
    engine = build_engine(bundle.folder, "rtx-ada", "thirds@video", precision="fp16")
    assert engine.engine("thirds@video", "rtx-ada").vision.inputs[0].name == graph_io.IMAGE
