"""Triton's model of a bundle that decodes nothing: vectors are Session's, of texts, pictures and pairs; refusals."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_configs import parse
from test_triton_model import args, png
from triton_python_backend_utils import Request, bytes_array

sys.path.append(str(Path(__file__).resolve().parents[1] / "export" / "families"))
import many_vectors
import vector_bundles

from luvc_export.errors import UsageError
from luvc_export.runtime.session import Session
from luvc_export.triton.config import ModelConfig
from luvc_export.triton.model import TritonPythonModel
from luvc_export.triton.repository import RepositoryOptions, write_repository

TEXTS = ["a red seven", "x"]


def opened(folder: Path) -> tuple[TritonPythonModel, Session]:
    served = TritonPythonModel()
    served.initialize(args(str(folder)))
    return served, Session(folder, "cpu", threads=1)


@pytest.fixture(scope="module")
def one(pytestconfig: pytest.Config) -> tuple[TritonPythonModel, Session]:
    return opened(vector_bundles.kept(pytestconfig.cache.mkdir("vectors-qwen2_vl"), "qwen2_vl") / "bundle")


@pytest.fixture(scope="module")
def many(pytestconfig: pytest.Config) -> tuple[TritonPythonModel, Session]:
    return opened(many_vectors.kept(pytestconfig.cache.mkdir("many-every"), "every") / "bundle")


def pictures(session: Session) -> list[bytes]:
    drawn = np.random.default_rng(0).integers(0, 255, (2, *session.size, 3)).astype(np.uint8)
    return [png(drawn[0]), png(drawn[1])]


def sent(model: TritonPythonModel, **inputs: Any) -> Any:
    model.execute([request := Request(inputs)])
    ((response, flags),) = request.sent
    assert flags == 1
    return response


def vectors(model: TritonPythonModel, **inputs: Any) -> tuple[Any, list[int]]:
    response = sent(model, **inputs)
    assert response.error is None, response.error
    outputs = {tensor.name: tensor.as_numpy() for tensor in response.output_tensors}
    assert {name: one.dtype for name, one in outputs.items()} == {"vectors": np.float32, "counts": np.int32}
    return outputs["vectors"], outputs["counts"].tolist()


def test_one_vector_of_each_input_is_the_session_s(one: tuple[TritonPythonModel, Session]) -> None:
    model, session = one
    shown, number = pictures(session), lambda value: np.array([value], np.int32)
    texts, image = bytes_array(*TEXTS), bytes_array(*shown)
    for inputs, wanted in (
        ({"prompt": texts}, session.embed(texts=TEXTS)),
        ({"image": image}, session.embed(images=shown)),
        ({"image": image, "prompt": texts}, session.embed(pairs=[*zip(shown, TEXTS, strict=True)])),
        ({"image": image, "dimensions": number(16)}, session.embed(images=shown, dimensions=16)),
        ({"prompt": texts, "prompt_name": bytes_array("document")}, session.embed(texts=TEXTS, prompt="document")),
        ({"prompt": texts, "instruction": bytes_array("Other.")}, session.embed(texts=TEXTS, instruction="Other.")),
    ):
        ours, counts = vectors(model, **inputs)
        assert counts == [1, 1] and ours.shape == wanted.shape and np.abs(ours - wanted).max() < 1e-6
        assert np.abs(ours - wanted[::-1]).max() > 1e-2, "the comparison cannot fail"


def test_vectors_of_every_token_stand_one_input_behind_another(many: tuple[TritonPythonModel, Session]) -> None:
    model, session = many
    shown = pictures(session)
    for inputs, wanted in (
        ({"prompt": bytes_array(*TEXTS)}, session.embed_many(texts=TEXTS)),
        ({"image": bytes_array(*shown), "pool": np.array([3], np.int32)}, session.embed_many(images=shown, pool=3)),
    ):
        ours, counts = vectors(model, **inputs)
        assert counts == [len(page) for page in wanted] and max(counts) > 1
        assert np.abs(ours - np.concatenate(wanted)).max() < 1e-6


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({}, "texts, pictures, or as many of both"),
        ({"prompt": bytes_array("a", "b"), "image": bytes_array("x")}, "2 texts, 1 pictures"),
        ({"prompt": bytes_array(*["a"] * 257)}, "at most 256"),
        ({"image": bytes_array("/etc/hostname")}, "not an image"),
        ({"prompt": bytes_array("x"), "dimensions": np.array([20], np.int32)}, "may not be cut"),
        ({"prompt": bytes_array("x"), "pool": np.array([2], np.int32)}, "one vector of a page is not merged"),
        ({"prompt": bytes_array("x"), "prompt_name": bytes_array("x")}, "no such prompt"),
        ({"prompt": bytes_array("x", b"\xff")}, "not text"),
    ],
)
def test_what_is_wrong_is_said_and_the_next_is_answered(
    one: tuple[TritonPythonModel, Session], inputs: dict[str, Any], says: str
) -> None:
    response = sent(one[0], **inputs)
    assert response.error.code == "INVALID_ARG" and says in str(response.error)
    assert vectors(one[0], prompt=bytes_array("x"))[1] == [1]


def test_who_cancels_before_it_begins_gets_none(one: tuple[TritonPythonModel, Session]) -> None:
    one[0].execute([request := Request({"prompt": bytes_array("x")}, cancel_after=0)])
    ((response, _),) = request.sent
    assert response.error.code == "CANCELLED"


def test_who_cancels_meanwhile_gets_none(
    one: tuple[TritonPythonModel, Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inputs run eight at a time, and between them somebody looks."""
    ran: list[int] = []

    def rows(session: Session, wanted: Any, **inputs: Any) -> list[Any]:
        ran.extend(len(one) for one in inputs.values())
        return [np.zeros((1, 4), np.float32)] * ran[-1]

    monkeypatch.setattr("luvc_export.triton.model.rows_of", rows)
    assert vectors(one[0], prompt=bytes_array(*["x"] * 20))[1] == [1] * 20 and ran == [8, 8, 4]
    request = Request({"prompt": bytes_array(*["x"] * 20)})
    monkeypatch.setattr(request, "is_cancelled", lambda: len(ran) > 4)
    one[0].execute([request])
    assert request.sent[-1][0].error.code == "CANCELLED" and ran == [8, 8, 4, 8, 8]


def test_too_many_pictures_are_refused_before_any_is_read(
    one: tuple[TritonPythonModel, Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luvc_export.triton.inputs.picture", lambda item: pytest.fail("a picture was read"))
    response = sent(one[0], image=bytes_array(*["x"] * 257))
    assert response.error.code == "INVALID_ARG" and "too many inputs; got: 257" in str(response.error)


def test_pairs_of_a_model_with_many_vectors_are_refused(many: tuple[TritonPythonModel, Session]) -> None:
    model, session = many
    response = sent(model, image=bytes_array(*pictures(session)), prompt=bytes_array(*TEXTS))
    assert response.error.code == "INVALID_ARG" and "send pictures, or texts" in str(response.error)


def test_options_of_answers_are_refused_by_name(one: tuple[TritonPythonModel, Session]) -> None:
    """Triton hands on as parameters what is no input."""
    for name in ("temperature", "max_tokens", "dimension"):
        one[0].execute([request := Request({"prompt": bytes_array("x")}, options={name: 1})])
        ((response, _),) = request.sent
        assert response.error.code == "INVALID_ARG" and f"got: {name}" in str(response.error)


def test_its_repository_says_so(one: tuple[TritonPythonModel, Session], tmp_path: Path, pytestconfig: Any) -> None:
    session = one[1]
    (name,) = write_repository(tmp_path / "models", [str(session.bundle.folder)], RepositoryOptions(backend="cpu"))
    config = parse((tmp_path / "models" / name / "config.pbtxt").read_text())
    assert [(each.name, [*each.dims]) for each in config.output] == [("vectors", [-1, -1]), ("counts", [-1])]
    assert {each.name for each in config.input} >= {"prompt", "image", "dimensions"} and all(
        each.optional for each in config.input
    )
    assert (
        [*config.model_warmup[0].inputs]
        == ["image"]
        == [path.name for path in (tmp_path / "models" / name / "warmup").iterdir()]
    )
    assert "temperature" not in ModelConfig("m", "cpu", decodes=False).text()
    judge = vector_bundles.kept(pytestconfig.cache.mkdir("vectors-reranker"), "reranker") / "bundle"
    with pytest.raises(UsageError, match=r"a bundle of the task rerank(.|\n)*one of the task embed"):
        write_repository(tmp_path / "models", [str(judge)], RepositoryOptions(backend="cpu"))
