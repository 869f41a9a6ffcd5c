"""Time and memory of the contrastive losses' forms, value and gradients: a table on stdout.

python experiments/benchmarks/contrastive_memory.py [--batch 8192] [--width 512] [--block 1024] [--devices 8]

Temporaries are XLA's own count, per device: what the program needs beside its arguments and results. The ring runs on
simulated devices when there is only a CPU; they share its cores, so that its time is the sum over all of them.
"""

import argparse
import os
import time


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8192)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--block", type=int, default=1024)
    parser.add_argument("--devices", type=int, default=8, help="length of the ring")
    parser.add_argument("--repeat", type=int, default=3, help="timed runs; the fastest counts")
    return parser.parse_args()


def main() -> None:
    """Compiles and times every form of both losses."""
    args = parse()
    # read when jax is imported; has no effect on accelerators
    flag = f"--xla_force_host_platform_device_count={args.devices}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()

    import jax
    import jax.numpy as jnp
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    from mmjax.losses.contrastive import sigmoid_contrastive, softmax_contrastive

    img, txt = jax.random.normal(jax.random.key(0), (2, args.batch, args.width))
    img, txt = (z / jnp.linalg.norm(z, axis=-1, keepdims=True) for z in (img, txt))
    mesh = jax.make_mesh((args.devices,), ("data",), axis_types=(AxisType.Auto,))
    losses = {
        "softmax": lambda x, y, **form: softmax_contrastive(x, y, 20.0, **form).mean,
        "sigmoid": lambda x, y, **form: sigmoid_contrastive(x, y, 20.0, -10.0, **form).mean,
    }
    forms = [{"form": "plain"}, {"form": "blocked", "block": args.block}, {"form": "ring", "block": args.block}]

    print(f"batch {args.batch}, width {args.width}, block {args.block}, float32, {jax.devices()[0].device_kind}")
    print(
        f"{'loss':8} {'form':8} {'devices':>7} {'seconds':>8} {'temp MiB/device':>16} {'max |Δ grad| / max |grad|':>26}"
    )
    for name, loss in losses.items():
        reference = None
        for form in forms:
            ring = form["form"] == "ring"
            where = NamedSharding(mesh, PartitionSpec("data")) if ring else jax.devices()[0]
            arguments = jax.device_put((img, txt), where)
            with jax.set_mesh(mesh if ring else jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))):
                function = jax.jit(jax.value_and_grad(lambda x, y, f=form, g=loss: g(x, y, **f), argnums=(0, 1)))
                compiled = function.lower(*arguments).compile()
                seconds = []
                for _ in range(args.repeat):
                    start = time.perf_counter()
                    _, grads = jax.block_until_ready(compiled(*arguments))
                    seconds.append(time.perf_counter() - start)
            grads = jax.device_get(grads)
            reference = grads if reference is None else reference
            error = max(abs(a - b).max() / abs(b).max() for a, b in zip(grads, reference, strict=True))
            memory = compiled.memory_analysis().temp_size_in_bytes / 2**20
            devices = args.devices if ring else 1
            print(f"{name:8} {form['form']:8} {devices:7} {min(seconds):8.2f} {memory:16.1f} {error:26.1e}", flush=True)


if __name__ == "__main__":
    main()
