"""Bundles on Ray: ``Answerer`` for a Dataset of your own, and what ``luvc-export batch --ray`` runs. See docs/scale.md.

Needs the extra ``ray``.
"""

from luvc_export.ray.actor import Answerer, answer_dataset

__all__ = ["Answerer", "answer_dataset"]
