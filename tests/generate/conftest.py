"""A plain and a leaning tokenizer for all tests of priors."""

import pytest
import torch
from small_priors import BODY

from reeltok.models.reftok.injection import RefTokConfig
from reeltok.models.reftok.network import RefTok
from reeltok.models.vidtok.network import VidTok


@pytest.fixture(scope="module")
def plain() -> VidTok:
    torch.manual_seed(0)
    return VidTok(BODY, "plain").eval()


@pytest.fixture(scope="module")
def leaning() -> RefTok:
    torch.manual_seed(0)
    return RefTok(RefTokConfig(body=BODY, width=4), "leaning").eval()
