"""Peak memory of loading a checkpoint, against its largest file and the arrays that it becomes.

    python experiments/benchmarks/checkpoint_memory.py [--layers 12] [--shards 6] [--devices 1] [--dtype float16]

Makes a CLIP of Hugging Face's layout with random weights as sharded safetensors and as one and several torch archives,
and of mmjax's own, and loads each in a process of its own into arrays on the devices. A row passes if the peak of the
resident memory above that of a process that has only imported everything is at most 1.3 x the largest file + the bytes
of the arrays; of mmjax's own, twice the arrays: there is no second copy of them on the host.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))  # the archives are written as those of the tests

from tests.torch_files import archive

ALLOWED = 1.3
SYSTEM = {
    "name": "clip",
    "embed_dim": 512,
    "img": {"image_size": 224, "patch": 32, "width": 768, "depth": 12, "heads": 12},
    "txt": {"vocab": 49408, "length": 77, "width": 512, "depth": 12, "heads": 8},
}


def make(folder: pathlib.Path, system: dict, shards: int, dtype: str) -> dict[str, pathlib.Path]:
    """The same tensors in four forms, each with its config."""
    from mmjax.commands import models
    from mmjax.core import trees
    from mmjax.train import checkpoint
    from mmjax.weights import clip_config, files
    from mmjax.weights.clip import clip_table

    flat = {path: np.zeros(shape, np.float32) for path, shape in models.shapes(system).items()}
    rng = np.random.default_rng(0)
    for array in flat.values():
        array[...] = rng.standard_normal(array.shape, np.float32) * 0.02
    tensors = {key: array.astype(dtype) for key, array in clip_table(system, "hf").published(flat).items()}
    checkpoint.save_model(folder / "mmjax", system, trees.unflatten(flat))
    del flat
    total, parts, size = sum(array.nbytes for array in tensors.values()), [{}], 0
    for key, array in tensors.items():
        if size and size + array.nbytes > total / shards and len(parts) < shards:
            parts.append({})
            size = 0
        parts[-1][key] = array
        size += array.nbytes
    made = {"mmjax": folder / "mmjax"}
    for form in ("safetensors", "bin", "one bin"):
        where = folder / form.replace(" ", "_")
        where.mkdir()
        files.write_json(where / "config.json", clip_config.config_from(system, "hf"))
        made[form] = where
        if form == "one bin":
            archive(where / files.BIN, tensors)
            continue
        weight_map = {}
        for number, part in enumerate(parts):
            name = f"model-{number:05}.{form}"
            (files.write_safetensors if form == "safetensors" else archive)(where / name, part)
            weight_map |= dict.fromkeys(part, name)
        index = files.INDEX if form == "safetensors" else files.BIN_INDEX
        files.write_json(where / index, {"weight_map": weight_map})
    return made


def rss() -> int:
    """Resident bytes now."""
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def load(folder: pathlib.Path) -> None:
    """In a process of its own: prints the peak over the start, and the bytes of the arrays."""
    import threading
    import time

    import jax

    from mmjax.commands import models
    from mmjax.core import sharding as shd
    from mmjax.core.placement import put

    mesh = shd.make_mesh({"fsdp": -1})
    everywhere = shd.replicated(mesh)
    by_rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
    devices = len(jax.devices())
    put(np.zeros((8 * devices, 8), np.float32), by_rows).block_until_ready()
    shapes = models.shapes(models.read_system(folder))
    start, peak, done = rss(), 0, False

    def watch() -> None:
        nonlocal peak
        while not done:
            peak = max(peak, rss())
            time.sleep(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    before = time.perf_counter()

    def where(path: str) -> jax.sharding.NamedSharding:
        return by_rows if shapes[path] and shapes[path][0] % devices == 0 else everywhere

    def place(path: str, array: np.ndarray | jax.Array) -> jax.Array:
        return put(array, where(path))

    variables = jax.block_until_ready(models.load(folder, place=place, where=where).variables)
    seconds = time.perf_counter() - before
    done = True
    thread.join()
    held = sum(shard.data.nbytes for leaf in jax.tree.leaves(variables) for shard in leaf.addressable_shards)
    print(json.dumps({"peak": peak - start, "arrays": held, "seconds": seconds}))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--shards", type=int, default=6)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float16")
    parser.add_argument("--load", type=pathlib.Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.load:
        load(args.load)
        return 0
    system = {**SYSTEM, **{key: {**SYSTEM[key], "depth": args.layers} for key in ("img", "txt")}}  # type: ignore[dict-item]
    environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={args.devices}"}
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        print(f"{'form':14}{'files MB':>10}{'largest':>10}{'arrays':>10}{'peak':>10}{'allowed':>10}{'s':>7}")
        for form, where in make(pathlib.Path(folder), system, args.shards, args.dtype).items():
            sizes = [path.stat().st_size for path in where.rglob("*") if path.is_file()]
            command = [sys.executable, __file__, "--load", str(where)]
            run = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
            found = json.loads(run.stdout.splitlines()[-1])
            allowed = 2 * found["arrays"] if form == "mmjax" else ALLOWED * max(sizes) + found["arrays"]
            failed += found["peak"] > allowed
            values = (sum(sizes), max(sizes), found["arrays"], found["peak"], allowed)
            columns = "".join(f"{value / 1e6:10.1f}" for value in values)
            print(f"{form:14}{columns}{found['seconds']:7.1f}{'' if found['peak'] <= allowed else '  too much'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
