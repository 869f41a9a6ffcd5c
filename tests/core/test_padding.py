import numpy as np
import pytest

from mmjax.core.errors import UserError
from mmjax.core.padding import check_right_padded


def test_tokens_first_and_padding_behind_them_is_right():
    check_right_padded(np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0]], bool), "here")
    check_right_padded([[1, 1, 0]], "an attention mask of numbers")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ([0, 0, 1, 1], r"here: row 1 has its padding on the left: tokens at 2 to 3; .* padded on the right"),
        ([0, 1, 1, 0], r"row 1 has its padding on the left: tokens at 1 to 2"),
        ([1, 0, 1, 1], r"row 1 has a hole: tokens from 0 to 3, but not at 1"),
        ([0, 1, 0, 1], r"row 1 has a hole: tokens from 1 to 3, but not at 2"),
        ([0, 0, 0, 0], r"row 1 has no token"),
    ],
)
def test_the_first_wrong_row_is_named(row, says):
    with pytest.raises(UserError, match=says):
        check_right_padded(np.array([[1, 1, 1, 0], row, [0, 0, 0, 0]], bool), "here")
