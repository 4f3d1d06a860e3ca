"""Where the files lie that a bundle's graphs take their weights from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.manifest import Weights


def weights_root(bundle: Bundle) -> Path:
    """Folder of the weight files: the bundle's, or the checkpoint's (mode ``reference``), counted from the bundle's."""
    return bundle.folder / (bundle.manifest.weights.folder or "")


def anchored(bundle: Bundle) -> Weights:
    """The manifest's record of weights, for a manifest that will lie in another folder."""
    weights = bundle.manifest.weights
    return replace(weights, folder=str(weights_root(bundle).resolve())) if weights.folder else weights
