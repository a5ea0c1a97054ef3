"""Calls to NVIDIA Triton: one long-lived client a pod, turns between pods, deadlines, cancellation, shared memory.

Numpy in, numpy out. Knows neither torch nor what the networks mean.
"""

from libs.triton.calling import Call, calling
from libs.triton.client import Triton
from libs.triton.pods import TritonOptions
from libs.triton.pools import TritonPools
from libs.triton.settings import TritonSettings
from libs.triton.threaded import triton_in_thread

__all__ = ["Call", "Triton", "TritonOptions", "TritonPools", "TritonSettings", "calling", "triton_in_thread"]
