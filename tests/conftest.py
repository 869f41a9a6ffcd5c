"""What every test runs under: eight CPU devices, one shared compilation cache, checked shapes, no implicit rank."""

import os
import pathlib
import sys
import tempfile

# The environment is read when jax is imported, and handed on to the processes that tests start.
# Eight devices on two busy cores may come late to where they meet: XLA would abort the process after 40 seconds.
_FLAGS = ["--xla_force_host_platform_device_count=8", "--xla_cpu_collective_call_terminate_timeout_seconds=600"]
if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores: one compute thread each
    _FLAGS.append("--xla_cpu_multi_thread_eigen=false")
    for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(_name, "1")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_FLAGS]).strip()
os.environ["JAX_PLATFORMS"] = "cpu"
_CACHE = pathlib.Path(tempfile.gettempdir()) / f"mmjax-jax-cache-{os.getuid()}"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")  # the many small ones add up
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")

import jax  # noqa: E402
import pytest  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

if "mmjax" in sys.modules:
    raise RuntimeError("mmjax was imported before tests/conftest.py: its array annotations would go unchecked")
# Not pytest's own option for it (--jaxtyping-packages): from the configuration file it does not reach xdist's workers.
install_import_hook("mmjax", "beartype.beartype")

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def mesh8() -> jax.sharding.Mesh:
    """Eight CPU devices along the data axis; use as `with jax.set_mesh(mesh8):`."""
    auto = jax.sharding.AxisType.Auto
    return jax.make_mesh((8, 1, 1), ("data", "fsdp", "tensor"), axis_types=(auto, auto, auto))


@pytest.fixture(scope="session")
def golden() -> pathlib.Path:
    """The folder of golden fixtures: `golden / system / variant`."""
    return pathlib.Path(__file__).parent / "golden"


@pytest.fixture
def tmp_workdir(tmp_path: pathlib.Path) -> pathlib.Path:
    """An empty working directory for one training run."""
    path = tmp_path / "workdir"
    path.mkdir()
    return path
