"""Pictures of eight odd kinds, two of them, a second turn, none; and verbs: every family, against transformers.

    python benchmarks/measure/matrix/picture_matrix.py FOLDER [FAMILY ...] [--again]

A tiny checkpoint of random weights of each family is exported with the plans ``none`` and one that prunes. Equal means,
on ONNX Runtime and on OpenVINO: with ``none`` the same 24 tokens as ``generate`` of transformers, and the same ids as
its processor writes; with both plans the log probabilities, kept sets and tokens of the torch modules. Pictures are
files, as a user has them; transformers is given the canvas that ours made of them, and ``opened otherwise`` are the
kinds of files of which ``transformers.image_utils.load_image`` makes another one. ``bench``, ``pack``, ``serve`` and
``batch`` run on the command line, and the last two must answer as a session does. A family is a line of
docs/results/picture-matrix.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(Path(__file__).parent), str(HERE / "benchmarks" / "serving"), str(HERE / "tests")]
sys.path.insert(0, str(HERE / "tests" / "export" / "families"))
import calling  # noqa: E402
import family_chat  # noqa: E402
import family_harness as harness  # noqa: E402
import numpy as np  # noqa: E402
import soak  # noqa: E402
import torch  # noqa: E402
from answers import apart, ask  # noqa: E402
from families import FailedError, command  # noqa: E402
from family_checkpoints import find  # noqa: E402
from family_harness import Case  # noqa: E402
from family_questions import small  # noqa: E402
from PIL import Image  # noqa: E402
from quick_tracing import quicken  # noqa: E402
from torch_backend import TorchBackend  # noqa: E402
from transformers.image_utils import load_image  # noqa: E402

from luvc_export import export_bundle, make_plan  # noqa: E402
from luvc_export.bundle.folder import Bundle  # noqa: E402
from luvc_export.errors import LuvcError, UsageError  # noqa: E402
from luvc_export.export import families  # noqa: E402
from luvc_export.runtime.session import Session  # noqa: E402

OUTPUT = HERE / "docs" / "results" / "picture-matrix.json"
PLANS, BACKENDS, TOKENS = ("none", "some"), ("cpu", "openvino"), 24
#: Keys of a record that are no cells.
ABOUT = ("family", "opened otherwise")
#: Words of an answer that stands in a chat.
SAID = "ok"


def files(folder: Path) -> dict[str, Path]:
    """A picture of every kind, by its name in the table."""

    def noise(height: int, width: int, planes: int = 3) -> Any:
        y, x = np.mgrid[:height, :width]
        waves = [128 + 100 * np.sin(x / 9), 128 + 100 * np.cos(y / 7), (x + y) % 256, 40 + (x * 3) % 200]
        return np.stack(waves[:planes], -1).astype(np.uint8)

    folder.mkdir(exist_ok=True)
    turned = Image.Exif()
    turned[0x0112] = 6
    deep = (np.mgrid[:60, :80][0] * 1000 % 65536).astype(np.uint16)
    pictures: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "9:1": (Image.fromarray(noise(40, 360)), "png", {}),
        "1:9": (Image.fromarray(noise(360, 40)), "png", {}),
        "10x10": (Image.fromarray(noise(10, 10)), "png", {}),
        "palette": (Image.fromarray(noise(60, 80)).quantize(32), "png", {}),
        "16-bit": (Image.fromarray(deep), "png", {}),
        "RGBA": (Image.fromarray(noise(60, 80, 4), "RGBA"), "png", {}),
        "CMYK": (Image.fromarray(noise(60, 80)).convert("CMYK"), "jpg", {"quality": 95}),
        "EXIF": (Image.fromarray(noise(60, 80)), "jpg", {"quality": 95, "exif": turned}),
    }
    paths = {}
    for number, (kind, (image, ending, how)) in enumerate(pictures.items()):
        paths[kind] = folder / f"{number}.{ending}"
        image.save(paths[kind], **how)
    return paths


def chats(paths: dict[str, Path]) -> dict[str, tuple[list[Any], list[Any]]]:
    """For each column the pictures, and the chat that shows them; a chat of three messages has a second turn."""

    def picture(path: Path) -> dict[str, Any]:
        return {"type": "image", "image": str(path)}

    def asks(*parts: Any) -> dict[str, Any]:
        content = [picture(part) if isinstance(part, Path) else {"type": "text", "text": part} for part in parts]
        return {"role": "user", "content": content}

    columns: dict[str, tuple[list[Any], list[Any]]] = {
        kind: ([path], [asks(path, "What is it?")]) for kind, path in paths.items()
    }
    wide, tall = paths["9:1"], paths["1:9"]
    answered = {"role": "assistant", "content": [{"type": "text", "text": SAID}]}
    columns["two"] = [wide, tall], [asks("Of", wide, "and", tall, "?")]
    columns["second turn"] = [wide, tall], [asks(wide, "Hi"), answered, asks("and", tall, "?")]
    columns["text"] = [], [asks("2 + 2?")]
    return columns


class Family:
    """A family's tiny model, its bundle, and the sessions that answer."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.tiny, self.folder = name, small(name), folder
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = str(family_chat.save(self.tiny, folder / "checkpoint"))
        plan, size = self.tiny.plan, self.tiny.size
        budgets = [plan.units, *[plan.units // 2] * (plan.cached - 1), *[0] * (plan.layers - plan.cached)]
        last = "full" if plan.cached == plan.layers else "drop"
        some = make_plan(checkpoint, budgets, image_size=size, merge_keep=1.0, last_layer=last)
        options: dict[str, Any] = {"image_size": size, "text_capacity": 512, "overwrite": True}
        self.bundle: Bundle = export_bundle(
            checkpoint, folder / "bundle", {"some": some, "none": self.tiny.plan}, **options
        )
        self.torch = {plan: Session(self.bundle, torch_of(self.bundle, plan, self.tiny), plan) for plan in PLANS}
        self.sessions = {
            (plan, backend): Session(self.bundle, backend, plan, threads=1, arithmetic="fp32")
            for plan in PLANS
            for backend in BACKENDS
        }

    def wrong(self, shown: list[Path], chat: list[Any]) -> str | None:
        """What is not equal in a column; None where all is."""
        tiny, ours = self.tiny, self.torch["none"]
        request = ours.prepare(messages=chat)
        canvases = [one[0] for one in request.images]
        own = find(self.name)  # ids are not compared of what a processor cuts whatever it is told, or refuses
        cut = bool(shown) if own.cuts_always == "every" else len(shown) == 1 and own.cuts_always == "only"
        cut |= own.needs_picture and not shown
        if not cut:
            inputs = family_chat.ask(tiny, family_chat.processor(tiny), plain(chat), canvases)
            if family_chat.expanded(tiny, request.token_ids) != inputs["input_ids"][0].tolist():
                return "ids"
        seen = np.stack(canvases) if canvases else np.zeros((0, *tiny.size, 3), np.uint8)
        if len(chat) > 1 and self.bundle.manifest.prompt.prefix is not None:
            return self.refused(chat)
        inputs = harness.reference(tiny, list(request.token_ids), torch.from_numpy(seen)[:, None])
        theirs = harness.reference_greedy(tiny, inputs, TOKENS)
        for plan in PLANS:
            wanted = ask(self.torch[plan], chat, max_new_tokens=TOKENS)
            for backend in BACKENDS:
                session = self.sessions[plan, backend]
                first = ask(session, chat[:1], max_new_tokens=2) if len(chat) > 1 else None
                answer = ask(session, chat, after=first, max_new_tokens=TOKENS)
                if plan == "none" and list(answer.token_ids) != theirs:
                    return f"{backend}: transformers says {theirs}, we say {list(answer.token_ids)}"
                if difference := apart(answer, wanted)[0]:
                    return f"{plan}, {backend}: {difference}"
        return None

    def refused(self, chat: list[Any]) -> str:
        """A second turn of a model that sees its whole prompt both ways."""
        try:
            ask(self.torch["none"], chat, after=ask(self.torch["none"], chat[:1], max_new_tokens=2))
        except UsageError as error:
            return "refused" if "sees its whole prompt both ways" in str(error) else str(error)
        return "answered from the caches"

    def opened(self, path: Path) -> bool:
        """Whether the canvas of a file is that of what transformers opens."""
        ours = self.torch["none"].prepare(str(path), "?").images
        return bool(np.array_equal(ours, self.torch["none"].prepare(load_image(str(path)), "?").images))

    def verbs(self, path: Path) -> Iterator[tuple[str, str]]:
        """bench, pack, serve and batch."""
        plan, quick = f"{self.bundle.folder}#some", ("--backend", "cpu", "--threads", 1, "--json")
        command("bench", plan, "--repeats", 1, "--warm-up", 0, "--text", 8, "--new-tokens", 2, *quick)
        yield "bench", "yes"
        pack = ("--target", "jetson-agx-orin-jp62", "--plan", "some", "--count", 1, "--overwrite", "--json")
        command("pack", self.bundle.folder, "-o", self.folder / "pack", *pack)
        yield "pack", "yes"
        wanted = self.sessions["some", "cpu"].generate(str(path), "Hi", max_new_tokens=4, greedy=True).text
        with soak.serving(plan, "cpu", 1) as client:
            model = client.call("GET", "/v1/models").json()["data"][0]["id"]
            shown = np.asarray(Image.open(path).convert("RGB"))
            reply = client.chat(model=model, messages=calling.user("Hi", shown), max_tokens=4, temperature=0)
        yield (
            "serve",
            "yes" if reply.status == 200 and reply.text == wanted else f"{reply.status}: {reply.body[:200]!r}",
        )
        rows = self.folder / "rows.jsonl"
        asked: list[dict[str, str]] = [{"image": str(path), "prompt": "Hi"}, {"prompt": "2 + 2?"}]
        rows.write_text("".join(json.dumps(row) + "\n" for row in asked), encoding="utf-8")
        words = ("--plan", "some", "--workers", 1, "--max-new-tokens", 4, "--greedy", *quick)
        command("batch", self.bundle.folder, "--input", rows, "-o", self.folder / "answers", *words)
        shards = sorted((self.folder / "answers").glob("part-*.jsonl"))
        texts = [json.loads(line)["text"] for shard in shards for line in shard.read_text().splitlines()]
        yield "batch", "yes" if len(texts) == len(asked) and texts[0] == wanted else f"answers {texts}"


def torch_of(bundle: Bundle, plan: str, tiny: Case) -> Any:
    """The torch modules of a plan as a back-end."""
    return TorchBackend(tiny, bundle.entry(plan).plan)


def plain(chat: list[Any]) -> list[Any]:
    """The chat as transformers' processor takes it: pictures beside it."""
    return [
        {**turn, "content": [{"type": "image"} if part["type"] == "image" else part for part in turn["content"]]}
        for turn in chat
    ]


def row(name: str, folder: Path) -> dict[str, Any]:
    """Every cell of a family."""
    own, paths = Family(name, folder), files(folder / "pictures")
    cells: dict[str, Any] = {"family": name}
    for kind, (shown, chat) in chats(paths).items():
        try:
            cells[kind] = own.wrong(shown, chat) or "equal"
        except (LuvcError, AssertionError, RuntimeError, ValueError, KeyError, IndexError, TypeError) as error:
            traceback.print_exc()
            cells[kind] = f"{type(error).__name__}: {str(error)[:200]}"
        print(f"{name:16} {kind:12} {cells[kind]}", flush=True)
    cells["opened otherwise"] = [kind for kind, path in paths.items() if not own.opened(path)]
    try:
        for verb, shown in own.verbs(paths["palette"]):
            cells[verb] = shown
            print(f"{name:16} {verb:12} {shown}", flush=True)
    except FailedError as error:
        cells["failed"] = str(error)
        print(f"{name:16} FAILED {error}", flush=True)
    return cells


def read() -> dict[str, dict[str, Any]]:
    """What was run before, by family."""
    rows = json.loads(OUTPUT.read_text(encoding="utf-8")) if OUTPUT.is_file() else []
    return {record["family"]: record for record in rows}


def main() -> int:
    """Run what was asked for; exit code 1 where a cell says anything but equal or yes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("families", nargs="*", default=families.built_in())
    parser.add_argument("--again", action="store_true", help="also those that stand there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    quicken()
    for name in options.families:
        if options.again or name not in read():
            record = row(name, options.folder / name)
            records = {**read(), name: record}
            lines = ",\n".join(json.dumps(records[each]) for each in sorted(records))
            OUTPUT.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    cells = [text for record in read().values() for key, text in record.items() if key not in ABOUT]
    return int(any(text not in ("equal", "yes", "refused") for text in cells))


if __name__ == "__main__":
    sys.exit(main())
