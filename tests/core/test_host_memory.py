"""Whether memory is kept; in processes of their own, for it is a setting of the whole process."""

import os
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from mmjax.core import host_memory
if "keep" in sys.argv:
    assert host_memory.keep()
import threading
def use():
    for _ in range(8):
        bytes(range(256)) * (64 * 1024)  # 16 MB, written from end to end
        bytearray(512 * 1024 * 1024 // 4)
        b"x" * (128 * 1024 * 1024)
thread = threading.Thread(target=use)
thread.start(); thread.join()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
thread = threading.Thread(target=use)
thread.start(); thread.join()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def output(code: str, *arguments: str, **environment: str) -> str:
    """What a fresh process prints."""
    env = {k: v for k, v in os.environ.items() if k != "JAX_PLATFORMS" and not k.startswith("MALLOC_")}
    path = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", code, *arguments]
    run = subprocess.run(command, env={**env, "PYTHONPATH": path, **environment}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_freed_memory_is_used_again_by_any_thread():
    assert int(output(FAULTS, JAX_PLATFORMS="cpu")) > 100_000  # every page of every round
    assert int(output(FAULTS, "keep", JAX_PLATFORMS="cpu")) < 5_000


@pytest.mark.parametrize("platforms", ["cuda", "tpu,cpu"])
def test_nothing_is_done_where_an_accelerator_is_asked_for(platforms):
    code = "from mmjax.core import host_memory; print(host_memory.keep())"
    assert output(code, JAX_PLATFORMS=platforms) == "False"


def test_nothing_is_done_once_jax_has_its_threads():
    code = "import jax; from mmjax.core import host_memory; print(host_memory.keep())"
    assert output(code, JAX_PLATFORMS="cpu") == "False"


def test_the_command_does_it_before_jax_is_imported():
    code = """
import sys
from mmjax import cli
from mmjax.core import host_memory
host_memory.keep = lambda: print("jax" in sys.modules)
try:
    cli.main(["train"])
except SystemExit:
    pass
"""
    assert output(code).splitlines()[0] == "False"
