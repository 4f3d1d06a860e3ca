"""A camera for a long time: memory of `luvc-export run --camera` and of its decoder while 2,000 frames pass.

    python benchmarks/measure/camera.py BUNDLE [--plan NAME] [--frames 2000] [--rate 5] [-o docs/results/camera.json]

The camera is a film made here that is played in its own time; as many frames are asked about as the model can answer.
Memory is the resident set, once a second, of the process and of its decoder.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import av
import numpy as np

SIZE = (480, 640)
QUESTION = "what is there?"


def film(path: Path, frames: int, rate: int) -> Path:
    """A square that wanders over noise, as H.264."""
    draw = np.random.default_rng(0)
    ground = draw.integers(0, 256, (*SIZE, 3), dtype=np.uint8) // 4
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=rate)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for number in range(frames):
            picture = ground.copy()
            left = number * 7 % (SIZE[1] - 80)
            picture[200:280, left : left + 80] = (240, 80, 40)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)
    return path


def resident(process: int) -> float:
    """MiB of a process that are in memory; 0 where it is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")), 0.0)


def decoders(parent: int) -> list[int]:
    """Children that decode a camera."""
    processes = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if int(fields[1]) == parent and b"camera_task" in command:
                processes.append(int(folder.name))
    return processes


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--plan")
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--rate", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/results/camera.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = film(Path(folder) / "film.mp4", args.frames, args.rate)
        command = [sys.executable, "-m", "luvc_export", "run", str(args.bundle), "--camera", str(source)]
        command += ["--every", "1ms", "--prompt", QUESTION, "--max-new-tokens", "2", "--threads", "1"]
        command += ["--backend", "cpu", *(["--plan", args.plan] if args.plan else [])]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            lines: list[dict[str, Any]] = []
            assert process.stdout is not None
            reader = threading.Thread(target=lambda: lines.extend(map(json.loads, process.stdout or ())))
            reader.start()
            begun, seen = time.monotonic(), list[list[float]]()
            while process.poll() is None:
                time.sleep(1)
                if lines:
                    child = sum(map(resident, decoders(process.pid)))
                    seen.append([round(time.monotonic() - begun), round(resident(process.pid)), round(child)])
            reader.join()
    end = lines[-1]
    tenth = max(1, len(seen) // 10)
    rows = [row for row in seen if row[2]][::tenth]
    record = {key: end[key] for key in ("frames", "answers", "dropped", "seconds", "why")}
    text = ",\n".join(json.dumps(dict(zip(("seconds", "mib", "decoder_mib"), row, strict=True))) for row in rows)
    args.output.write_text(f'{{"about": {json.dumps(record)}, "rows": [\n{text}\n]}}\n', encoding="utf-8")
    print(args.output.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
