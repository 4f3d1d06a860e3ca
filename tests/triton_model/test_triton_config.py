"""config.pbtxt parses as Triton's protobuf; what is asked of the repository is in it, or refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from model_configs import as_json, parse

from luvc_export.bundle.folder import Bundle, load
from luvc_export.errors import UsageError
from luvc_export.runtime.session_options import SessionOptions
from luvc_export.triton.config import ModelConfig, parameters_of, warm_up_files
from luvc_export.triton.repository import RepositoryOptions, write_repository

#: NVIDIA's VLM tutorial (triton-inference-server/tutorials, Popular_Models_Guide/Llava1.5).
TUTORIAL = {
    "prompt": ("TYPE_STRING", [1]),
    "image": ("TYPE_STRING", [-1]),
    "max_tokens": ("TYPE_INT32", [1]),
    "temperature": ("TYPE_FP32", [1]),
    "top_k": ("TYPE_INT32", [1]),
    "frequency_penalty": ("TYPE_FP32", [1]),
    "seed": ("TYPE_UINT64", [1]),
}


@pytest.mark.parametrize(
    ("backend", "kind"),
    [("auto", "KIND_AUTO"), ("cpu", "KIND_CPU"), ("openvino:CPU", "KIND_CPU"), ("cuda", "KIND_GPU"),
     ("tensorrt:jetson-thor", "KIND_GPU")],
)  # fmt: skip
@pytest.mark.parametrize("warm_up", [True, False])
def test_every_config_parses(backend: str, kind: str, warm_up: bool) -> None:
    text = ModelConfig("a-model", backend, 3, warm_up, {"bundle": "/b", "backend": backend}).text()
    fields = json.loads(as_json(text))
    assert fields["backend"] == "python" and fields["model_transaction_policy"] == {"decoupled": True}
    (group,) = fields["instance_group"]
    assert group["count"] == 3 and group.get("kind", "KIND_AUTO") == kind  # the first value is not written
    assert len(fields.get("model_warmup", [])) == warm_up and parse(text).max_batch_size == 0
    inputs = {one["name"]: (one["data_type"], [int(size) for size in one["dims"]]) for one in fields["input"]}
    assert TUTORIAL.items() <= inputs.items() and all(one["optional"] for one in fields["input"])
    names = ["text", "finish_reason", "prompt_tokens", "completion_tokens", "total_tokens"]
    assert [one["name"] for one in fields["output"]] == names
    for sabotage in ("instance_groups { }", 'input { name: "x" data_type: TYPE_TEXT }', 'nome: "x"'):
        with pytest.raises(text_format.ParseError):
            parse(text + sabotage)


def test_a_plan_for_clips_is_warmed_up_with_one() -> None:
    """As many frames as the configuration says there are; others ask a picture."""
    for frames, name, count in ((6, "video", 6), (0, "image", 1)):
        inputs = parse(ModelConfig("m", "cpu", frames=frames).text()).model_warmup[0].inputs
        assert set(inputs) == {"prompt", name, "max_tokens"} == set(warm_up_files(b"png", frames))
        assert [*inputs[name].dims] == [count]
        assert warm_up_files(b"png", frames)[name] == b"\x03\0\0\0png" * count


@given(value=st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_path_comes_back(value: str) -> None:
    text = ModelConfig("m", "cpu", parameters={"bundle": value}).text()
    assert parameters_of(as_json(text))["bundle"] == value


def test_every_option_of_a_session_reaches_the_model(demo_bundle: Bundle, tmp_path: Path) -> None:
    asked = {"threads": 2, "image_tokens": 64, "speculate": "lookup:3", "open_plans": 1, "remember": 2}
    options = RepositoryOptions(backend="cpu", lora={"loud": "adapters/loud"}, verify=True, **asked)  # verified here
    write_repository(tmp_path / "models", [f"{demo_bundle.folder}#even"], options)
    config = (tmp_path / "models" / f"{demo_bundle.folder.name}-even" / "config.pbtxt").read_text()
    read = SessionOptions.of_texts(parameters_of(as_json(config)))
    lora = {"loud": str(Path("adapters/loud").absolute())}
    assert read == SessionOptions(backend="cpu", plan="even", lora=lora, **asked)  # type: ignore[arg-type]


def test_warm_up_files_are_the_inputs_said(demo_bundle: Bundle, tmp_path: Path) -> None:
    (name,) = write_repository(
        tmp_path / "models", [f"{demo_bundle.folder}#even"], RepositoryOptions(backend="cpu", threads=2)
    )
    place = tmp_path / "models" / name
    assert name == f"{demo_bundle.folder.name}-even" and (place / "1" / "model.py").is_file()
    config = parse((place / "config.pbtxt").read_text())
    files = {key: value.input_data_file for key, value in config.model_warmup[0].inputs.items()}
    assert set(files.values()) == {path.name for path in (place / "warmup").iterdir()} == set(warm_up_files(b""))
    image = (place / "warmup" / files["image"]).read_bytes()
    assert int.from_bytes(image[:4], "little") == len(image) - 4 and image[4:8] == b"\x89PNG"
    parameters = parameters_of(as_json((place / "config.pbtxt").read_text()))
    assert (
        parameters["plan"] == "even"
        and parameters["threads"] == "2"
        and Path(parameters["bundle"]) == demo_bundle.folder.resolve()
    )


def test_a_repository_is_written_whole_and_only_over_its_own(demo_bundle: Bundle, tmp_path: Path) -> None:
    repository, bundles = tmp_path / "models", [str(demo_bundle.folder)]
    (name,) = write_repository(repository, bundles, RepositoryOptions(backend="cpu", copy=True))
    load(repository / name / "bundle", full=True)
    assert parameters_of(as_json((repository / name / "config.pbtxt").read_text()))["bundle"] == "bundle"
    with pytest.raises(UsageError, match=r"the model is there already(.|\n)*--overwrite"):
        write_repository(repository, bundles, RepositoryOptions(backend="cpu"))
    write_repository(repository, bundles, RepositoryOptions(backend="cpu", instances=2, warm_up=False, overwrite=True))
    text = (repository / name / "config.pbtxt").read_text()
    assert "count: 2" in text and "model_warmup" not in text and not (repository / name / "bundle").exists()
    shutil.rmtree(repository / name)
    (repository / name).mkdir()
    (repository / name / "config.pbtxt").write_text('name: "somebody else\'s"')
    with pytest.raises(UsageError, match="something else has this name"):
        write_repository(repository, bundles, RepositoryOptions(backend="cpu", overwrite=True))
    assert [path.name for path in repository.iterdir()] == [name]


def test_a_copy_holds_what_the_bundle_lists_and_nothing_of_somebody_else_s(copied_bundle: Path, tmp_path: Path) -> None:
    """What was shown: private files copied, /dev/zero until the disk is full, a pipe and a loop that end in 70."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("private")
    for name, where in (("a", tmp_path / "secret"), ("b", "/dev/zero"), ("c", tmp_path / "secret" / "key"), ("d", ".")):
        (copied_bundle / name).symlink_to(where)
    os.mkfifo(copied_bundle / "e")
    (name,) = write_repository(tmp_path / "models", [str(copied_bundle)], RepositoryOptions(backend="cpu", copy=True))
    copy = tmp_path / "models" / name / "bundle"
    assert {path.name for path in copy.iterdir()} == {"luvc.json", *load(copied_bundle).manifest.files}
    assert not any(path.is_symlink() for path in copy.iterdir())


def test_overwrite_removes_nothing_that_was_not_written_here(demo_bundle: Bundle, tmp_path: Path) -> None:
    bundles, options = [str(demo_bundle.folder)], RepositoryOptions(backend="cpu", overwrite=True)
    (name,) = write_repository(tmp_path / "models", bundles, options)
    place = tmp_path / "models" / name
    (place / "1" / "__pycache__").mkdir()
    (place / "1" / "__pycache__" / "model.cpython-310.pyc").write_bytes(b"by Triton")
    write_repository(tmp_path / "models", bundles, options)
    (place / "1" / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match=r"holds what this command did not write.*\n.*\n  got: '1/thesis\.txt'"):
        write_repository(tmp_path / "models", bundles, options)
    assert (place / "1" / "thesis.txt").read_text() == "years of work"
    (place / "1" / "thesis.txt").unlink()
    (place / "2").symlink_to(tmp_path)
    with pytest.raises(UsageError, match="only files and folders belong here"):
        write_repository(tmp_path / "models", bundles, options)
    (place / "2").unlink()
    (place / "written.json").unlink()
    with pytest.raises(UsageError, match="the list of what was written here cannot be read"):
        write_repository(tmp_path / "models", bundles, options)


def test_two_of_one_name_and_no_such_plan(demo_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="two models have one name"):
        write_repository(tmp_path, [str(demo_bundle.folder)] * 2, RepositoryOptions())
    with pytest.raises(UsageError, match="nothing"):
        write_repository(tmp_path, [f"{demo_bundle.folder}#nothing"], RepositoryOptions())
    assert list(tmp_path.iterdir()) == []
