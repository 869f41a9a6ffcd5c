"""A stage of training as data: how long, what trains, with which optimizer, from which data."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from mmjax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage. Patterns are full matches over "a/b/c" parameter paths.

    Attributes:
      steps: optimizer steps.
      lr: peak learning rate.
      train: patterns of the parameters that train; the others get no gradient and no optimizer state. A batch norm
        whose parameters do not train keeps its running statistics, too.
      optimizer: "adamw" or "lion".
      schedule: "cosine", "linear" or "constant", after a linear warm-up from 0 over `warmup` steps; `end_lr` is
        reached when all steps are done.
      weight_decay: decoupled (not multiplied into the gradient), on arrays of two or more axes (a scanned layer axis
        not counted), less those that `no_decay` names.
      clip: maximum global gradient norm; 0 switches clipping off.
      lr_scale: (pattern, factor) pairs; the first match multiplies the learning rate of a parameter. A scanned stack's
        layers are named as in a loop, block_{i}/….
      layer_decay: factor per block below the top of each stack (BEiT's layer-wise decay); 1 is off.
      chunks: >1 computes the batch in this many chunks with cached features, keeping the global negatives.
      teacher: patterns of the parameters with an exponential moving average, of decay `teacher_decay`.
      evaluate: which weights evaluators and exports see: "student", or "teacher" (the average).
      data: overrides of config.data for this stage.
    """

    steps: int
    lr: float
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
    clip: float = 0.0
    lr_scale: tuple[tuple[str, float], ...] = ()
    layer_decay: float = 1.0
    chunks: int = 1
    teacher: tuple[str, ...] = ()
    teacher_decay: float = 0.999
    evaluate: str = "student"
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        choices = {"optimizer": ("adamw", "lion"), "schedule": ("cosine", "linear", "constant"),
                   "evaluate": ("student", "teacher")}  # fmt: skip
        for key, valid in choices.items():
            if getattr(self, key) not in valid:
                raise UserError(f"stage: {key}={getattr(self, key)!r} is not one of {list(valid)}")
        if not all(isinstance(pair, tuple) and [type(x) for x in pair] in ([str, int], [str, float])
                   for pair in self.lr_scale):  # fmt: skip
            raise UserError(f"stage: lr_scale={self.lr_scale!r} must be pairs (pattern, factor)")
        if not 0 <= self.teacher_decay <= 1:
            raise UserError(f"stage: teacher_decay={self.teacher_decay} is not between 0 and 1")
        if self.steps < 1 or self.chunks < 1 or not 0 <= self.warmup <= self.steps:
            raise UserError(f"stage: need steps >= 1, chunks >= 1 and 0 <= warmup <= steps, got {self}")
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
    values = {k: _frozen(v) for k, v in settings.items()}
    values |= {k: (values[k],) for k in ("train", "no_decay", "teacher") if isinstance(values.get(k), str)}
    try:
        return Stage(**{**values, "data": dict(settings.get("data", {}))})
    except (TypeError, ValueError) as error:  # of another type or length than the field's, or out of range
        raise UserError(f"stages.{name}: {str(error).removeprefix('stage: ')}") from error


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list | tuple) else value
