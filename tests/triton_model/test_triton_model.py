"""Triton's model in this process: answers are Session's, streams, chats, seeds, cancelled and refused requests."""

from __future__ import annotations

import base64
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import triton_python_backend_utils as pb_utils
from PIL import Image
from triton_python_backend_utils import Request, bytes_array

from luvc_export.bundle.folder import Bundle
from luvc_export.demo.questions import cases
from luvc_export.runtime.session import Session
from luvc_export.triton.model import TritonPythonModel

CASE = next(cases("heldout", 1, 0, ("where_is",)))
PAIR = next(cases("heldout", 1, 0, ("two_pictures",)))


def png(picture: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.asarray(picture)).save(file, "PNG")
    return file.getvalue()


def args(folder: str, **more: str) -> dict[str, str]:
    parameters = {"bundle": folder, "backend": "cpu", "arithmetic": "auto", "threads": "1", **more}
    config = {"parameters": {name: {"string_value": value} for name, value in parameters.items()}}
    names = {"model_name": "m", "model_instance_kind": "CPU", "model_instance_device_id": "0"}
    return {"model_config": json.dumps(config), "model_repository": "/nowhere", **names}


@pytest.fixture(scope="module")
def model(demo_bundle: Bundle) -> TritonPythonModel:
    served = TritonPythonModel()
    served.initialize(args(str(demo_bundle.folder), plan="even"))
    return served


@pytest.fixture(scope="module")
def session(demo_bundle: Bundle) -> Session:
    return Session(demo_bundle, "cpu", "even", 1)


def ask(model: TritonPythonModel, cancel_after: int = 10**9, **inputs: Any) -> list[tuple[Any, int]]:
    request = Request(inputs, cancel_after)
    model.execute([request])
    assert [flags for _, flags in request.sent] == [0] * (len(request.sent) - 1) + [1], "one last response"
    return request.sent


def test_an_answer_whole_and_in_pieces(model: TritonPythonModel, session: Session) -> None:
    right = session.generate(list(PAIR.images), PAIR.prompt)
    inputs = {"prompt": bytes_array(PAIR.prompt), "image": bytes_array(*map(png, PAIR.images))}
    ((whole, _),) = ask(model, **inputs)
    request = session.prepare(list(PAIR.images), PAIR.prompt)
    prompt = len(request.token_ids) - 2 + 2 * session.plan.units
    assert whole.said() == {
        "text": right.text,
        "finish_reason": "stop",
        "prompt_tokens": prompt,
        "completion_tokens": len(right.token_ids),
        "total_tokens": prompt + len(right.token_ids),
    }
    pieces = [response.said() for response, _ in ask(model, **inputs, stream=np.array([True]))]
    assert len(pieces) > 2 and "".join(piece["text"] for piece in pieces) == right.text
    assert [piece["finish_reason"] for piece in pieces] == [""] * (len(pieces) - 1) + ["stop"]


def test_pictures_as_base64_as_addresses_and_in_chats(model: TritonPythonModel, session: Session) -> None:
    data = png(CASE.images[0])
    text, encoded = session.generate(data, CASE.prompt).text, base64.b64encode(data)
    for image in (encoded, b"data:image/png;base64," + encoded):
        ((response, _),) = ask(model, prompt=bytes_array(CASE.prompt), image=bytes_array(image))
        assert response.said()["text"] == text
    own = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded.decode()}"}}
    for part, more in ((own, {}), ({"type": "image"}, {"image": bytes_array(data)})):
        chat = [{"role": "user", "content": [part, {"type": "text", "text": CASE.prompt}]}]
        ((response, _),) = ask(model, messages=bytes_array(json.dumps(chat)), **more)
        assert response.said()["text"] == text


def test_seeds_and_limits(model: TritonPythonModel, session: Session) -> None:
    inputs = {"prompt": bytes_array(CASE.prompt), "temperature": np.array([50.0], np.float32)}
    inputs["max_tokens"] = np.array([5], np.int32)
    for seed in (3, 4):
        ((response, _),) = ask(model, **inputs, seed=np.array([seed], np.uint64))
        right = session.generate(None, CASE.prompt, temperature=50.0, max_new_tokens=5, seed=seed)
        assert response.said()["text"] == right.text and response.said()["finish_reason"] == right.finish_reason
    largest = np.array([2**64 - 1], np.uint64)
    assert ask(model, **inputs, seed=largest)[0][0].error is None


def test_who_cancels_gets_no_more(model: TritonPythonModel) -> None:
    inputs = {"prompt": bytes_array(CASE.prompt), "regex": bytes_array("([a-z] ){40}"), "stream": np.array([True])}
    sent = ask(model, cancel_after=3, **inputs)
    assert len(sent) == 4 and sent[-1][0].error.code == "CANCELLED"
    assert "cancelled after 3 pieces" in pb_utils.Logger.lines[-1]
    assert len(ask(model, **inputs)) > 20
    assert ask(model, cancel_after=0, **inputs)[0][0].error.code == "CANCELLED", "before it began"


@pytest.mark.parametrize(
    ("inputs", "refusal"),
    [
        ({"prompt": b"x", "image": b"\x89PNG no"}, "not an image"),
        ({"prompt": b"x", "image": b"/etc/hostname"}, "not an image"),
        ({"prompt": b"x", "image": b"data:image/png,abc"}, "data: address"),
        ({"image": b"x"}, "give a prompt or messages"),
        ({"prompt": b"x", "messages": b"[]"}, "give a prompt or messages"),
        ({"prompt": b"\xff"}, "not text"),
        ({"messages": b"{"}, "not JSON"),
        ({"messages": b'[{"role": "user"}]'}, "a role and content"),
        ({"messages": b'[{"role": "user", "content": [{"type": "image"}]}]'}, "fewer pictures"),
        ({"messages": b'[{"role": "user", "content": "x"}]', "image": b"x"}, "more pictures"),
        ({"messages": b'[{"role": "user", "content": [{"type": "image", "path": "/x"}]}]'}, "not understood"),
        ({"messages": b'[{"role": "user", "content": [{"type": "image_url", "image_url": "file:///x"}]}]'}, "base64"),
        ({"prompt": b"row " * 5000}, "longer than"),
        ({"prompt": b"x", "video": b"GIF89a no"}, "damaged or truncated"),
        ({"prompt": b"x", "video": b"/etc/hostname"}, "no film that is read"),
        ({"prompt": b"x", "video": b"data:video/jpeg;base64,AAAA,AAAA"}, "not an image"),
        ({"prompt": b"x", "video": b"data:video/jpeg;base64," + b",".join([b"AAAA"] * 257)}, "too many frames"),
        ({"messages": b'[{"role": "user", "content": [{"type": "video"}]}]'}, "fewer clips"),
        (
            {"messages": b'[{"role": "user", "content": "x"}]', "video": b"data:video/jpeg;base64,AAAA,AAAA"},
            "no video part stands for the clip",
        ),
    ],
)
def test_what_is_wrong_is_said_and_the_next_is_answered(
    model: TritonPythonModel, inputs: dict[str, bytes], refusal: str
) -> None:
    ((response, _),) = ask(model, **{name: bytes_array(value) for name, value in inputs.items()})
    assert response.error.code == "INVALID_ARG" and refusal in str(response.error)
    assert ask(model, prompt=bytes_array("colour of 3?"))[0][0].error is None


def test_what_is_no_input_is_refused_by_name_or_named_in_the_log(model: TritonPythonModel) -> None:
    """Triton hands it on as a parameter."""
    for options, words in (
        ({"min_p": 0.5}, "got: min_p; fix: leave it out"),
        ({"max_new_tokens": 3}, "got: max_new_tokens; fix: leave it out, or see max_tokens of the inputs"),
        ({"temprature": 1.5}, "got: temprature"),
    ):
        request = Request({"prompt": bytes_array("colour of 3?")}, options=options)
        model.execute([request])
        ((response, _),) = request.sent
        assert response.error.code == "INVALID_ARG" and words in str(response.error)
    request = Request({"prompt": bytes_array("colour of 3?")}, options={"user": "me", "n": 1, "zzz": 1})
    model.execute([request])
    assert request.sent[0][0].error is None and pb_utils.Logger.lines[-1] == "ignored parameters: 'zzz'"


def test_a_clip_is_refused_where_the_bundle_takes_none(model: TritonPythonModel) -> None:
    ((response, _),) = ask(model, prompt=bytes_array("x"), video=bytes_array(*[png(CASE.images[0])] * 2))
    assert response.error.code == "INVALID_ARG" and "takes no video" in str(response.error)


def test_fps_is_of_a_clip(model: TritonPythonModel) -> None:
    for fps, refusal in ((2.0, "there is none"), (-1.0, "a number above 0")):
        ((response, _),) = ask(model, prompt=bytes_array("x"), fps=np.array([fps], np.float32))
        assert response.error.code == "INVALID_ARG" and refusal in str(response.error)


def test_a_bundle_that_cannot_be_opened_leaves_the_model_unavailable(tmp_path: Path) -> None:
    with pytest.raises(pb_utils.TritonModelException, match=r"luvc\.json"):
        TritonPythonModel().initialize(args(str(tmp_path)))


def test_an_instance_on_a_gpu_sees_that_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    instance = {**args(str(tmp_path)), "model_instance_kind": "GPU", "model_instance_device_id": "2"}
    with pytest.raises(pb_utils.TritonModelException):
        TritonPythonModel().initialize(instance)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2"
