"""Process settings that must stand before torch and vLLM are imported; anything the user has set wins.

Measured on 2 cores: spinning OpenMP threads on shared cores cost up to ten times the time, an engine in a process of
its own 14-49 s to start instead of 5 s, and in-process weights need no copy through a pipe.
"""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DEFAULTS = {
    "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1),
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    "THP_MEM_ALLOC_ENABLE": "1",  # torch's large tensors in large pages: half of a merge's time was making small ones
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # of a sharded model's processes: threads and CUDA do not survive a fork
    "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB
    "VLLM_NO_USAGE_STATS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}


def prepare() -> None:
    """Set what is not set."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


@contextmanager
def importing() -> Iterator[None]:
    """Around imports of a process that is to start fast. Nothing of what is imported is garbage; looking for some, now
    and at the end, takes half a second."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def cache_root() -> Path:
    """Where converted checkpoints and measured judges are kept: MERGESAFE_CACHE, or mergesafe/ in the user's cache."""
    if explicit := os.environ.get("MERGESAFE_CACHE"):
        return Path(explicit)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mergesafe"
