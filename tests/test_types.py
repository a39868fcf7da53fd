"""Shapes and types are checked while tests run, and can be left out where torch traces code."""

import jaxtyping
import pytest
import torch

from reeltok.nn.quantizers import FSQConfig

CODES = FSQConfig(levels=(4, 4)).build().eval()


def test_a_wrong_shape_is_an_error() -> None:
    with pytest.raises(jaxtyping.TypeCheckError, match="parameter 'ids'"):
        CODES.lookup(torch.zeros(1, 2, 3))  # ids are integers


@pytest.mark.usefixtures("types_unchecked")
def test_export_asks_for_no_checks() -> None:
    z = torch.zeros(1, 3, 2)
    exported = torch.export.export(CODES, (z,)).module()
    assert torch.equal(exported(z).ids, CODES(z).ids)
