"""Memory, time and exactness of the contrastive losses' forms, value and gradients by both sides' features.

python experiments/benchmarks/contrastive_memory.py [--batch 8192] [--width 512] [--json FILE [--add]]
python experiments/benchmarks/contrastive_memory.py --batch 131072 --no-run      # what the compiler says, alone

Every row is a process of its own. `temporaries` are XLA's count per device of what the program needs beside arguments
and results; `measured` is how far the resident memory of the process rises while the program runs, all devices of a
ring together (results included). A form whose temporaries would take more than `--at-most` GiB on all devices together
is compiled, but not run. The ring runs on simulated devices when there is only a CPU; they share its cores, so that its
time is the sum over all of them.

`error`: the gradients of `--rows` pairs spread over the batch, against the definition in float64 by numpy, relative to
the largest of them; for the softmax that needs all B² logits in float64, a minute a core at 32,768 × 512.

With `--json FILE --add`, rows are added to those of FILE, in the place of equal ones.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time
from typing import Any

import _table
import numpy as np

SCALE, BIAS = 20.0, -10.0
LOSSES, FORMS = ("softmax", "sigmoid"), ("plain", "blocked", "ring")
SAME = ("loss", "form", "batch", "width")  # rows that are equal in these are the same measurement
MIB = 2**20


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8192)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--block", type=int, default=1024)
    parser.add_argument("--devices", type=int, default=8, help="length of the ring")
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--rows", type=int, default=64, help="pairs whose gradients are checked; 0: none")
    parser.add_argument("--at-most", type=float, default=4.0, help="GiB of temporaries with which a form is run")
    parser.add_argument("--no-run", action="store_true", help="compile only")
    parser.add_argument("--add", action="store_true", help="keep the rows that FILE has")
    parser.add_argument("--arm", action="store_true", help=argparse.SUPPRESS)  # a row's own process
    _table.add_arguments(parser)
    return parser.parse_args()


def features(batch: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and texts of unit length; those that belong together are alike, as they are in training."""
    rng = np.random.default_rng(0)
    img = rng.standard_normal((batch, width), np.float32)
    txt = img + 2.0 * rng.standard_normal((batch, width), np.float32)
    return img / np.linalg.norm(img, axis=1, keepdims=True), txt / np.linalg.norm(txt, axis=1, keepdims=True)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """One row: compiles one form of one loss and runs it."""
    import jax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    from mmjax.losses.contrastive import sigmoid_contrastive, softmax_contrastive

    (loss,), (form,) = args.losses, args.forms
    options = {"form": form} if form == "plain" else {"form": form, "block": args.block}

    def value(img: jax.Array, txt: jax.Array) -> jax.Array:
        if loss == "softmax":
            return softmax_contrastive(img, txt, SCALE, **options).mean
        return sigmoid_contrastive(img, txt, SCALE, BIAS, **options).mean

    devices = args.devices if form == "ring" else 1
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
    where = NamedSharding(mesh, PartitionSpec("data"))
    abstract = jax.ShapeDtypeStruct((args.batch, args.width), np.float32, sharding=where)
    with jax.set_mesh(mesh):
        function = jax.jit(jax.value_and_grad(value, argnums=(0, 1)), out_shardings=(None, where))
        compiled = function.lower(abstract, abstract).compile()
    temporaries = compiled.memory_analysis().temp_size_in_bytes
    row = {"loss": loss, "form": form, "batch": args.batch, "width": args.width, "devices": devices,
           "temporaries MiB": temporaries / MIB, "measured MiB": None, "seconds": None, "error": None}  # fmt: skip
    if args.no_run or temporaries * devices > args.at_most * 2**30:
        return row
    host = features(args.batch, args.width)
    arguments = jax.block_until_ready(jax.device_put(host, where))
    before, start = _resident_now(), time.perf_counter()
    _, grads = jax.block_until_ready(compiled(*arguments))
    row["seconds"], row["measured MiB"] = time.perf_counter() - start, (_resident_peak() - before) / MIB
    if args.rows:
        sample = np.linspace(0, args.batch - 1, args.rows).astype(int)
        wanted = reference(loss, *host, sample)
        found = [np.asarray(grad[sample], np.float64) for grad in grads]
        row["error"] = max(float(abs(f - w).max() / abs(w).max()) for f, w in zip(found, wanted, strict=True))
    return row


def reference(loss: str, img: np.ndarray, txt: np.ndarray, sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of the sampled images and texts in float64, by the definition of the loss."""
    x, y = SCALE * img.astype(np.float64), txt.astype(np.float64)
    batch = len(x)
    # d loss / d logits of the sampled rows [R, B], and of the sampled columns, as rows
    by_row, by_col = x[sample] @ y.T, y[sample] @ x.T
    own = sample[:, None] == np.arange(batch)[None, :]
    if loss == "sigmoid":
        slopes = [np.where(own, -1 / (1 + np.exp(z + BIAS)), 1 / (1 + np.exp(-z - BIAS))) for z in (by_row, by_col)]
        return SCALE * slopes[0] @ y / batch, slopes[1] @ x / batch
    row_sum, col_sum = np.empty(batch), np.zeros(batch)
    for start in range(0, batch, 512):  # |logits| <= SCALE: no maximum is needed
        block = np.exp(x[start : start + 512] @ y.T)
        row_sum[start : start + 512] = block.sum(axis=1)
        col_sum += block.sum(axis=0)
    rows = np.exp(by_row) * (1 / row_sum[sample][:, None] + 1 / col_sum[None, :]) - 2 * own
    cols = np.exp(by_col) * (1 / col_sum[sample][:, None] + 1 / row_sum[None, :]) - 2 * own
    return SCALE * rows @ y / (2 * batch), cols @ x / (2 * batch)


def _resident_now() -> int:
    """Resident bytes, after which `_resident_peak` counts anew (Linux)."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _resident_peak() -> int:
    return _status("VmHWM")


def _status(key: str) -> int:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def main() -> None:
    """Starts a process a row, and prints the table."""
    args = parse()
    if args.arm:
        print(json.dumps(measure(args)))
        return
    flag = f"--xla_force_host_platform_device_count={args.devices}"  # has no effect on accelerators
    environment = {**os.environ, "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()}
    rows = json.loads(args.json.read_text())["rows"] if args.add and args.json.is_file() else []
    for loss in args.losses:
        for form in args.forms:
            own = ["--arm", "--losses", loss, "--forms", form]
            done = subprocess.run(
                [sys.executable, *sys.argv, *own], env=environment, stdout=subprocess.PIPE, text=True, check=True
            )
            row = json.loads(done.stdout.splitlines()[-1])
            places = [i for i, old in enumerate(rows) if all(old[key] == row[key] for key in SAME)]
            rows = [*rows[: places[0]], row, *rows[places[0] + 1 :]] if places else [*rows, row]
    order = {form: i for i, form in enumerate(FORMS)}
    rows.sort(key=lambda row: (row["batch"], -row["width"], LOSSES.index(row["loss"]), order[row["form"]]))
    title = f"Contrastive losses, value and gradients, float32, tiles of {args.block}"
    _table.publish(title, _table.machine("jax", "numpy"), rows, args.json)


if __name__ == "__main__":
    main()
