"""An answerer of 20 to 90 tokens, fine-tuned from the bundled model: reads a picture aloud or as JSON, corrects a copy.

Run: ``python benchmarks/measure/speculation/answerer.py --out FOLDER [--steps 3000] [--layers 6]``. The encoder is
left as it is. Interrupted, the same command goes on. Its draft, with the same tokenizer: ``--out DRAFT --layers 2
--steps 1500`` with ``--start`` and ``--teacher`` naming what was trained before (``FOLDER/checkpoint``) is its first 2
decoder layers, taught its distribution at every place of an answer (Kullback-Leibler divergence, no labels). An
instrument for ``compare.py``: what answers repeat is known by their task.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from luvc_export.demo.questions import NUMBER
from luvc_export.demo.scene import NAMES, Scene, generator, render

CHECKPOINT = Path(__file__).parents[3] / "luvc_export" / "demo" / "checkpoint"
#: What is asked, by task; ``check`` has a copy with mistakes behind it, ``json`` a row before it.
QUESTIONS = {
    "read": "what is at row one and row two and row three?",
    "list": "what colour and digit?",
    "check": "is it right?",
    "json": "how many at row",
}
PATCH, GRID = 14, (1, 18, 24)


def aloud(scene: Scene) -> str:
    """Every cell that holds a digit: row, column, colour, digit."""
    return " ".join(_cell(mark, mark.colour, mark.digit) for mark in _marks(scene))


def task(kind: str, scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """Question and answer of a task about a picture."""
    if kind == "read":
        return QUESTIONS[kind], aloud(scene)
    if kind == "list":
        return QUESTIONS[kind], " ".join(f"{mark.colour} {mark.digit}" for mark in _marks(scene))
    if kind == "check":
        marks = _marks(scene)
        wrong = set(rng.choice(len(marks), 2, replace=False).tolist())
        cells = [
            _cell(mark, NAMES[int(rng.integers(len(NAMES)))] if place in wrong else mark.colour, mark.digit)
            for place, mark in enumerate(marks)
        ]
        return f"{' '.join(cells)}. {QUESTIONS[kind]}", aloud(scene)
    row = int(rng.integers(3))
    listed = [{"colour": mark.colour, "digit": str(mark.digit)} for mark in _marks(scene) if mark.row == row]
    return f"{QUESTIONS[kind]} {NUMBER[row]}?", json.dumps(listed)


def _marks(scene: Scene) -> list[Any]:
    return sorted(scene.marks, key=lambda mark: (mark.row, mark.column))


def _cell(mark: Any, colour: str, digit: int) -> str:
    return f"row {NUMBER[mark.row]} column {NUMBER[mark.column]} {colour} {digit}"


def pixels(image: np.ndarray[Any, Any]) -> torch.Tensor:
    """Patches of a picture uint8 [252, 336, 3] as Qwen2.5-VL takes them, float32 [432, 1176]."""
    scale = json.loads((CHECKPOINT / "preprocessor_config.json").read_text(encoding="utf-8"))
    mean, deviation = (np.array(scale[name], np.float32) for name in ("image_mean", "image_std"))
    values = ((image.astype(np.float32) / 255 - mean) / deviation).transpose(2, 0, 1)
    _, rows, columns = GRID
    parts = np.stack([values, values]).reshape(1, 2, 3, rows // 2, 2, PATCH, columns // 2, 2, PATCH)
    return torch.from_numpy(parts.transpose(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(rows * columns, -1).copy())


class Pictures:
    """Pictures through the encoder once, kept."""

    def __init__(self, model: Any, count: int, file: Path) -> None:
        self.scenes = []
        self.features = torch.load(file) if file.is_file() else None
        pictures = []
        for index in range(count):
            image, scene = render(generator("train", 77, index), "train")
            self.scenes.append(scene)
            if self.features is None:
                with torch.no_grad():
                    out = model.model.get_image_features(pixels(image), torch.tensor([GRID]))
                pictures.append(out.pooler_output[0])
        if self.features is None:
            self.features = torch.stack(pictures)
            torch.save(self.features, file)


def batch(
    model: Any, tokenizer: Any, pictures: Pictures, rng: np.random.Generator, size: int
) -> tuple[dict[str, Any], torch.Tensor]:
    """Inputs and targets of ``size`` random tasks; padded on the right."""
    config, texts, chosen = model.config, [], []
    for _ in range(size):
        place = int(rng.integers(len(pictures.scenes)))
        kind = list(QUESTIONS)[int(rng.integers(len(QUESTIONS)))]
        question, answer = task(kind, pictures.scenes[place], rng)
        before = "<|im_start|>user\n<|vision_start|>" + "<|image_pad|>" * 108 + f"<|vision_end|>{question}<|im_end|>\n"
        head, tail = (tokenizer.encode(part) for part in (before + "<|im_start|>assistant\n", answer + "<|im_end|>"))
        texts.append((head, tail))
        chosen.append(place)
    longest = max(len(head) + len(tail) for head, tail in texts)
    ids, targets = torch.zeros((size, longest), dtype=torch.long), torch.full((size, longest), -100)
    mask = torch.zeros((size, longest), dtype=torch.long)
    for row, (head, tail) in enumerate(texts):
        ids[row, : len(head) + len(tail)] = torch.tensor(head + tail)
        mask[row, : len(head) + len(tail)] = 1
        targets[row, len(head) - 1 : len(head) + len(tail) - 1] = torch.tensor(tail)
    embeds = model.model.get_input_embeddings()(ids)
    seen = ids == config.image_token_id
    embeds = embeds.masked_scatter(seen[:, :, None], pictures.features[chosen].reshape(-1, embeds.shape[-1]))
    positions, _ = model.model.get_rope_index(
        ids, seen.int(), image_grid_thw=torch.tensor([GRID] * size), attention_mask=mask
    )
    return {"inputs_embeds": embeds, "position_ids": positions, "attention_mask": mask}, targets


def lost(logits: torch.Tensor, targets: torch.Tensor, wanted: torch.Tensor | None) -> torch.Tensor:
    """What training makes small: by targets int64 [N], or by a teacher's logits [N, vocab] where there is one."""
    functional = torch.nn.functional
    if wanted is None:
        return functional.cross_entropy(logits, targets)
    both = (functional.log_softmax(one.float(), -1) for one in (logits, wanted))
    return functional.kl_div(*both, reduction="batchmean", log_target=True)


def main() -> None:
    """Train and write a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, default=CHECKPOINT)
    parser.add_argument("--teacher", type=Path, help="whose distributions are learned in place of the right tokens")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--layers", type=int, default=6)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    args.out.mkdir(parents=True, exist_ok=True)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(args.start, dtype=torch.float32)
    text = model.model.language_model
    text.layers = text.layers[: args.layers]
    model.config.text_config.num_hidden_layers = args.layers
    model.config.text_config.layer_types = model.config.text_config.layer_types[: args.layers]
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    model.model.visual.requires_grad_(False)
    teacher = None
    if args.teacher:
        teacher = Qwen2_5_VLForConditionalGeneration.from_pretrained(args.teacher, dtype=torch.float32)
        teacher.requires_grad_(False)
    pictures = Pictures(model, args.pictures, args.out.parent / f"features-{args.pictures}.pt")
    trained = [one for one in model.parameters() if one.requires_grad]
    optimiser = torch.optim.AdamW(trained, args.rate, betas=(0.9, 0.98), weight_decay=0.01)
    first, state = 0, args.out / "state.pt"
    if state.is_file():
        kept = torch.load(state)
        model.load_state_dict(kept["model"])
        optimiser.load_state_dict(kept["optimiser"])
        first = kept["step"]
    begun = time.time()
    for step in range(first, args.steps):
        rate = args.rate * min(1.0, (step + 1) / 50, 3 * (args.steps - step) / args.steps)
        for group in optimiser.param_groups:
            group["lr"] = rate
        inputs, targets = batch(model, tokenizer, pictures, np.random.default_rng([5, step]), args.batch)
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model.model(**inputs, use_cache=False)[0]
            asked = targets >= 0
            logits = model.lm_head(hidden[asked])
            wanted = None if teacher is None else teacher.lm_head(teacher.model(**inputs, use_cache=False)[0][asked])
        loss = lost(logits.float(), targets[asked], wanted)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        if step % 20 == 0:
            truth = targets[asked] if wanted is None else wanted.argmax(-1)
            right = float((logits.argmax(-1) == truth).float().mean())
            print(f"{step} loss {float(loss.detach()):.4f} tokens {right:.4f} {time.time() - begun:.0f} s", flush=True)
        if (step + 1) % 200 == 0 or step + 1 == args.steps:
            torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1}, state)
            write(model, args.out / "checkpoint")


def write(model: Any, folder: Path) -> None:
    """Write the checkpoint in float16 beside the bundled one's other files."""
    shutil.copytree(CHECKPOINT, folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    layers = len(model.model.language_model.layers)
    config["text_config"]["num_hidden_layers"] = layers
    config["text_config"]["layer_types"] = ["full_attention"] * layers
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    from safetensors.torch import save_file

    stored = {
        name.replace("model.visual.", "visual.").replace("model.language_model.", "model."): value.half().contiguous()
        for name, value in model.state_dict().items()
        if name != "lm_head.weight"
    }
    save_file(stored, folder / "model.safetensors")


if __name__ == "__main__":
    main()
