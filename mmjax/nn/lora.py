"""Low-rank adapters (Hu et al. 2022, "LoRA"): beside a frozen map a small one that trains."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from mmjax.core.errors import UserError
from mmjax.nn.dense import Dense, torch_uniform, zeros

MAPS = ("q", "k", "v", "out", "gate", "fc1", "fc2")
"""The maps of a block that may have one."""


@dataclasses.dataclass(frozen=True)
class LoraSpec:
    """Which maps have adapters, and what these are.

    Attributes:
      rank, alpha: r and α.
      dropout: of what goes into an adapter.
      maps: of MAPS.

    Raises:
      UserError: values that do not exist.
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    maps: tuple[str, ...] = MAPS

    def __post_init__(self) -> None:
        whole = isinstance(self.rank, int) and not isinstance(self.rank, bool)
        if not whole or self.rank < 1 or not self.alpha > 0 or not 0 <= self.dropout < 1:
            raise UserError(
                f"lora: rank = {self.rank!r}, alpha = {self.alpha!r}, dropout = {self.dropout!r}; valid: a whole number"
                " from 1, a number above 0, and one from 0 to less than 1"
            )
        if not self.maps or set(self.maps) - set(MAPS):
            raise UserError(f"lora: maps = {list(self.maps)}; valid: some of {', '.join(MAPS)}")

    @property
    def scale(self) -> float:
        """α / r."""
        return self.alpha / self.rank


class Lora(nn.Module):
    """`α/r · up(down(drop x))`, float[..., D] -> float[..., F]; zero before training, for `up` begins as zero.

    Parameters: down/kernel [D, r], up/kernel [r, F]. Source: Hu et al. 2022, §4.1.
    """

    spec: LoraSpec
    features: int
    axes: tuple[str | None, str | None]
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch D"], *, train: bool = False) -> Float[Array, "*batch F"]:
        s = self.spec
        x = nn.Dropout(s.dropout, name="drop")(x, deterministic=not train)
        x = Dense(s.rank, (self.axes[0], None), False, torch_uniform, dtype=self.dtype, name="down")(x)
        return Dense(self.features, (None, self.axes[1]), False, zeros, dtype=self.dtype, name="up")(x) * s.scale
