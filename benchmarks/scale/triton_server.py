"""Write a repository of the bundled model, start tritonserver on it, and let ``triton_check.py`` ask it.

Run by ``triton.sh``, which makes the environment that is given.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from common import PLAN, asked, bundle

from luvc_export.triton.repository import RepositoryOptions, write_repository

HERE = Path(__file__).resolve().parent
QUESTIONS = 100
CANCELLED = re.compile(r"a request was cancelled after (\d+) pieces")
#: Seconds in which the server must be ready.
PATIENCE = 120


def free_ports(count: int) -> list[int]:
    """Ports that nobody listened at a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def command(environment: Path, repository: Path, ports: list[int]) -> tuple[list[str], dict[str, str]]:
    """Words and environment of a server on the CPU.

    The Python that the back-end embeds takes the packages of the first ``python3`` on PATH, and reads no PYTHONPATH.
    """
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    site = environment / "lib" / version / "site-packages"
    words = [str(site / "pytriton/tritonserver/bin/tritonserver"), f"--model-repository={repository}"]
    words += [f"--backend-directory={environment / 'backends'}", "--exit-timeout-secs=20"]
    for kind, port in zip(("http", "grpc", "metrics"), ports, strict=True):
        words += [f"--{kind}-port={port}", f"--{kind}-address=127.0.0.1"]
    libraries = [str(sysconfig.get_config_var("LIBDIR")), str(site / "nvidia_pytriton.libs")]
    path = f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return words, {**os.environ, "PATH": path, "LD_LIBRARY_PATH": os.pathsep.join(libraries), "OMP_NUM_THREADS": "1"}


def wait_ready(server: subprocess.Popen[bytes], port: int) -> float:
    """Seconds until the server is ready.

    Raises:
        SystemExit: It ended, or took too long.
    """
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE:
        if server.poll() is not None:
            sys.exit(f"tritonserver ended with exit code {server.returncode}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=2)
            return time.monotonic() - began
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    sys.exit(f"tritonserver was not ready after {PATIENCE} s")


def main() -> None:
    """Exit code 0 if all checks pass."""
    environment = Path(sys.argv[1]).absolute()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        folder = bundle(root)
        options = RepositoryOptions(backend="cpu", threads=1, copy=True)
        (name,) = write_repository(root / "models", [f"{folder}#{PLAN}"], options)
        ports = free_ports(3)
        words, variables = command(environment, root / "models", ports)
        with (root / "server.log").open("w+b") as log:
            server = subprocess.Popen(words, env=variables, stdout=log, stderr=subprocess.STDOUT)
            try:
                facts = {"model": name, "ports": ports, "questions": asked(folder, QUESTIONS)}
                print(f"tritonserver was ready after {wait_ready(server, ports[0]):.1f} s", flush=True)
                check = [str(environment / "bin" / "python"), str(HERE / "triton_check.py")]
                code = subprocess.run(check, input=json.dumps(facts), text=True, check=False, timeout=420).returncode
                if code == 0 and server.poll() is not None:
                    code = 1
                    print("the server did not outlive its checks")
                log.seek(0)
                cancelled = CANCELLED.findall(log.read().decode(errors="replace"))
                print(f"cancelled after {cancelled} pieces of 110 and more")
                if len(cancelled) != 1 or int(cancelled[0]) > 60:
                    code = 1
            except SystemExit:
                code = 1
                raise
            finally:
                server.terminate()
                ended = server.wait(60)
                if "code" not in locals() or code:
                    log.seek(0)
                    print(log.read().decode(errors="replace")[-6000:], file=sys.stderr)
    print(f"tritonserver ended with exit code {ended}")
    sys.exit(code)


if __name__ == "__main__":
    main()
