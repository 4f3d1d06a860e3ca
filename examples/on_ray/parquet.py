"""Parquet in, Parquet out: a Dataset with pictures and prompts gets answers.

    python examples/on_ray/parquet.py BUNDLE IN OUT --actors 4 --num-gpus 1

IN is a Parquet file or folder with the columns ``image`` (a path or an encoded picture's bytes) and ``prompt``; all its
columns come out again with ``text``, ``finish_reason``, ``tokens``, ``timings`` and ``error``. On a cluster that runs
already, set RAY_ADDRESS.
"""

from __future__ import annotations

import argparse

import ray.data

from luvc_export.ray import answer_dataset


def main() -> None:
    """Answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--plan")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--actors", type=int, default=1)
    parser.add_argument("--num-gpus", type=float, default=0.0)
    options = parser.parse_args()
    dataset = answer_dataset(
        ray.data.read_parquet(options.source),
        options.bundle,
        actors=options.actors,
        num_gpus=options.num_gpus,
        plan=options.plan,
        backend=options.backend,
        sampling={"max_new_tokens": 64},
    )
    dataset.write_parquet(options.target)


if __name__ == "__main__":
    main()
