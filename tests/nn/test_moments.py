"""Moments that are gathered part by part are those of all at once."""

from functools import reduce
from operator import add

import pytest
import torch

from reeltok.nn.moments import Moments

PARTS = [torch.randn(2, 4, size, 3, 3) * size + 100 for size in (1, 2, 5)]
WHOLE = torch.cat([part.movedim(1, 0).flatten(1) for part in PARTS], 1).double()


@pytest.mark.parametrize("pairs", [False, True])
def test_moments_equal_those_of_all_vectors_at_once(pairs: bool) -> None:
    held = [Moments.of(part, axis=1, pairs=pairs) for part in PARTS]
    for found in (reduce(add, held), held[0] + (held[1] + held[2])):
        torch.testing.assert_close(found.mean, WHOLE.mean(1), rtol=1e-12, atol=0)
        torch.testing.assert_close(found.std, WHOLE.std(1, correction=0), rtol=1e-9, atol=0)
        assert found.count == WHOLE.shape[1]
    if pairs:
        torch.testing.assert_close(found.covariance, WHOLE.cov(), rtol=1e-9, atol=1e-9)


def test_none_changes_nothing() -> None:
    held, none = Moments.of(PARTS[2], axis=1), Moments.none(4)
    empty = Moments.of(PARTS[2][:, :, :0], axis=1)
    for found in (none + held, held + none, empty + held, held + empty):
        torch.testing.assert_close(found.std, held.std, rtol=0, atol=0)
        torch.testing.assert_close(found.mean, held.mean, rtol=0, atol=0)
    assert (none + none).count == 0
    assert none.std.tolist() == [0.0] * 4
