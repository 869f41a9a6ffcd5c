"""How long a save holds up training.

    python experiments/benchmarks/checkpoint_stall.py [--row b32] [--saves 3] [--json FILE]

A state of the row's model, with AdamW's moments, is saved as the training loop does it. `stall` is the time until
`save` returns and the loop goes on: the digests of all arrays, and their copy; `written` is when the files are complete
on the disk; `step meanwhile` is a step that runs while they are written, `step` one before the first save.
"""

import argparse
import functools
import pathlib
import tempfile
import time

import _models
import _table


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", choices=_models.ROWS, default="b32")
    parser.add_argument("--saves", type=int, default=3)
    parser.add_argument("--batch", type=int, default=4, help="of the steps that run meanwhile")
    _table.add_arguments(parser)
    args = parser.parse_args()
    from mmjax.core import host_memory

    host_memory.keep()
    import jax

    from mmjax import main as training
    from mmjax import systems
    from mmjax.commands import models
    from mmjax.core import sharding as shd
    from mmjax.train.checkpoint import Checkpointer
    from mmjax.train.stage import make_stage
    from mmjax.train.state import begin
    from mmjax.train.step import train_step

    system = models.spelled_out(_models.ROWS[args.row][0])
    model, mesh = systems.build(system), shd.make_mesh()
    rows = []
    with shd.use_mesh(mesh), tempfile.TemporaryDirectory() as folder:
        key = jax.random.key(0)
        variables, shardings = training.initial_variables(model, {"system": system}, mesh, key)
        stage = make_stage("train", _models.STAGE)
        tx, placed = training.optimizer(stage, variables, shardings, mesh)
        state = jax.jit(functools.partial(begin, stage, tx), out_shardings=placed)(variables, key)
        del variables
        step = training.compiled_step(functools.partial(train_step, model, tx, stage), placed, mesh)
        batch = jax.device_put(_models.make_batch(system, args.batch), shd.batch_sharding(mesh))
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state) if hasattr(leaf, "nbytes"))

        def run(state):
            start = time.perf_counter()
            state, metrics = step(state, batch)
            jax.block_until_ready((state, metrics))
            return state, time.perf_counter() - start

        for _ in range(2):
            state, _ = run(state)
        alone = []
        for _ in range(3):
            state, took = run(state)
            alone.append(took)
        saver = Checkpointer(pathlib.Path(folder) / "checkpoints", keep=1)
        for number in range(1, args.saves + 1):
            start = time.perf_counter()
            saver.save(number, state, {"stage": "train", "data": None, "evaluate": "student"})
            stall = time.perf_counter() - start
            state, beside = run(state)
            saver.wait()
            written = time.perf_counter() - start
            row = {
                "save": number,
                "MB": size / 1e6,
                "stall s": stall,
                "written s": written,
                "MB/s": size / 1e6 / written,
            }
            rows.append(row | {"step s": _table.middle(alone), "step meanwhile s": beside})
        saver.close()
    device = jax.devices()[0].device_kind if jax.default_backend() != "cpu" else None
    about = _table.machine("mmjax", "jax", "jaxlib", "orbax-checkpoint", device=device)
    _table.publish(f"checkpoint stall: {args.row} with AdamW's moments", about, rows, args.json)


if __name__ == "__main__":
    main()
