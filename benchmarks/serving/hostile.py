"""Eight ordinary clients beside hostile ones: their answers, how long they wait, and what the server holds.

``python benchmarks/serving/hostile.py`` exports the bundled model with slots for adapters and serves it. Eight clients,
each from an address of its own, ask the demo's questions, whose answers are known, greedily and one after another:
alone, beside each kind of hostile client of ``hostile_requests``, and beside all kinds at once. What attackers send is
built before; they run in processes of their own at nice 19, each kind from one address. Exit code 1 where an answer is
wrong or lost, or a promise of docs/security.md is broken.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "tests")]

from calling import Client, user  # noqa: E402
from hostile_requests import KINDS, Attack, shuffled  # noqa: E402

CLIENTS = 8
#: Of the bundled model.
LAYERS = 6
#: Times the p99 that the clients have alone; bytes of the server beyond those at its start, and of all its helpers.
MOST_TIMES, MOST_GROWTH, MOST_HELPERS = 4.0, 2**30, 7 * 2**30


@dataclass
class Figures:
    """Of one phase: seconds of each answer, and what the server took."""

    name: str
    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    told_to_come_back: int = 0
    server: int = 0
    helpers: int = 0

    def percentile(self, share: float) -> float:
        """Seconds that so many of the answers took at most."""
        return sorted(self.seconds)[min(len(self.seconds) - 1, int(share * len(self.seconds)))]

    def to_json(self) -> dict[str, Any]:
        """A record."""
        waits = {f"p{round(100 * share)}_ms": round(1000 * self.percentile(share)) for share in (0.5, 0.99)}
        counts = {"answers": len(self.seconds), "wrong": len(self.wrong), "lost": len(self.lost)}
        sizes = {"server_mib": self.server // 2**20, "helpers_mib": self.helpers // 2**20}
        return {"beside": self.name, **counts, "told_to_come_back": self.told_to_come_back, **waits, **sizes}


def attack(port: int, file: Path, address: str, seconds: float) -> None:
    """Send what is in ``file``, an ``Attack``, from ``address``; run in a process of its own."""
    os.nice(19)
    what: Attack = pickle.loads(file.read_bytes())
    end, statuses = time.monotonic() + seconds, Counter[str]()

    def send_all(seed: int) -> None:
        for data in shuffled(what.requests, seed):
            if time.monotonic() > end:
                return
            with suppress(OSError):
                statuses[_send(port, address, what, data, end)] += 1

    threads = [threading.Thread(target=send_all, args=(number,), daemon=True) for number in range(what.connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end + 5 - time.monotonic()))
    print(json.dumps(statuses), flush=True)
    os._exit(0)


def _send(port: int, address: str, what: Attack, data: bytes, end: float) -> str:
    with socket.socket() as raw:
        if not what.reads:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        raw.settimeout(60)
        raw.bind((address, 0))
        raw.connect(("127.0.0.1", port))
        if what.pause:
            for first in range(0, len(data), 2**16):
                raw.sendall(data[first : first + 2**16])
                time.sleep(what.pause)
                if time.monotonic() > end:
                    return "half"
        else:
            raw.sendall(data)
        if not what.reads:
            while time.monotonic() < end and raw.recv(1, socket.MSG_PEEK):
                time.sleep(0.5)
            return "unread"
        head = raw.recv(4096)
        while raw.recv(2**16):
            pass
        return head[9:12].decode("ascii", "replace")


class Server:
    """The server's process, and what it and its helpers hold."""

    def __init__(self, bundle: Path, adapters: Path) -> None:
        words = ["-m", "luvc_export", "serve", str(bundle), "--backend", "cpu", "--threads", "1", "--port", "0"]
        words += ["--json", "--quiet", "--lora-dir", str(adapters)]
        self.process = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(json.loads(self.process.stdout.readline())["address"].rpartition(":")[2])
        while Client("127.0.0.1", self.port).call("GET", "/ready").status != 200:
            time.sleep(0.2)

    def holds(self) -> tuple[int, int]:
        """Bytes resident, of the server and of all its helpers."""
        helpers = 0
        for status in Path("/proc").glob("[0-9]*/status"):
            with suppress(OSError, StopIteration):
                lines = status.read_text().splitlines()
                if next(line for line in lines if line.startswith("PPid:")).split()[1] == str(self.process.pid):
                    helpers += _resident(lines)
        return _resident(Path(f"/proc/{self.process.pid}/status").read_text().splitlines()), helpers

    def end(self) -> int:
        """End it; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(150)


def _resident(lines: list[str]) -> int:
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), 0)


def phase(
    name: str, server: Server, asked: list[tuple[Any, str]], attacks: dict[str, Path], seconds: float, out: Any
) -> Figures:
    """Ordinary clients for so long, beside ``attacks`` by kind."""
    figures, end = Figures(name), time.monotonic() + seconds
    with ExitStack() as stack:
        for number, file in enumerate(attacks.values()):
            words = [sys.executable, __file__, "--attack", str(file), "--port", str(server.port)]
            words += ["--address", f"127.0.2.{number + 1}", "--seconds", str(seconds)]
            process = stack.enter_context(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
            stack.callback(
                lambda name, one: print(f"  {name}: {one.communicate()[0].strip()}", file=out),
                [*attacks][number],
                process,
            )
        if attacks:
            time.sleep(2)  # their imports
        clients = [threading.Thread(target=_ask, args=(server.port, n, asked, end, figures)) for n in range(CLIENTS)]
        for client in clients:
            client.start()
        while any(client.is_alive() for client in clients):
            held = server.holds()
            figures.server, figures.helpers = max(figures.server, held[0]), max(figures.helpers, held[1])
            time.sleep(0.2)
    return figures


def _ask(port: int, number: int, asked: list[tuple[Any, str]], end: float, figures: Figures) -> None:
    client, place = Client("127.0.0.1", port, timeout=300, source=f"127.0.1.{number + 1}"), number
    while time.monotonic() < end:
        messages, wanted = asked[place % len(asked)]
        place += CLIENTS + 1
        begin = time.monotonic()
        try:
            while (reply := client.chat(messages=messages, temperature=0)).status == 429:
                figures.told_to_come_back += 1
                time.sleep(float(reply.headers["retry-after"]) / 4)
        except Exception as error:
            figures.lost.append(f"{type(error).__name__}: {error}")
            continue
        figures.seconds.append(time.monotonic() - begin)
        if reply.status != 200:
            figures.lost.append(f"{reply.status} {reply.body[:200].decode()}")
        elif reply.text != wanted:
            figures.wrong.append(f"{reply.text!r}, not {wanted!r}")


@contextmanager
def prepared(
    kinds: list[str], bundle: Path | None
) -> Iterator[tuple[Path, Path, list[tuple[Any, str]], dict[str, Path]]]:
    """A bundle with slots, folders of adapters, questions with answers, and a file of requests for each kind."""
    from lora_bundle import factors, write_adapter

    from luvc_export import export_bundle
    from luvc_export.demo import CHECKPOINT, IMAGE_SIZE
    from luvc_export.demo.questions import cases
    from luvc_export.runtime.session import Session

    with TemporaryDirectory(prefix="luvc-hostile-") as name:
        folder = Path(name)
        for seed in range(4):
            paths = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
            write_adapter(folder / "adapters" / f"one{seed}", factors(seed, 8, paths, LAYERS), 8)
        if bundle is None:
            bundle = folder / "demo"
            options: dict[str, Any] = {"image_size": IMAGE_SIZE, "text_capacity": 256, "lora_slots": 8, "video": True}
            export_bundle(str(CHECKPOINT), bundle, "even", **options)
        session = Session(bundle, "cpu", threads=1)
        asked = []
        for number, case in enumerate(cases("heldout", 48)):
            pictures = list(case.images) if number % 3 else []
            wanted = session.generate(pictures or None, case.prompt, temperature=0, max_new_tokens=None).text
            asked.append((user(case.prompt, *pictures), wanted))
        files = {}
        for kind in kinds:
            files[kind] = folder / f"{kind}.requests"
            files[kind].write_bytes(pickle.dumps(KINDS[kind](bundle.name, folder / "adapters")))
        yield bundle, folder / "adapters", asked, files


def main() -> int:
    """Run what was asked for; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, action="append", help="default: every one")
    parser.add_argument("--seconds", type=float, default=25.0, help="for each kind")
    parser.add_argument("--together", type=float, default=120.0, help="seconds beside all kinds at once; 0 for none")
    parser.add_argument("--together-alone", action="store_true", help="no kind by itself")
    parser.add_argument("--bundle", type=Path, help="of the bundled model; default: exported here")
    parser.add_argument("--out", type=Path, help="JSON of one record a line")
    for name, kind in (("--attack", Path), ("--port", int), ("--address", str)):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attack:
        attack(options.port, options.attack, options.address, options.seconds)
    kinds, faults, records = options.kind or list(KINDS), list[str](), []
    with prepared(kinds, options.bundle) as (bundle, adapters, asked, files):
        server = Server(bundle, adapters)
        phase("warm-up", server, asked, {}, 5, sys.stderr)
        started = server.holds()[0]
        each = [] if options.together_alone else [(kind, {kind: files[kind]}, options.seconds) for kind in kinds]
        phases: list[tuple[str, dict[str, Path], float]] = [("nobody", {}, options.seconds), *each]
        phases += [("all", files, options.together)] if options.together else []
        alone = None
        for name, attacks, seconds in phases:
            figures = phase(name, server, asked, attacks, seconds, sys.stderr)
            alone = alone or figures.percentile(0.99)
            record = {**figures.to_json(), "times_alone": round(figures.percentile(0.99) / alone, 2)}
            record["growth_mib"] = (figures.server - started) // 2**20
            records.append(record)
            print(json.dumps(record), flush=True)
            faults += [f"beside {name}: wrong: {one}" for one in figures.wrong[:3]]
            faults += [f"beside {name}: lost: {one}" for one in figures.lost[:3]]
            if figures.percentile(0.99) > MOST_TIMES * alone:
                faults.append(f"beside {name}: p99 is {figures.percentile(0.99) / alone:.1f} times what it is alone")
            if figures.server - started > MOST_GROWTH:
                faults.append(f"beside {name}: the server grew by {(figures.server - started) / 2**30:.2f} GiB")
            if figures.helpers > MOST_HELPERS:
                faults.append(f"beside {name}: helpers hold {figures.helpers / 2**30:.2f} GiB")
        if (code := server.end()) != 0:
            faults.append(f"the server ended with {code}")
    if options.out:
        from luvc_export.runtime.cpu_features import cpu_features

        head = {"cpu": cpu_features(), "cores": os.cpu_count(), "machine": platform.machine()}
        lines = [json.dumps(record) for record in ({**head, "start_mib": started // 2**20}, *records)]
        options.out.write_text("\n".join(lines) + "\n")
    print(*faults, sep="\n", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
