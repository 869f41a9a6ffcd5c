"""Keeps the memory of one training step for the next, where steps run on the host's own processors."""

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import sys

# <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep() -> bool:
    """Tells the C library's allocator to keep what is freed; returns whether it did: not after jax was imported.

    XLA on a CPU takes the temporaries of a program in one piece, hundreds of megabytes, and gives it back when the
    program ends. glibc returns such pieces to the kernel, which then has to hand out and clear every page again in the
    next step: a fifth of the time of a small model's step. Three settings, which hold for the whole process:

      no piece is mapped by itself (M_MMAP_MAX = 0), and the end of the heap is never given back (M_TRIM_THRESHOLD);
      threads share one heap (M_ARENA_MAX = 1), for heaps of threads are too small for these pieces and map them.

    The process keeps its peak of memory until it ends. Nothing is done where jax may find an accelerator, whose memory
    is jax's own, nor with another C library than glibc.
    """
    if "jax" in sys.modules or platform.libc_ver()[0] != "glibc" or not _only_cpu():  # threads have heaps by now
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1))  # -1: the largest size_t
    return all(mallopt(name, value) == 1 for name, value in settings)


def _only_cpu() -> bool:
    """Whether jax will run on the CPU, judged without importing it: by what it is told, or by what is installed."""
    asked = os.environ.get("JAX_PLATFORMS", "")
    if asked:
        return asked == "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return not plugins and not any(importlib.util.find_spec(name) for name in ("libtpu", "jax_plugins"))
