"""Heads that a config ties: what is exported is what transformers loads, whichever of the two matrices are stored."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import family_chat
import family_harness as harness
import pytest
import torch
from family_checkpoints import quick
from family_harness import MADE_HERE, SABOTAGE, TOLERANCE, Case, build
from family_questions import questions, small
from safetensors.torch import load_file, save_file
from slow_cases import slow_but

from luvc_export import export_bundle
from luvc_export.calibration import runners
from luvc_export.calibration.parity.run import parity
from luvc_export.calibration.runners.canvas import canvas
from luvc_export.export import weights
from luvc_export.export.checkpoint import Checkpoint, open_checkpoint
from luvc_export.export.lora import merged

Kind = Literal["differs", "equal", "head alone"]
HEAD = "lm_head.weight"
CASES: list[tuple[str, Kind]] = [
    (name, kind) for at, name in enumerate(MADE_HERE) for kind in ("differs", ("equal", "head alone")[at % 2])
]
#: One matrix in two names, and in the head's alone: a family of each.
ONE_VALUE = [*{kind: (name, kind) for name, kind in reversed(CASES) if name in quick() and kind != "differs"}.values()]


@cache
def tied(name: str) -> Case:
    """A model of two layers whose config ties."""
    tiny = small(name)
    config: Any = copy.deepcopy(tiny.config)
    config.tie_word_embeddings = config.get_text_config().tie_word_embeddings = True
    return build(tiny.family, config, seed=5)


def odd_head(tiny: Case, kind: Kind, folder: Path) -> Path:
    """The checkpoint of ``tiny`` with a head beside its embedding, or in its place; its config ties as before."""
    file = family_chat.save(tiny, folder) / "model.safetensors"
    tensors = load_file(file)
    table = next(key for key in tensors if key.endswith("embed_tokens.weight"))
    assert HEAD not in tensors
    tensors[HEAD] = tensors[table].clone() if kind != "differs" else tensors[table].flip(0) * 0.5
    if kind == "head alone":
        del tensors[table]
    save_file(tensors, file, {"format": "pt"})
    return folder


def exported(tiny: Case, checkpoint: Checkpoint, dtype: str = "fp32") -> tuple[Case, set[str]]:
    """The model with the very tensors that its graphs would refer to, and the names of all that are copied."""
    skeleton = weights.skeleton(checkpoint, dtype)
    stored = weights.stored(skeleton.model, checkpoint)
    model: Any = copy.deepcopy(tiny.model)
    for name, parameter in skeleton.model.named_parameters(remove_duplicate=False):
        one = stored[skeleton.names[id(parameter)]]
        data = one.file.read_bytes()[one.offset : one.offset + one.bytes]
        kind = {"F32": torch.float32, "BF16": torch.bfloat16}[one.dtype]
        values = torch.frombuffer(bytearray(data), dtype=kind).reshape(one.shape).float()
        module, _, last = name.rpartition(".")
        parent = model.get_submodule(module)
        if last in parent._buffers:
            parent._buffers[last] = values
        else:
            setattr(parent, last, torch.nn.Parameter(values))
    return replace(tiny, model=model), {*stored}


def text_logits(tiny: Case) -> torch.Tensor:
    return harness.reference_logits(tiny, harness.reference(tiny, tiny.prompt(0), tiny.images(0)))


@pytest.mark.parametrize(
    ("name", "kind"),
    slow_but([case for case in CASES if case[1] == "differs" and case[0] in quick()] + ONE_VALUE, CASES),
)
def test_the_head_is_the_one_that_transformers_loads(name: str, kind: Kind, tmp_path: Path) -> None:
    tiny = tied(name)
    if not type(tiny.model)._tied_weights_keys:
        pytest.skip("transformers never ties this model, whatever its config says")
    folder = odd_head(tiny, kind, tmp_path / "model")
    theirs = type(tiny.model).from_pretrained(folder, attn_implementation="eager").eval()
    right = text_logits(replace(tiny, model=tiny.family.as_trained(theirs)))
    ours, names = exported(tiny, open_checkpoint(str(folder)))
    assert torch.equal(text_logits(ours), right)
    assert (HEAD in names) == (kind == "differs")  # one tensor where there is one value
    moved = harness.difference(right, text_logits(tiny))
    assert moved > SABOTAGE if kind == "differs" else moved == 0


def test_values_are_compared_in_the_type_of_the_graphs(tmp_path: Path) -> None:
    """A head stored in fp32 beside an embedding in bf16, which rounding makes equal: two tensors, or one in bf16."""
    tiny = tied("qwen2_vl")
    file = odd_head(tiny, "equal", tmp_path / "model") / "model.safetensors"
    tensors = load_file(file)
    table = next(key for key in tensors if key.endswith("embed_tokens.weight"))
    tensors[table] = tensors[table].bfloat16()
    save_file(tensors, file, {"format": "pt"})
    checkpoint = open_checkpoint(str(tmp_path / "model"))
    for dtype, apart in (("fp32", True), ("bf16", False)):
        skeleton = weights.skeleton(checkpoint, dtype)
        assert (HEAD in weights.stored(skeleton.model, checkpoint)) == apart
        theirs = type(tiny.model).from_pretrained(tmp_path / "model", dtype=weights.DTYPES[dtype])
        assert torch.equal(theirs.lm_head.weight, theirs.get_input_embeddings().weight) != apart


@pytest.mark.slow(beside="export/families/test_family_heads.py::test_the_head_is_the_one_that_transformers_loads")
def test_a_bundle_answers_with_the_stored_head(tmp_path: Path) -> None:
    """Through the graphs: ``export`` ended well, and every answer was another model's."""
    tiny = tied("qwen2_vl")
    folder = odd_head(tiny, "differs", tmp_path / "model")
    export_bundle(str(folder), tmp_path / "bundle", "none", image_size=tiny.size, text_capacity=256)
    checkpoint = open_checkpoint(str(folder))
    left = runners.open_huggingface(checkpoint, canvas(checkpoint, tiny.size, "pad"))
    right = runners.open_bundle(str(tmp_path / "bundle"), "none", 1)
    asked = questions("qwen2_vl", "pictures")[::2]
    result = parity(left, right, asked, observe=len(asked), longest=8)
    assert result.passed, "\n".join(result.lines(True))


#: Adapters that train a matrix of a tied pair, as arguments of peft's ``LoraConfig``.
ADAPTERS: dict[str, dict[str, Any]] = {
    "lora head": {"target_modules": ["q_proj", "lm_head"]},
    "lora embedding": {"target_modules": ["embed_tokens"]},
    "lora both": {"target_modules": ["embed_tokens", "lm_head"]},
    "saved head": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "saved embedding": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "tied on purpose": {"target_modules": ["embed_tokens"], "ensure_weight_tying": True},
    "few tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [5, 6, 7, 100]},
}


@pytest.mark.parametrize("kind", slow_but(["lora head", "lora embedding", "saved head", "saved embedding"], ADAPTERS))
@pytest.mark.parametrize("name", ["qwen2_vl"])
def test_an_adapter_of_a_tied_matrix_is_what_peft_computes(name: str, kind: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="pip install 'luvc-export[lora]'")
    tiny = tied(name)
    folder, adapter = family_chat.save(tiny, tmp_path / "model"), tmp_path / "adapter"
    load = type(tiny.model).from_pretrained
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.get_peft_model(load(folder), peft.LoraConfig(r=2, lora_alpha=8, **ADAPTERS[kind]))
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.3 * torch.randn(parameter.shape))
        adapted.save_pretrained(adapter)
        theirs = peft.PeftModel.from_pretrained(load(folder, attn_implementation="eager"), str(adapter)).eval()
    right = text_logits(replace(tiny, model=theirs))
    with merged(open_checkpoint(str(folder)), str(adapter)) as checkpoint:
        ours, _ = exported(tiny, checkpoint)
    assert harness.difference(text_logits(ours), right) < TOLERANCE
    assert harness.difference(right, text_logits(tiny)) > SABOTAGE
