"""Ids as digits of mixed radix."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reeltok.tokens.digits import centre_of, join_digits, split_digits


@settings(max_examples=20)
@given(st.lists(st.integers(2, 9), min_size=1, max_size=6), st.integers(0, 2**31))
def test_digits_are_a_bijection(sizes: list[int], seed: int) -> None:
    ids = torch.randint(math.prod(sizes), (50,), generator=torch.Generator().manual_seed(seed))
    digits = split_digits(ids, sizes)
    assert (digits < torch.tensor(sizes)).all()
    assert torch.equal(join_digits(digits, sizes), ids)


def test_the_first_digit_counts_least_and_the_centre_is_in_the_middle() -> None:
    assert split_digits(torch.tensor([1, 8, 40]), (8, 5, 2)).tolist() == [
        [1, 0, 0],
        [0, 1, 0],
        [0, 0, 1],
    ]
    assert centre_of((8, 5, 2)) == join_digits(torch.tensor([4, 2, 1]), (8, 5, 2)) == 60
