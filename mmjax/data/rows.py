"""Rows of text and pictures as arrays of equal length: what a system for both reads."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from mmjax.core.errors import UserError
from mmjax.data.chat import Row, expand
from mmjax.data.ledger import NO_ROOM, Dropped, writable


class Spliced(NamedTuple):
    """A row whose pictures have their places.

    Attributes:
      ids: int32[T]; 0 where a picture stands. mask_loss: bool[T]. slot: int32[T], see data/example.py.
    """

    # No shapes: a function that reads rows of several lengths would bind T to one of them.
    ids: np.ndarray
    mask_loss: np.ndarray
    slot: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


def spliced(row: Row, slots: Sequence[np.ndarray], states: int) -> Spliced:
    """The row with each picture's features in its place.

    Args:
      row: each picture one place wide.
      slots: for each picture, the numbers of its features (see data/anyres.py).
      states: how many features a row has.

    Raises:
      UserError: another number of pictures than of places, or a number beyond the features.
    """
    wide = expand(row, [len(numbers) for numbers in slots])
    slot = np.full(len(wide), -1, np.int32)
    if slots:
        numbers = np.concatenate(list(slots))
        if numbers.min() < 0 or numbers.max() >= states:
            raise UserError(f"features {numbers.min()} to {numbers.max()} of {states} are to stand in a row")
        slot[wide.image >= 0] = numbers
    return Spliced(wide.ids, wide.mask_loss, slot)


def stacked(rows: Sequence[Spliced], length: int | None = None) -> dict[str, np.ndarray]:
    """`ids`, `valid`, `mask_loss`, `slot` of a batch, padded on the right.

    Args:
      rows: none longer than `length`.
      length: default: of the longest row.

    Raises:
      UserError: a longer row.
    """
    longest = max(map(len, rows))
    length = longest if length is None else length
    if longest > length:
        raise UserError(f"a row of {longest} tokens; the batch has room for {length}")

    def pad(parts: Sequence[np.ndarray], fill: int) -> np.ndarray:
        return np.stack([np.pad(part, (0, length - len(part)), constant_values=fill) for part in parts])

    valid = np.arange(length)[None] < np.array([len(row) for row in rows])[:, None]
    return {
        "ids": pad([row.ids for row in rows], 0),
        "valid": valid,
        "mask_loss": pad([row.mask_loss for row in rows], 0),
        "slot": pad([row.slot for row in rows], -1),
    }


def packed(
    rows: Sequence[Spliced], length: int, states: Sequence[int], most: int
) -> tuple[list[Spliced], list[list[int]]]:
    """Several rows in one, as many as fit, in order; each one's features follow those of the rows before it.

    Args:
      rows: none longer than `length`.
      length: of the packed rows, in tokens.
      states: how many features each row has; the number behind them, in its `slot`, is the learned newline.
      most: how many features a packed row has at most; the newline is the number behind these, there.

    Returns:
      The packed rows, and for each the numbers of the rows in it.

    Raises:
      UserError: a row that is longer, or has more features.
    """
    groups: list[list[int]] = []
    tokens, features = length + 1, 0
    for number, (row, count) in enumerate(zip(rows, states, strict=True)):
        if len(row) > length or count > most:
            raise UserError(f"a row of {len(row)} tokens, {count} features; a packed row has room for {length}, {most}")
        if tokens + len(row) > length or features + count > most:
            groups.append([])
            tokens, features = 0, 0
        groups[-1].append(number)
        tokens, features = tokens + len(row), features + count
    return [joined([rows[n] for n in group], [states[n] for n in group], most) for group in groups], groups


def joined(rows: Sequence[Spliced], states: Sequence[int], most: int) -> Spliced:
    """Rows one after the other as one, each one's features behind those before it; arguments as of `packed`."""
    slots, before = [], 0
    for row, count in zip(rows, states, strict=True):
        moved = np.where(row.slot == count, most, row.slot + before)
        slots.append(np.where(row.slot < 0, -1, moved).astype(np.int32))
        before += count
    ids, mask = (np.concatenate([getattr(row, part) for row in rows]) for part in ("ids", "mask_loss"))
    return Spliced(ids, mask, np.concatenate(slots))


def samples(groups: Sequence[Sequence[int]], rows: Sequence[Spliced], length: int) -> Int32[np.ndarray, "B T"]:
    """`sample` of packed rows: which of the rows in it a token is of; padding is a sample of its own.

    What of a packed row is beyond `length` is cut off.
    """
    out = np.zeros((len(groups), length), np.int32)
    for number, group in enumerate(groups):
        counts = [len(rows[n]) for n in group]
        out[number] = np.repeat(np.arange(len(group) + 1), [*counts, max(0, length - sum(counts))])[:length]
    return out


def left_out(batch: Mapping[str, np.ndarray], pack: int) -> list[int]:
    """Numbers of the conversations of packed rows of which nothing is left to learn, counted over the batch."""
    found = []
    for row, (sample, learned) in enumerate(zip(batch["sample"], batch["mask_loss"], strict=True)):
        there = set(np.unique(sample[learned]).tolist())
        found += [row * pack + place for place in range(pack) if place not in there]
    return found


def no_room(
    batch: Mapping[str, np.ndarray],
    pack: int,
    numbers: Sequence[int],
    samples: Sequence[Mapping[str, Any]],
    lengths: Mapping[str, int],
) -> list[Dropped]:
    """Ledger entries of the conversations that packed rows cut away.

    Args:
      batch, pack: as of `left_out`.
      numbers: of each conversation, its place in the sources laid end to end.
      samples: each with its `talk`.
      lengths: source -> its length, in order.
    """
    found = []
    for n in left_out(batch, pack):
        index, detail = int(numbers[n]), f"number {n % pack + 1} of {pack}; a row has {batch['ids'].shape[1]} tokens"
        for name, length in lengths.items():
            if index < length:
                found.append(Dropped(name, index, writable(samples[n]["talk"].key), NO_ROOM, detail))
                break
            index -= length
    return found


def account(batch: Mapping[str, np.ndarray], pack: int) -> str:
    """What putting `pack` conversations into each row of a batch brings, and what it costs, in words."""
    valid = batch["valid"]
    rows, T = valid.shape
    share, full, lost = valid.sum() / (rows * T), int(valid.all(axis=1).sum()), len(left_out(batch, pack))
    return (
        f"{pack} conversations a row: {share:.0%} of {T} places hold tokens, {share / pack:.0%} with one a row "
        f"({1 - 1 / pack:.0%} of the places saved); of {rows} rows {full} are full, so that what they end with may be "
        f"cut, and {lost} of {rows * pack} conversations found no room for an answer (ledger.jsonl names them)"
    )
