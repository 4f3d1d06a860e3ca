"""Vectors that are means, of models seen both ways and of causal ones, are those of transformers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import family_chat
import family_harness as harness
import numpy as np
import pytest
import torch
import vector_bundles
from family_checkpoints import find
from family_processors import Still, image_processor, still
from made_once import made_once
from numpy.typing import NDArray
from slow_cases import slow_but
from test_family_vectors import TorchVectors, off, pictures
from transformers import EmbeddingGemma2Processor, PreTrainedTokenizerFast

from luvc_export.errors import CheckpointError
from luvc_export.export import families
from luvc_export.export.llm.vectors import mean
from luvc_export.export.reading import sentence_transformers
from luvc_export.pipeline import export_bundle
from luvc_export.runtime.session import Session

#: Sums in another order.
TOLERANCE = 1e-4
TEXT = "a red seven that stands further away than a window's five places"


@cache
def gemma() -> harness.Case:
    family = families.find("embedding_gemma2", "test")
    config = family.tiny_config()
    unit = family.unit_pixels(config)
    return harness.build(family, config, 0, (5 * unit, 4 * unit))


def processor() -> Any:
    """transformers' own, Gemma 4's tokens."""
    words = family_chat.tokenizer("gemma4")
    named = dict(find("gemma4").named)
    fast = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<bos>", extra_special_tokens=named)
    shown = image_processor("gemma4")
    parts = {"image_processor": shown, "video_processor": Still(), "feature_extractor": Still()}
    return still(EmbeddingGemma2Processor)(**parts, tokenizer=fast)


def expected(text: str, picture: NDArray[np.uint8] | None = None) -> NDArray[np.float32]:
    """The mean of transformers' rows, of length 1."""
    inputs = dict(processor()(text=[text], images=None if picture is None else [[picture]], return_tensors="pt"))
    names = ("input_ids", "attention_mask", "pixel_values", "image_position_ids")
    with torch.no_grad():
        rows = gemma().model(**{name: inputs[name] for name in names if name in inputs}).last_hidden_state[0]
    return np.asarray(torch.nn.functional.normalize(rows.mean(0), dim=-1).numpy())


def _export_gemma(folder: Path) -> None:
    gemma().model.save_pretrained(folder / "checkpoint")
    own = processor()
    own.tokenizer.save_pretrained(folder / "checkpoint")
    own.image_processor.save_pretrained(folder / "checkpoint")
    vector_bundles.sentence_transformers(folder / "checkpoint", 80)
    _pool(folder / "checkpoint", pooling_mode="mean")
    export_bundle(
        str(folder / "checkpoint"),
        folder / "bundle",
        {"none": gemma().plan},
        image_size=gemma().size,
        text_capacity=128,
    )


def _export_qwen(name: str, folder: Path) -> None:
    tiny = vector_bundles.tiny_of(name)
    folder.mkdir()
    checkpoint = family_chat.save(tiny, folder / "checkpoint")
    vector_bundles.sentence_transformers(checkpoint, tiny.config.get_text_config().hidden_size)
    _pool(checkpoint, pooling_mode_lasttoken=False, pooling_mode_mean_tokens=True)
    plans = {"none": tiny.plan, "lean": vector_bundles.named_plans(tiny)["lean"]}
    export_bundle(str(checkpoint), folder / "bundle", plans, image_size=tiny.size, text_capacity=512, fit="stretch")


def _pool(checkpoint: Path, **settings: Any) -> None:
    path = checkpoint / "1_Pooling" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | settings), encoding="utf-8")


@pytest.fixture(scope="module")
def folders(pytestconfig: pytest.Config) -> Callable[[str], Path]:
    make: dict[str, Callable[[Path], None]] = {"gemma": _export_gemma, "qwen": partial(_export_qwen, "qwen3_vl")}
    make["qwen2_vl"] = partial(_export_qwen, "qwen2_vl")  # as GME's folder asks of one
    return lambda name: made_once(pytestconfig.cache.mkdir(f"mean-{name}"), Path(__file__), make[name])


@pytest.mark.slow(beside="export/families/test_family_encoders.py::test_a_picture_keeps_its_share_of_the_mean")
@pytest.mark.parametrize("backend", ["cpu", "openvino"])
def test_means_of_encoders_are_transformers(backend: str, folders: Callable[[str], Path]) -> None:
    """Texts longer than a window, a picture, both, behind the folder's prompts; a batch's padding has no part in it."""
    session = Session(folders("gemma") / "bundle", backend, threads=1, arithmetic="fp32")
    shown = pictures(gemma())
    how = session.bundle.manifest.embedding
    assert how is not None and (how.pooling, how.width, how.default_prompt) == ("mean", 80, "query")
    ours = [*session.embed(texts=[TEXT, "x"], prompt="document"), *session.embed(images=shown, prompt="document")]
    ours += [*session.embed(pairs=[(shown[0], TEXT)]), *session.embed(texts=["x"])]
    wanted = [expected(TEXT), expected("x"), *(expected("<|image|>", one) for one in shown)]
    wanted += [expected(f"{vector_bundles.PROMPTS['query']}<|image|>{TEXT}", shown[0])]
    wanted += [expected(f"{vector_bundles.PROMPTS['query']}x")]
    assert off(np.stack(ours), np.stack(wanted)) <= TOLERANCE
    assert off(np.stack(ours[::-1]), np.stack(wanted)) > 100 * TOLERANCE, "the comparison cannot fail"
    centred = np.stack(ours) - np.mean(ours, 0)
    centred /= np.linalg.norm(centred, axis=-1, keepdims=True)
    assert (centred @ centred.T - 2 * np.eye(len(ours))).max() <= 0.9


@pytest.mark.parametrize(("name", "family"), slow_but(["qwen2_vl"], [("qwen", "qwen3_vl"), ("qwen2_vl", "qwen2_vl")]))
def test_means_of_causal_models_are_transformers(name: str, family: str, folders: Callable[[str], Path]) -> None:
    """Pooling is the folder's; a plan that merges and prunes keeps a picture's share of the mean."""
    tiny = vector_bundles.tiny_of(family)
    session = Session(folders(name) / "bundle", "cpu", "none", threads=1)
    shown = pictures(tiny)
    own = family_chat.processor(tiny)
    content = [{"type": "image"}, {"type": "text", "text": TEXT}]
    system = {"role": "system", "content": [{"type": "text", "text": vector_bundles.PROMPTS["query"]}]}
    inputs = family_chat.ask(tiny, own, [system, {"role": "user", "content": content}], shown[:1])
    with torch.no_grad():
        rows = tiny.model.model(**inputs).last_hidden_state[0]
    wanted = torch.nn.functional.normalize(rows.mean(0), dim=-1).numpy()
    (ours,) = session.embed(pairs=[(shown[0], TEXT)])
    assert off(ours[None], wanted[None]) <= TOLERANCE
    last = torch.nn.functional.normalize(rows[-1], dim=-1).numpy()
    assert off(ours[None], last[None]) > 100 * TOLERANCE, "the last token's passes for the mean"
    pruned = Session(session.bundle, "cpu", "lean", threads=1)
    modules = Session(session.bundle, TorchVectors(tiny, session.bundle, "lean"), "lean")
    both = [(picture, TEXT) for picture in shown]
    assert off(pruned.embed(pairs=both), modules.embed(pairs=both)) <= TOLERANCE
    assert off(pruned.embed(pairs=both), session.embed(pairs=both)) > 100 * TOLERANCE


def test_a_picture_keeps_its_share_of_the_mean() -> None:
    """Two rows for eight units, three texts of which one is padding; of text alone nothing is divided by nothing."""
    rows = torch.arange(5.0)[None, :, None]
    mask = torch.tensor([[True, True, False]])
    assert float(mean(rows, 2, 4.0, mask)) == pytest.approx((4 * 0 + 4 * 1 + 2 + 3) / 10)
    assert float(mean(rows[:, 2:], 0, 4.0, mask)) == 2.5


@pytest.mark.parametrize("name", slow_but(["qwen2_vl"], ["gemma", "qwen2_vl"]))
def test_parity_of_means(name: str, folders: Callable[[str], Path], tmp_path: Path) -> None:
    sys.path.append(str(Path(__file__).resolve().parents[2] / "calibration" / "parity"))
    from PIL import Image
    from test_vector_parity import Spoilt, failed

    from luvc_export.calibration.parity.run import open_pair, parity
    from luvc_export.runtime.prompt.case_lines import FileCase

    asked = [FileCase((), text, None, picture=9 + at) for at, text in enumerate((TEXT, "x"))]
    for at, picture in enumerate(pictures(gemma() if name == "gemma" else vector_bundles.tiny_of("qwen2_vl"))):
        Image.fromarray(picture).save(tmp_path / f"{at}.png")
        asked.append(FileCase((tmp_path / f"{at}.png",), "which", None, picture=at))
    pair = open_pair(f"hf:{folders(name)}/checkpoint", f"onnx:{folders(name)}/bundle#none", threads=1)
    result = parity(*pair, asked, observe=4)
    assert result.passed, result.lines(True)
    turned = Spoilt(pair[1], lambda number, rows: rows if number else np.roll(rows, 3, 1))
    assert "relative L2 of vectors" in failed(parity(pair[0], turned, asked, observe=4))


def test_a_mean_without_its_prompt_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    vector_bundles.sentence_transformers(tmp_path, 80)
    card = families.find("embedding_gemma2", "test").embedding(gemma().config, "embed")
    assert card is not None
    for settings, field in (
        ({"pooling_mode": "mean", "include_prompt": False}, "include_prompt"),
        ({"pooling_mode": "max"}, "pooling_mode"),
        ({"pooling_mode": "mean", "embedding_dimension": 64}, "embedding_dimension"),
    ):
        _pool(tmp_path, include_prompt=True, embedding_dimension=80)
        _pool(tmp_path, **settings)
        with pytest.raises(CheckpointError, match=field):
            sentence_transformers._read(tmp_path, card, 80)
