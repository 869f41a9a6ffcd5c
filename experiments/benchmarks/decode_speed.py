"""Decoding by mmjax against transformers' `generate`, with its dynamic and its static cache: same model, same ids.

    python experiments/benchmarks/decode_speed.py [--rows small,smollm] [--batches 1,8] [--rounds 5] [--json FILE]

The model is a LLaMA of random weights that transformers makes and saves, and mmjax reads from its folder. All sides are
in one process and alternate, every second round in the opposite order; each call reads `--prompt` tokens a row and
writes `--new` more greedily, no end token among them. A call that is not timed compiles and warms up. Before a call the
process rests, until the threads of the side before have stopped waiting for work. mmjax's blocks are unrolled, as its
commands have them on a CPU, and freed memory is kept (core/host_memory.py), which helps torch, too.

All sides must write the same ids: the rows are the same work. `tokens/s` are the new ones of all rows over the wall
time of the call, prompt included; `ratio` is mmjax's tokens/s over the peer's in the same round, median and spread:
above 1, mmjax is faster. `cpu ratio` is the same of the processor time of all threads, which a busy neighbour disturbs
less. `first s` is that of the call before the rounds, compilation included.

`--json FILE` keeps every round.
"""

import argparse
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any

import _table
import numpy as np
from _step_open_clip import operators

SIDES = ("mmjax", "dynamic cache", "static cache")
ROWS: dict[str, dict[str, Any]] = {
    "tiny": {"vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "intermediate_size": 64},
    "small": {"vocab_size": 8_192, "hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4,
              "num_key_value_heads": 2, "intermediate_size": 704},
    "smollm": {"vocab_size": 49_152, "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
               "num_key_value_heads": 3, "intermediate_size": 1_536, "tie_word_embeddings": True},
}  # fmt: skip
"""`smollm` has the sizes of SmolLM2-135M."""
PACKAGES = ("mmjax", "jax", "jaxlib", "flax", "torch", "transformers")
REST = 0.3  # seconds; OpenMP's threads spin for up to 0.2 after their work

Write = Callable[[], np.ndarray]


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="small,smollm", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--batches", default="1,8", help="rows of text at the same time")
    parser.add_argument("--rounds", type=int, default=5, help="timed calls of each side")
    parser.add_argument("--prompt", type=int, default=32, help="tokens of a prompt")
    parser.add_argument("--new", type=int, default=64, help="tokens that are written after it")
    parser.add_argument("--sides", default=",".join(SIDES), help="which to run, with commas")
    _table.add_arguments(parser)
    args = parser.parse_args()
    for name, valid in (("rows", ROWS), ("sides", SIDES)):
        unknown = set(getattr(args, name).split(",")) - set(valid)
        if unknown:
            parser.error(f"--{name} {', '.join(sorted(unknown))}; there are {', '.join(valid)}")
    if args.rounds < 1:
        parser.error("--rounds: at least 1")
    return args


def main() -> None:
    """Measures, and prints the table."""
    args = parse()
    from mmjax.core import host_memory

    host_memory.keep()  # before jax is imported
    declared = operators()  # noqa: F841 - as long as it lives: transformers imports torchvision
    runs: list[dict[str, Any]] = []
    for row in args.rows.split(","):
        with tempfile.TemporaryDirectory() as folder:
            theirs = make(ROWS[row], args.prompt + args.new, pathlib.Path(folder))
            ours = read(pathlib.Path(folder))
        for batch in map(int, args.batches.split(",")):
            ids = np.random.default_rng(0).integers(3, ROWS[row]["vocab_size"], (batch, args.prompt)).astype(np.int32)
            sides = {"mmjax": mmjax(ours, ids, args.new)}
            sides |= {f"{kind} cache": transformers(theirs, ids, args.new, kind) for kind in ("dynamic", "static")}
            chosen = {side: sides[side] for side in SIDES if side in args.sides.split(",")}
            runs += [{"row": row, "batch": batch, "new": args.new, **run} for run in measure(chosen, args.rounds)]
            print(f"{row}, batch {batch}: done", flush=True)
    title = f"decoding {args.new} tokens after {args.prompt}, float32 (medians over rounds)"
    _table.publish(title, _table.machine(*PACKAGES), table(runs), args.json, runs=runs)


# ---------------------------------------------------------------- the sides


def make(sizes: dict[str, Any], length: int, folder: pathlib.Path) -> Any:
    """transformers' model of these sizes, random, saved in the folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(_table.cores())
    torch.manual_seed(0)
    config = LlamaConfig(**sizes, max_position_embeddings=length, rms_norm_eps=1e-5, initializer_range=0.1)
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(folder)
    return model


def read(folder: pathlib.Path) -> tuple[Any, Any]:
    """mmjax's module and its variables of that folder."""
    import jax

    from mmjax import systems
    from mmjax.commands import models

    found = models.load(folder)
    return systems.build({**found.system, "dtype": "float32"}), jax.device_put(found.variables)


def mmjax(model: tuple[Any, Any], ids: np.ndarray, new: int) -> Write:
    """What `mmjax generate` runs: one compiled function from prompts to texts."""
    import jax

    from mmjax.decoders.settings import Settings

    module, variables = model
    how = Settings(max_new=new, min_new=new)  # no end token before the last
    batch = {"ids": ids, "valid": np.ones(ids.shape, bool)}
    write = jax.jit(lambda variables, batch: module.apply(variables, batch, how, method="generate")["ids"])
    return lambda: np.asarray(write(variables, batch))[:, :new]


def transformers(model: Any, ids: np.ndarray, new: int, kind: str) -> Write:
    """`generate` with a cache that grows, or with one of fixed size."""
    import torch

    prompt = torch.from_numpy(ids.astype(np.int64))
    more = {"cache_implementation": "static"} if kind == "static" else {}

    def write() -> np.ndarray:
        with torch.inference_mode():
            out = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=new,
                                 min_new_tokens=new, pad_token_id=0, **more)  # fmt: skip
        return out[:, ids.shape[1] :].numpy()

    return write


# ---------------------------------------------------------------- rounds


def measure(sides: dict[str, Write], rounds: int) -> list[dict[str, Any]]:
    """Every timed call, after one of each side that is not.

    Raises:
      SystemExit: the sides write other ids.
    """
    first, texts = {}, {}
    for side, write in sides.items():
        began = time.perf_counter()
        texts[side] = write()
        first[side] = time.perf_counter() - began
    base = next(iter(texts))
    for side, text in texts.items():
        if not np.array_equal(text, texts[base]):
            at = int((text != texts[base]).any(axis=0).argmax())
            raise SystemExit(f"no equal work: {side} and {base} write other ids from token {at} on")
    found = []
    for number in range(rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            time.sleep(REST)
            began, used = time.perf_counter(), time.process_time()
            sides[side]()
            found.append({"round": number, "side": side, "first_s": first[side],
                          "wall": time.perf_counter() - began, "cpu": time.process_time() - used})  # fmt: skip
    return found


def table(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line for each model, batch and side."""
    groups: dict[tuple, dict[str, list[dict[str, Any]]]] = {}
    for run in runs:
        groups.setdefault((run["row"], run["batch"], run["new"]), {}).setdefault(run["side"], []).append(run)
    rows = []
    for (name, batch, new), sides in groups.items():
        ours = {run["round"]: run for run in sides.get("mmjax", [])}
        for side, found in sides.items():
            wall = _table.middle([run["wall"] for run in found])
            row = {"model": name, "batch": batch, "side": side, "rounds": len(found), "wall s": wall,
                   "cpu s": _table.middle([run["cpu"] for run in found]), "tokens/s": batch * new / wall,
                   "first s": found[0]["first_s"], "ratio": None, "spread": None, "cpu ratio": None}  # fmt: skip
            pairs = [(run, ours[run["round"]]) for run in found if side != "mmjax" and run["round"] in ours]
            if pairs:
                ratios = [theirs["wall"] / own["wall"] for theirs, own in pairs]
                row |= {"ratio": _table.middle(ratios), "spread": _table.spread(ratios)}
                row["cpu ratio"] = _table.middle([theirs["cpu"] / own["cpu"] for theirs, own in pairs])
            rows.append(row)
    return rows


if __name__ == "__main__":
    main()
