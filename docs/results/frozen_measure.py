"""Prefill of a bundle by plan, with a picture and without, in turns: what a frozen layer costs. One thread.

python docs/results/frozen_measure.py BUNDLE none full frozen mix
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np

from luvc_export.bundle.folder import load
from luvc_export.runtime.session import Session

TEXT, TURNS = 64, 2


def main(folder: str, plans: list[str]) -> None:
    """Print processor seconds of the last turn (the first warms up) by plan, with a picture and with text alone."""
    bundle = load(folder)
    height, width = bundle.manifest.image.size
    picture = np.random.default_rng(0).integers(0, 256, (1, 1, height, width, 3), dtype=np.uint8)
    words = list(range(1000, 1000 + TEXT))
    sessions = {plan: Session(bundle, "cpu", plan=plan, threads=1, arithmetic="fp32") for plan in plans}
    seen = sessions[plans[0]].encode_images(picture)
    found: dict[str, float] = {}
    for _ in range(TURNS):
        for plan, session in sessions.items():
            token = bundle.manifest.prompt.image_token_id
            for name, ids, images in ((plan, [*words[:32], token, *words[32:]], seen), (f"{plan}, text", words, None)):
                begin = time.process_time()
                session.run(ids, images, None)
                found[name] = round(time.process_time() - begin, 3)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
