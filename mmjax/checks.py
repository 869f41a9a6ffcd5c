"""What of a config is checked before anything is built: keys, types, names that refer to something, trained weights."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from mmjax.core import config as configs
from mmjax.core import trees
from mmjax.core.errors import UserError
from mmjax.core.stacking import unstack_blocks
from mmjax.systems import TOWERS
from mmjax.train.stage import Stage
from mmjax.train.writers import WRITERS

# key of a config -> (type, what it holds)
KEYS = {
    "title": ("text", "headline of the report"),
    "seed": ("whole", "of parameters, order and augmentation"),
    "system": ("mapping", "mapping for systems.build"),
    "init": ("weights", "a checkpoint to begin with, in any layout, or parts of some (mmjax/initial.py), or empty; "
             "'random' says that frozen random weights are meant"),
    "tokenizer": ("mapping", "kind, and what it needs (mmjax/inputs.py)"),
    "data": ("mapping", "train, batch_size, image, text, workers … (mmjax/inputs.py)"),
    "mesh": ("mapping", "sizes of the axes data, fsdp, tensor"),
    "stages": ("mapping", "name -> fields of Stage, run in this order"),
    "evals": ("mapping", "name -> options of an evaluator"),
    "every": ("mapping", "steps between log, save, evaluate"),
    "keep": ("whole", "checkpoints kept"),
    "writers": ("list", "where metrics go"),
    "report": ("list", "evaluators whose pictures the report shows"),
}  # fmt: skip
REQUIRED = ("seed", "system", "tokenizer", "data", "stages")
RANDOM = "random"  # as config.init: frozen towers of random weights are meant
_DATA = {"batch_size": "whole", "workers": "whole", "read_ahead": "whole", "task": "mapping", "text_length": "whole",
         "image": "mapping", "text": "mapping", "alone": "mapping", "text_buckets": "list",
         "eval_image": "mapping"}  # fmt: skip
_TOKENIZER = {"spec": "text", "kind": "text", "train_on": "text", "vocab_size": "whole", "model_type": "text",
              "normalization": "text", "lower": "flag", "added": "list", "clean": "text",
              "most_words": "whole", "symbols": "list"}  # fmt: skip


def check_config(config: Mapping[str, Any]) -> None:
    """Raises UserError for keys that do not exist or are missing, wrong types, and names that refer to nothing."""
    configs.check_keys("config", config, KEYS)
    configs.check_types("config", config, {key: kind for key, (kind, _) in KEYS.items()})
    missing = [key for key in REQUIRED if not config.get(key) and config.get(key) != 0]
    if missing:
        raise UserError(f"config.{missing[0]} is missing or empty: {KEYS[missing[0]][1]}")
    if config["system"].get("name") in TOWERS:
        name = config["system"]["name"]
        raise UserError(f"config.system.name = {name!r}: a tower alone, for config.init of others; it has no losses")
    if config["seed"] < 0:
        raise UserError(f"config.seed = {config['seed']}; valid: 0 or more")
    if config.get("keep", 2) < 1:
        raise UserError(f"config.keep = {config['keep']}; valid: at least 1 checkpoint")
    configs.check_types("config.tokenizer", config["tokenizer"], _TOKENIZER)
    configs.check_types("config.mesh", config.get("mesh") or {}, dict.fromkeys(config.get("mesh") or {}, "whole"))
    for group in ("stages", "evals"):
        named = config.get(group) or {}
        configs.check_types(f"config.{group}", named, dict.fromkeys(named, "mapping"))
    for name, tower in config["system"].items():
        if name in ("img", "txt"):
            configs.check_type(f"config.system.{name}", tower, "mapping")
    check_data(config["data"])
    unknown = sorted(set(config.get("writers") or ()) - set(WRITERS))
    if unknown:
        raise UserError(f"metric writer {unknown} does not exist; valid: {sorted(WRITERS)}")
    configs.check_keys("config.every", config.get("every") or {}, ("log", "save", "evaluate"))
    unknown = sorted(set(config.get("report") or ()) - set(config.get("evals") or {}))
    if unknown:
        raise UserError(
            f"config.report names {unknown}, which config.evals lacks; it has {list(config.get('evals') or {})}"
        )


def check_data(data: Mapping[str, Any]) -> None:
    """Raises UserError for values of config.data that are of another type, or a batch size that is missing."""
    configs.check_types("config.data", data, _DATA)
    if data.get("batch_size") is None:
        raise UserError("config.data.batch_size is missing: examples of a step, over all devices")
    train = data.get("train")
    if train is not None and not isinstance(train, str | Mapping):
        raise UserError(f"config.data.train = {train!r}; valid: a source's spec, or a mapping from specs to weights")
    if isinstance(train, Mapping):
        configs.check_types("config.data.train", train, dict.fromkeys(train, "number"))


def check_trained(config: Mapping[str, Any], params: Mapping, stages: Iterable[Stage], given: Collection[str]) -> None:
    """Raises UserError for weights that would stay as they were drawn: no stage trains them, no checkpoint gives them.

    Args:
      config: the run's.
      params: shapes of the system's parameters.
      stages: all of the run.
      given: paths, blocks numbered, of what `config.init` fills, or says to be random on purpose.
    """
    if config.get("init") == RANDOM:
        return
    flat, trained = trees.flatten(params), set[str]()
    for stage in stages:
        trained |= set(trees.flatten(trees.split(params, stage.train, "train")[0]))
    numbered = trees.flatten(unstack_blocks(params))
    kept = {path: leaf for path, leaf in flat.items() if path not in trained}
    idle: dict[str, list[str]] = {}
    for path, leaf in trees.flatten(unstack_blocks(trees.unflatten(kept))).items():
        if leaf.ndim > 1 and path not in given:  # scalars and vectors begin at a value that means something
            idle.setdefault(path.partition("/")[0], []).append(path)
    if not idle:
        return
    named = []
    for top, paths in sorted(idle.items()):
        drawn = [path for path, leaf in numbered.items() if path.split("/")[0] == top and leaf.ndim > 1]
        more = f" and {len(paths) - 1} more arrays" if len(paths) > 1 else ""
        named.append(top if len(paths) == len(drawn) else f"{paths[0]}{more}")
    pattern = named[0] if named[0] not in idle else f"{named[0]}/.*"
    some = config.get("init")
    why = "config.init does not give them" if some else "config.init is empty"
    where = "Load them there" if some else "Give a checkpoint, --config.init=DIR"
    meant = f"{{'path': '{RANDOM}', 'load': ('{pattern}',)}} in config.init" if some else f"--config.init={RANDOM}"
    raise UserError(
        f"{', '.join(named)} would keep random weights: no stage trains them and {why}. {where}, or add them to a "
        f"stage's train, as '{pattern}'; if it is meant, {meant}"
    )
