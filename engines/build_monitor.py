"""What a build says: its log, its progress and the wish to stop it while it runs, and the layers of its engine.

TensorRT calls back into classes derived from its own, so they are made once its module is known.

Layers are what the engine says where it can be loaded. An engine built for another GPU, or without one, cannot be
loaded here; then they are the parsed network's, and ``source`` says so.
"""

from __future__ import annotations

import json
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from luvc_export.errors import Progress
from luvc_export.signals import ENDING

_UNUSED = "unused input"
_ACTIVATIONS = re.compile(r"Total Activation Memory: (\d+) bytes")


class Interrupt:
    """Whether the build should end: an exception may not pass through TensorRT, so it is raised after the build."""

    def __init__(self) -> None:
        self._seen: int | None = None

    @property
    def wanted(self) -> bool:
        """Whether a signal came."""
        return self._seen is not None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note signals that Python handles in this block, then let them have their effect.

        Raises:
            KeyboardInterrupt: SIGINT came.
            SystemExit: Another of ``signals.ENDING`` came, in a process that ends so.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handled = [number for number in ENDING if callable(signal.getsignal(number))]
        before = {number: signal.signal(number, self._note) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if self._seen is not None:
            signal.raise_signal(self._seen)

    def _note(self, number: int, frame: object) -> None:
        self._seen = number


def logger(trt: Any) -> Any:
    """A logger that keeps its lines as (severity, message) in ``lines``, but for the most verbose."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.lines: list[tuple[str, str]] = []

        def log(self, severity: Any, message: str) -> None:
            if severity != trt.ILogger.VERBOSE:
                self.lines.append((severity.name, message))

    return Log()


def unused_inputs(lines: list[tuple[str, str]]) -> list[str]:
    """Warnings that an input is read by nothing."""
    return [message for _, message in lines if _UNUSED in message.lower()]


def problems(lines: list[tuple[str, str]]) -> str:
    """The errors of a log, for a message."""
    errors = [message for severity, message in lines if severity in ("ERROR", "INTERNAL_ERROR")]
    return "\n    ".join(errors[:5]) or "no reason given"


def monitor(trt: Any, stage: str, progress: Progress, interrupt: Interrupt) -> Any:
    """A progress monitor: tells how far the outermost phase is, and cancels the build when asked."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.steps: dict[str, int] = {}
            self.outermost: str | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = max(1, num_steps)
            if parent_phase is None:
                self.outermost = phase_name

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name == self.outermost:
                progress(stage, min(1.0, (step + 1) / self.steps[phase_name]))
            return not interrupt.wanted

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)
            if phase_name == self.outermost:
                progress(stage, 1.0)

    return Monitor()


def of_network(network: Any) -> dict[str, Any]:
    """Layers before optimisation: name, type, and each output's name, dtype and shape (-1: open)."""
    layers = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        outputs = [layer.get_output(index) for index in range(layer.num_outputs)]
        described = [
            {"name": out.name, "dtype": out.dtype.name, "shape": None if _unknown(out) else list(out.shape)}
            for out in outputs
        ]
        layers.append({"name": layer.name, "type": layer.type.name, "outputs": described})
    return {"source": "network", "layers": layers}


def unread(network: Any) -> list[str]:
    """Inputs and layers whose results nothing reads: the parser dropped an input of a node without an error."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    read = {network.get_output(index).name for index in range(network.num_outputs)}
    for layer in layers:
        tensors = (layer.get_input(index) for index in range(layer.num_inputs))
        read |= {tensor.name for tensor in tensors if tensor is not None}
    inputs = (network.get_input(index).name for index in range(network.num_inputs))
    dropped = [f"input {name}" for name in inputs if name not in read]
    for layer in layers:
        if not any(layer.get_output(index).name in read for index in range(layer.num_outputs)):
            dropped.append(f"{layer.type.name} ({layer.name})")
    return dropped


def of_engine(trt: Any, engine: Any) -> dict[str, Any]:
    """Layers after optimisation, as the engine inspector has them."""
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return {"source": "engine", "layers": json.loads(text).get("Layers", [])}


def activation_bytes(lines: list[tuple[str, str]]) -> int | None:
    """Device memory of one execution context, from the builder's log; None where the log does not say."""
    sizes = [int(match[1]) for _, line in lines if (match := _ACTIVATIONS.search(line))]
    return sizes[-1] if sizes else None


def _unknown(tensor: Any) -> bool:
    """TensorRT gives shapes it cannot know a negative rank."""
    try:
        return len(tensor.shape) < 0
    except ValueError:
        return True
