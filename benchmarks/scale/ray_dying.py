"""In Ray's environment: a Dataset whose rows end the process of whoever answers them ends too, with an error."""

from __future__ import annotations

import os
import time
from typing import Any

import ray
import ray.data
import ray.exceptions

from luvc_export.ray.actor import placed


class Dying:
    """Answers nothing, ever."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """End this actor's process."""
        os._exit(1)


ray.init("local", log_to_driver=False, logging_level="ERROR")
began = time.monotonic()
rows = ray.data.from_items([{"number": number} for number in range(8)], override_num_blocks=2)
try:
    rows.map_batches(Dying, batch_size=4, **placed(actors=2, num_cpus=0.5, num_gpus=0)).materialize()
except ray.exceptions.RayError as error:
    print(f"rows that end their actors end the Dataset after {time.monotonic() - began:.0f} s: {type(error).__name__}")
else:
    raise SystemExit("rows whose actors died are said to be answered")
