"""The Multiway transformer: one self-attention for all tokens, an expert for each modality (VLMo, BEiT-3)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer

from mmjax.core.errors import UserError
from mmjax.nn.cache import Slots
from mmjax.nn.norm import norm
from mmjax.nn.position import relative_index_2d
from mmjax.nn.segments import Segments, by_segment
from mmjax.nn.transformer import BlockSpec, Inputs, Transformer

IMG, TXT, VL = "img", "txt", "vl"


class Multiway(nn.Module):
    """`low` blocks with experts `img` and `txt`, then `top` blocks that have a third one, `vl`, for fused sequences.

        x = x + attn(norm1 x),  x = x + mlp_m(norm2_m x) for the tokens of modality m

    float[B, T, D] -> float[B, T, D]. Of one modality, a sequence is routed to its expert in every block; fused, it is
    split between `img` and `txt` in the low blocks, and goes whole to `vl` in the top ones.

    Attributes:
      spec: of the blocks; `spec.separate`: attention and norms are the experts' own, too (the released BEiT-3).
      low, top: numbers of blocks.
      norm_final: whether a norm ends the stack (the experts' own if separate).

    Source: Bao et al. 2021 (VLMo), §3.1; Wang et al. 2022 (BEiT-3), §2.1.
    """

    spec: BlockSpec
    low: int
    top: int = 0
    norm_final: bool = True
    scan: bool = False
    remat: str | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        segments: Segments,
        *,
        mask: Bool[Array, "#B #N #T T"] | None = None,
        layer_bias: Float[Array, "L #B #N T T"] | None = None,
        branches: tuple[bool, ...] | None = None,
        slots: Slots | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "B T D"], ...]:
        """The states at the end, once for each of `branches`.

        Args:
          x: embedded tokens.
          segments: (expert, tokens) of `img` and `txt` in their order.
          mask: True = attend.
          layer_bias: attention bias of every block.
          branches: for each result, whether the top blocks use `vl`; the low blocks are computed once for all.
            Default: one, with `vl` if there is more than one segment.
          slots: where attention keeps its keys and values (nn/cache.py).
        """
        if unknown := [expert for expert, _ in segments if expert not in (IMG, TXT)]:
            raise UserError(f"multiway: segments {segments} of {unknown}; there are {IMG!r} and {TXT!r}")
        inputs = Inputs(mask=mask, slots=slots)
        fused = ((VL, x.shape[1]),)

        def stack(depth: int, below: int, name: str) -> tuple[Transformer, Any]:
            bias = None if layer_bias is None else layer_bias[below : below + depth]
            above = self.low + self.top - below - depth
            return Transformer(self.spec, depth, self.scan, self.remat, below, above, name=name), bias

        low, bias = stack(self.low, 0, "low")
        x = low(x, inputs, layer_bias=bias, segments=segments, train=train)
        top, bias = stack(self.top, self.low, "top") if self.top else (None, None)
        final = norm(self.spec.norm)
        own = segments if self.spec.separate else ()
        modules: dict[str, Any] = {}

        def last(expert: str) -> Any:  # one module, whatever the number of branches
            if expert not in modules:
                modules[expert] = final(self.spec.eps, self.spec.dtype, name=f"norm_final{expert}")
            return modules[expert]

        states = []
        for vl in (len(segments) > 1,) if branches is None else branches:
            end = x
            if top is not None:
                end = top(x, inputs, layer_bias=bias, segments=fused if vl else segments, train=train)
            states.append(by_segment(end, own, last) if self.norm_final else end)
        return tuple(states)


# ---------------------------------------------------------------- relative positions


def relative_rows(height: int, width: int, texts: int) -> int:
    """Rows of VLMo's table: image offsets and three of its class token, two between modalities, `2·texts` of a text."""
    return (2 * height - 1) * (2 * width - 1) + 3 + 2 + 2 * texts


def relative_index(
    height: int, width: int, texts: int, *, text: int = 0, image: bool = True
) -> Integer[np.ndarray, "T T"]:
    """Rows of VLMo's table of relative positions for `text` tokens, then (with `image`) a class token and the patches.

    The image's part is BEiT's (`relative_index_2d`): it grows with i - j. A text's grows with j - i: between tokens i
    and j, none of them the class token, the row is `j - i + texts - 2` after the text's first one; its last three rows
    are class to text, text to class, class to class. Two rows before them are for text to image, image to text.

    Args:
      height, width: of the grid of patches.
      texts: longest text that the table has rows for.
      text: tokens of the text in this sequence, 0 without one.

    Source: Bao et al. 2021 (VLMo), as released.
    """
    if text > texts:
        raise UserError(f"relative positions: {text} tokens, but the table has rows for {texts}")
    between = relative_rows(height, width, texts) - 2 * texts - 2
    first = between + 2
    places = np.arange(text)
    words = first + places[None, :] - places[:, None] + texts - 2
    if text:
        end = first + 2 * texts
        words[0, :], words[:, 0], words[0, 0] = end - 3, end - 2, end - 1
    if not image:
        return words.astype(np.int32)
    patches = relative_index_2d(height, width)
    across = np.full((text, len(patches)), between)
    rows = [np.concatenate([words, across], 1), np.concatenate([across.T + 1, patches], 1)]
    return np.concatenate(rows).astype(np.int32)


class LayerBias(nn.Module):
    """One table of relative positions for all blocks, int[T, S] -> float[L, 1, N, T, S]; parameter `table` [rows, L·N].

    Zero at the start. Source: VLMo as released.
    """

    rows: int
    depth: int
    heads: int

    @nn.compact
    def __call__(self, index: Integer[np.ndarray, "T S"]) -> Float[Array, "L 1 N T S"]:
        shape = (self.rows, self.depth * self.heads)
        table = self.param("table", nn.initializers.zeros_init(), shape, jnp.float32)
        by_layer = table.reshape(self.rows, self.depth, self.heads)[index]  # [T, S, L, N]
        return by_layer.transpose(2, 3, 0, 1)[:, None]
