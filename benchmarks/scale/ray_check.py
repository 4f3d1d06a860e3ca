"""In Ray's environment: the examples of examples/on_ray on a table of questions, with Session's answers beside them.

Reads JSON from standard input: ``rows`` (name, image as a path, prompt), ``texts`` by name, ``bundle``, ``plan``,
``folder`` for files, ``address`` and ``model`` of a server. Ends with exit code 1 if an answer differs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "on_ray"
facts = json.load(sys.stdin)
FOLDER, TEXTS = Path(facts["folder"]), facts["texts"]
wrong: list[str] = []


def example(name: str, *words: object) -> None:
    """Run one; what it prints is shown if it fails."""
    command = [sys.executable, str(EXAMPLES / name), *map(str, words)]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"{name} ended with exit code {done.returncode}:\n{done.stdout[-4000:]}")


def compare(name: str, table: pa.Table) -> None:
    """See that each row has the text Session gave."""
    rows = {row["name"]: row for row in table.to_pylist()}
    right = sum(rows[key]["text"] == text for key, text in TEXTS.items())
    print(f"{name}: {right} of {len(TEXTS)} as Session", flush=True)
    if right != len(TEXTS):
        wrong.append(name)


whole = pa.Table.from_pylist(facts["rows"])
pq.write_table(whole, FOLDER / "paths.parquet")
options = ("--plan", facts["plan"], "--backend", "cpu")
example("parquet.py", facts["bundle"], FOLDER / "paths.parquet", FOLDER / "out", *options)
answered = pq.read_table(FOLDER / "out")
compare("Parquet in, Parquet out", answered)
broken = next(row for row in answered.to_pylist() if row["name"] == "broken")
if broken["text"] is not None or "not an image" not in broken["error"]:
    wrong.append(f"the broken row: {broken}")

good = [row for row in facts["rows"] if row["name"] in TEXTS]
pictures = [{**row, "image": Path(row["image"]).read_bytes()} for row in good]
pq.write_table(pa.Table.from_pylist(pictures), FOLDER / "pictures.parquet")
example("ask_server.py", facts["address"], facts["model"], FOLDER / "pictures.parquet", FOLDER / "served")
compare("Ray's HTTP processor against luvc-export serve", pq.read_table(FOLDER / "served"))
print("\n".join(wrong))
sys.exit(bool(wrong))
