"""A token that the decoder engine chose, on its way to the host; the next step reads it where it is."""

from __future__ import annotations

from luvc_export.core import graph_io
from luvc_export.runtime.tensorrt.execution_slot import Call


class TrtToken:
    """``Chosen`` of the TensorRT back-end.

    Args:
        call: Brings it up.
        decoder: Whose it is.
        number: Of the call, as the decoder counts: only the newest token still lies on the GPU.
    """

    shape = (1, 1)

    def __init__(self, call: Call, decoder: object, number: int) -> None:
        self._call, self.decoder, self.number = call, decoder, number

    def read(self) -> tuple[int, float]:
        """See ``Chosen.read``."""
        outputs = self._call.read()
        return int(outputs[graph_io.NEXT_TOKEN][0, 0]), float(outputs[graph_io.NEXT_LOGIT][0, 0])
