"""A stage of training as data: how long, what trains, with which optimizer, from which data."""

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Any

from mmjax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage. Patterns are full matches over "a/b/c" parameter paths.

    Attributes:
      steps: optimizer steps.
      lr: peak learning rate.
      tasks: which of the system's tasks are trained, of those that it is built for; empty: all. What only the others
        use gets no gradient, but still decays unless `train` leaves it out.
      train: patterns of the parameters that train; the others get no gradient and no optimizer state. A batch norm
        whose parameters do not train keeps its running statistics, too.
      optimizer: "adamw", "lion" or "adafactor" (factored second moments: their memory is that of rows and columns).
      schedule: "cosine", "linear", "exponential" (by the same factor each step) or "constant", after a linear warm-up
        from 0 over `warmup` steps; `end_lr` is reached when all steps are done.
      weight_decay: decoupled (not multiplied into the gradient), on arrays of two or more axes (a scanned layer axis
        not counted), less those that `no_decay` names and with those that `also_decay` does (BLIP: everything).
      clip: maximum global gradient norm; 0 switches clipping off.
      lr_scale: (pattern, factor) pairs; the first match multiplies the learning rate of a parameter. A scanned stack's
        layers are named as in a loop, block_{i}/….
      layer_decay: factor per block below the top of each tower (BEiT's layer-wise decay): what embeds is lowest, heads
        keep the rate (train/layers.py); 1 is off.
      layers: (pattern, "below" or "above") pairs: where parameters stand whose names do not say it.
      chunks: >1 computes the batch in this many chunks with cached features, keeping the global negatives.
      teacher: patterns of the parameters with an exponential moving average, of decay `teacher_decay`.
      evaluate: which weights evaluators and exports see: "student", or "teacher" (the average).
      data: overrides of config.data for this stage.
    """

    steps: int
    lr: float
    tasks: tuple[str, ...] = ()
    train: tuple[str, ...] = (".*",)
    optimizer: str = "adamw"
    schedule: str = "cosine"
    warmup: int = 0
    end_lr: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    no_decay: tuple[str, ...] = ()
    also_decay: tuple[str, ...] = ()
    clip: float = 0.0
    lr_scale: tuple[tuple[str, float], ...] = ()
    layer_decay: float = 1.0
    layers: tuple[tuple[str, str], ...] = ()
    chunks: int = 1
    teacher: tuple[str, ...] = ()
    teacher_decay: float = 0.999
    evaluate: str = "student"
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        choices = {"optimizer": ("adamw", "lion", "adafactor"), "evaluate": ("student", "teacher"),
                   "schedule": ("cosine", "linear", "exponential", "constant")}  # fmt: skip
        for key, valid in choices.items():
            if getattr(self, key) not in valid:
                raise UserError(f"stage: {key}={getattr(self, key)!r} is not one of {list(valid)}")
        for key in ("lr", "end_lr", "weight_decay", "clip", "b1", "b2", "eps", "layer_decay"):
            value, decay = getattr(self, key), key in ("b1", "b2")
            if not (math.isfinite(value) and value >= 0 and (value < 1 or not decay)):
                words = "a number from 0 to less than 1" if decay else "a number, 0 or more"
                raise UserError(f"stage: {key}={value}; valid: {words}")
        if not 0 <= self.teacher_decay <= 1:
            raise UserError(f"stage: teacher_decay={self.teacher_decay} is not between 0 and 1")
        if self.steps < 1 or self.chunks < 1 or not 0 <= self.warmup <= self.steps:
            raise UserError(
                f"stage: steps={self.steps}, chunks={self.chunks}, warmup={self.warmup}; valid: steps and chunks at "
                "least 1, warmup from 0 to steps"
            )
        if self.schedule == "exponential" and not 0 < self.end_lr <= self.lr:
            raise UserError(
                f"stage: schedule='exponential' with end_lr={self.end_lr}; valid: above 0, up to lr={self.lr}"
            )
        if wrong := [side for _, side in self.layers if side not in ("below", "above")]:
            raise UserError(f"stage: layers name {wrong}; valid: 'below' or 'above' the blocks")
        if self.evaluate == "teacher" and not self.teacher:
            raise UserError("stage: evaluate='teacher' needs teacher patterns, e.g. teacher=('.*',)")


def make_stage(name: str, settings: Mapping[str, Any]) -> Stage:
    """A Stage from the config's mapping.

    Raises:
      UserError: unknown or missing key; the message names the nearest known one.
    """
    known = [f.name for f in dataclasses.fields(Stage)]
    for key in settings:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"stages.{name}.{key} does not exist{hint} (known: {known})")
    missing = {"steps", "lr"} - set(settings)
    if missing:
        raise UserError(f"stages.{name} needs {sorted(missing)}")
    kinds = {f.name: f.type for f in dataclasses.fields(Stage)}
    values = {k: _read(f"stages.{name}.{k}", v, kinds[k]) for k, v in settings.items()}
    try:
        return Stage(**values)
    except UserError as error:
        raise UserError(f"stages.{name}: {str(error).removeprefix('stage: ')}") from error


def _read(where: str, value: Any, kind: Any) -> Any:
    """A value of a config as the type of its field: lists become tuples, one pattern a tuple of one.

    Raises:
      UserError: it is of another type.
    """
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind in (int, float, str):
        return _check(where, value, isinstance(value, kind) and not isinstance(value, bool), kind.__name__)
    if kind == tuple[str, ...]:
        value = (value,) if isinstance(value, str) else value
        fits = isinstance(value, list | tuple) and all(isinstance(v, str) for v in value)
        return tuple(_check(where, value, fits, "a list of patterns"))
    if kind == tuple[tuple[str, float], ...]:
        fits = isinstance(value, list | tuple) and all(_is_pair(v, int, float) for v in value)
        return tuple((k, float(v)) for k, v in _check(where, value, fits, "a list of pairs (pattern, factor)"))
    if kind == tuple[tuple[str, str], ...]:
        fits = isinstance(value, list | tuple) and all(_is_pair(v, str) for v in value)
        return tuple((k, v) for k, v in _check(where, value, fits, "a list of pairs (pattern, 'below' or 'above')"))
    return dict(_check(where, value, isinstance(value, Mapping), "a mapping"))


def _is_pair(value: Any, *second: type) -> bool:
    return isinstance(value, list | tuple) and [type(v) for v in value] in [[str, kind] for kind in second]


def _check(where: str, value: Any, fits: bool, valid: str) -> Any:
    if not fits:
        raise UserError(f"{where} = {value!r}; valid: {valid}")
    return value
