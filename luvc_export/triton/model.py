"""What Triton's Python back-end runs: a session for each instance, one question at a time, answers as they grow.

Triton's scheduler keeps the queue. A request is answered inside ``execute``, so that the queue's policies and metrics
say what they mean; ``count`` of the instance group answers several at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # Triton's own; there is none outside of it

from luvc_export.errors import LuvcError
from luvc_export.runtime.engine.embed import BATCH, rows_of
from luvc_export.runtime.engine.generate import answer
from luvc_export.runtime.engine.generate_batch import Prepared
from luvc_export.runtime.generation.result import Stream
from luvc_export.runtime.generation.sampling import sampling_of_request
from luvc_export.runtime.session import Session
from luvc_export.runtime.session_options import SessionOptions
from luvc_export.serve.http.api_errors import explained
from luvc_export.triton.config import INPUTS, VECTOR_INPUTS, parameters_of
from luvc_export.triton.inputs import question_from, sampling_of, unheard_parameters, vector_inputs

_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class CancelledError(Exception):
    """Nobody waits for the answer any more; how many pieces there were."""


class TritonPythonModel:
    """See Triton's python_backend: ``initialize``, ``execute`` for requests, ``finalize``."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the bundle that ``config.pbtxt`` names.

        Raises:
            TritonModelException: It cannot be opened; the model stays unavailable.
        """
        parameters = parameters_of(args["model_config"])
        if args["model_instance_kind"] == "GPU":  # each instance is a process, and sees its own GPU alone
            os.environ["CUDA_VISIBLE_DEVICES"] = args["model_instance_device_id"]
        folder = Path(args["model_repository"]) / parameters["bundle"]  # an absolute path stays what it is
        try:
            self._session = Session(folder, options=SessionOptions.of_texts(parameters))
            self._session.load()
        except LuvcError as error:
            raise pb_utils.TritonModelException(str(error)) from error
        reason = self._session.choice or f"backend {self._session.backend.name}"
        pb_utils.Logger.log_info(f"{args['model_name']}: plan {self._session.plan_name}, {reason}")

    def execute(self, requests: list[Any]) -> None:
        """Answer requests, one after another; what is wrong with one is its own last response."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._answer(request, sender)
            except CancelledError as cancelled:
                pb_utils.Logger.log_info(f"a request was cancelled after {cancelled} pieces of its answer")
                _fail(sender, "the request was cancelled", pb_utils.TritonError.CANCELLED)
            except Exception as error:
                explanation = explained(error, None)
                kinds = {400: pb_utils.TritonError.INVALID_ARG, 503: pb_utils.TritonError.UNAVAILABLE}
                _fail(sender, explanation.message, kinds.get(explanation.status, pb_utils.TritonError.INTERNAL))
                if explanation.status >= 500:
                    pb_utils.Logger.log_error(str(error))

    def finalize(self) -> None:
        """Let the bundle go."""
        del self._session

    def _answer(self, request: Any, sender: Any) -> None:
        started = perf_counter()

        def get(name: str) -> Any:
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            return None if tensor is None else list(tensor.as_numpy().reshape(-1))

        decodes = self._session.bundle.manifest.does.decodes
        if unheard := unheard_parameters(request.parameters(), INPUTS if decodes else VECTOR_INPUTS):
            pb_utils.Logger.log_info(f"ignored parameters: {', '.join(map(ascii, unheard))}"[:1000])
        if not decodes:
            sender.send(self._vectors(get, sender.is_cancelled), flags=_FINAL)
            return
        defaults = self._session.bundle.manifest.generation
        options = self._session.grammars.guided(sampling_of_request(sampling_of(get), defaults))
        ready = self._session.prepare_row(question_from(get, self._session.video_frames), options)
        wanted = get("stream")
        streams = wanted is not None and bool(wanted[0])
        if sender.is_cancelled():
            raise CancelledError(0)
        spent = perf_counter() - started
        pieces = Stream(answer(ready.loaded, ready.request, options, ready.budget, spent))
        for count, piece in enumerate(pieces):
            if sender.is_cancelled():
                pieces.close()
                raise CancelledError(count)
            if streams:
                sender.send(_response(piece, "", 0, 0))
        result = pieces.result
        text = "" if streams else result.text
        sender.send(_response(text, result.finish_reason, prompt_tokens(ready), len(result.token_ids)), flags=_FINAL)

    def _vectors(self, get: Any, is_cancelled: Callable[[], bool]) -> Any:
        inputs, wanted = vector_inputs(get)
        ((kind, items),) = inputs.items()
        vectors: list[Any] = []
        for first in range(0, len(items), BATCH):
            if is_cancelled():
                raise CancelledError(len(vectors))
            vectors += rows_of(self._session, wanted, **{kind: items[first : first + BATCH]})
        counts = np.array([len(one) for one in vectors], np.int32)
        tensors = {"vectors": np.concatenate(vectors), "counts": counts}
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor(*one) for one in tensors.items()])


def prompt_tokens(ready: Prepared) -> int:
    """Tokens of the prompt, visual ones as many as there are without compression."""
    images = len(ready.request.images)
    return len(ready.request.token_ids) - images + images * ready.loaded.plan.units


def _response(text: str, reason: str, prompt: int, completion: int) -> Any:
    texts = {"text": text, "finish_reason": reason}
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    tensors = [pb_utils.Tensor(name, np.array([content.encode()], np.object_)) for name, content in texts.items()]
    tensors += [pb_utils.Tensor(name, np.array([count], np.int32)) for name, count in counts.items()]
    return pb_utils.InferenceResponse(output_tensors=tensors)


def _fail(sender: Any, message: str, code: int) -> None:
    error = pb_utils.TritonError(message, code)
    sender.send(pb_utils.InferenceResponse(output_tensors=[], error=error), flags=_FINAL)
