"""One process of train_step.py: times mmjax's own training step. Takes a JSON on the command line, prints one."""

import functools
import json
import pathlib
import sys
import time

import _models


def main() -> None:
    """Begins, compiles, warms up and times the step that `mmjax train` runs."""
    spec = json.loads(sys.argv[1])
    from mmjax.core import host_memory

    kept = spec["keep_memory"] and host_memory.keep()  # as the command `mmjax` does; before jax is imported
    import jax
    import numpy as np

    from mmjax import main as training
    from mmjax import systems
    from mmjax.commands import models
    from mmjax.core import sharding as shd
    from mmjax.train.stage import make_stage
    from mmjax.train.state import begin
    from mmjax.train.step import train_step

    if spec["dtype"] == "float32" and jax.default_backend() != "cpu":
        jax.config.update("jax_default_matmul_precision", "float32")
    system = models.spelled_out(spec["system"])
    batch = _models.make_batch(system, spec["batch"])
    if spec["text"]:  # what a bucket does to a batch whose captions are short
        assert not batch["valid"][:, spec["text"] :].any(), "a caption is longer than the bucket"
        batch |= {key: batch[key][:, : spec["text"]] for key in ("ids", "valid")}
    system = system | {"dtype": spec["dtype"], **spec["options"]}
    if spec["patch_drop"]:
        system["img"] = system["img"] | {"patch_drop": spec["patch_drop"]}
    model, mesh = systems.build(system), shd.make_mesh()
    with shd.use_mesh(mesh):
        key = jax.random.key(0)
        variables, shardings = training.initial_variables(model, {"system": system}, mesh, key)
        if spec["export"]:
            return export(system, variables, pathlib.Path(spec["export"]))
        stage = make_stage("train", _models.STAGE)
        tx, placed = training.optimizer(stage, variables, shardings, mesh)
        state = jax.jit(functools.partial(begin, stage, tx), out_shardings=placed)(variables, key)
        del variables
        parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        on_device = jax.device_put({k: np.asarray(v) for k, v in batch.items()}, shd.batch_sharding(mesh))

        def step(state, batch):
            state, metrics = train_step(model, tx, stage, state, batch)
            return state, metrics if spec["norms"] else {"loss": metrics["loss"]}  # XLA leaves out what nobody reads

        began = time.perf_counter()
        compiled = training.compiled_step(step, placed, mesh).lower(state, on_device).compile()
        compile_s = time.perf_counter() - began
        losses, wall, cpu = [], [], []
        for _ in range(spec["warmup"] + spec["steps"]):
            start, used = time.perf_counter(), time.process_time()
            state, metrics = compiled(state, on_device)
            losses.append(float(metrics["loss"]))  # waits for the loss …
            jax.block_until_ready(state)  # … and for the update
            wall.append(time.perf_counter() - start)
            cpu.append(time.process_time() - used)
    if spec.get("hlo"):
        pathlib.Path(spec["hlo"]).write_text(compiled.as_text())
    found = {"parameters": parameters, "compile_s": compile_s, "losses": losses[:3], "wall": wall[spec["warmup"] :]}
    found |= {"cpu": cpu[spec["warmup"] :], "device": jax.devices()[0].device_kind, "platform": jax.default_backend()}
    found["kept_memory"] = kept
    found["matmul_peak"] = spec["peak"] and matmul_peak(spec["dtype"])
    print(json.dumps(found))


def export(system, variables, folder: pathlib.Path) -> None:
    """The first parameters in open_clip's layout, so that the peer begins with the same."""
    import jax

    from mmjax.core import trees
    from mmjax.weights import clip_config, files
    from mmjax.weights.clip import clip_table

    plain = {k: v for k, v in system.items() if k not in ("dtype", "scan", "remat")}
    flat = {path: jax.device_get(leaf) for path, leaf in trees.flatten(dict(variables)).items()}
    folder.mkdir(parents=True, exist_ok=True)
    files.write_safetensors(folder / "model.safetensors", clip_table(plain, "open_clip").published(flat))
    files.write_json(folder / "config.json", clip_config.config_from(plain, "open_clip"))


def matmul_peak(dtype: str, size: int = 8192) -> float:
    """Operations per second of one large matrix product, the device's measured peak."""
    import jax
    import jax.numpy as jnp

    size = size if jax.default_backend() != "cpu" else 2048
    a = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a, b: a @ b)
    times = []
    for _ in range(8):
        start = time.perf_counter()
        jax.block_until_ready(product(a, a))
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


if __name__ == "__main__":
    main()
