"""One training step over 1, 2, 4 and 8 devices of the host, the same global batch: what dividing the work costs.

    python experiments/benchmarks/host_devices.py [--row small] [--devices 1,2,4,8] [--json FILE]

The devices are XLA's, forced on the host's processors, and share its cores: eight of them are no faster than one. What
the table shows is the overhead of the division by data: `cpu s` would be the same for all counts if it cost nothing,
and the first losses must be equal. What it cannot show is a speed-up, or the time of a real interconnect.
"""

import argparse
import os
import pathlib
import tempfile

import _models
import _table
from train_step import full, run


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", choices=_models.ROWS, default="small")
    parser.add_argument("--devices", default="1,2,4,8")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    _table.add_arguments(parser)
    args = parser.parse_args()
    system, batch = _models.ROWS[args.row]
    spec = {
        "system": full(system, "quick_gelu"), "batch": args.batch or batch, "dtype": "float32", "norms": True,
        "steps": args.steps, "warmup": args.warmup, "export": None, "text": None, "patch_drop": 0.0, "options": {},
        "peak": False, "keep_memory": True,
    }  # fmt: skip
    found: dict[int, list[dict]] = {int(count): [] for count in args.devices.split(",")}
    flags = os.environ.get("XLA_FLAGS", "")
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.rounds):
            for count, runs in found.items():
                os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={count}".strip()
                runs.append(run(pathlib.Path(folder), "_step_mmjax.py", spec))
    rows, first = [], next(iter(found.values()))
    for count, runs in found.items():
        apart = max(abs(a - b) for a, b in zip(runs[0]["losses"], first[0]["losses"], strict=True))
        if apart > 2e-4:
            raise SystemExit(f"{count} devices have other losses: {runs[0]['losses']}, not {first[0]['losses']}")
        wall, cpu = (_table.middle([_table.middle(one[key]) for one in runs]) for key in ("wall", "cpu"))
        rows.append({"devices": count, "wall s": wall, "cpu s": cpu, "compile s": runs[0]["compile_s"]})
        rows[-1] |= {"cpu of one": cpu / rows[0]["cpu s"], "losses differ by": apart}
    title = f"host devices: {args.row}, batch {spec['batch']}, float32, {args.rounds} rounds"
    _table.publish(title, _table.machine("mmjax", "jax", "jaxlib", "flax"), rows, args.json)


if __name__ == "__main__":
    main()
