"""Texts cut at the longest of the global batch, in a few static lengths."""

import numpy as np
import pytest

from mmjax.core.errors import UserError
from tests.data.test_pipeline import Numbers, make


class Uneven(Numbers):
    """Texts of one to six words."""

    def __getitem__(self, i: int) -> dict:
        return {**super().__getitem__(i), "texts": [" ".join([str(i)] * (1 + i * i % 6))]}


def test_texts_are_cut_to_the_bucket_of_the_longest_of_the_global_batch():
    whole = make(Uneven(43), length=8)
    cut = make(Uneven(43), length=8, text_buckets=[3, 6], batch_size=2)
    plain = make(Uneven(43), length=8, batch_size=2)
    seen = set()
    for step in range(21):
        batch, full = cut[step], plain[step]
        longest, size = full["valid"].sum(1).max(), batch["ids"].shape[1]
        assert size == (3 if longest <= 3 else 6) and batch["valid"].shape == (2, size)
        np.testing.assert_array_equal(batch["ids"], full["ids"][:, :size])
        np.testing.assert_array_equal(batch["valid"].sum(1), full["valid"].sum(1))
        seen.add(size)
        for row in (0, 1):  # of two processes, each knows one row
            part = make(Uneven(43), length=8, text_buckets=[3, 6], batch_size=2, rows=[row])[step]
            np.testing.assert_array_equal(part["ids"], batch["ids"][row : row + 1])
            np.testing.assert_array_equal(part["valid"], batch["valid"][row : row + 1])
    assert seen == {3, 6}
    assert make(Uneven(43), length=8, text_buckets=[3, 4])[0]["ids"].shape[1] == 8  # no bucket holds six words
    assert "text_buckets" not in whole.fingerprint and cut.fingerprint["text_buckets"] == [3, 6]


@pytest.mark.parametrize("buckets", [[8], [1], [6, 3], [3, 3]])
def test_buckets_that_are_none(buckets):
    with pytest.raises(UserError, match="text_buckets"):
        make(length=8, text_buckets=buckets)
