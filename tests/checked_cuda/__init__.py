"""A CUDA driver in Python, on host memory, that does what is asked and says what a real one would not forgive.

``python -m checked_cuda`` (PYTHONPATH=.:tests) runs random sequences of turns, batches and cancels through it.
"""

from checked_cuda.driver import CheckedDriver, checked_gpu
from checked_cuda.memory import Violation

__all__ = ["CheckedDriver", "Violation", "checked_gpu"]
