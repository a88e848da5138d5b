"""Input for the tests of the backbone."""

import pytest
import torch


@pytest.fixture(scope="module")
def ids():
    return torch.randint(2, 300, (3, 11), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def everywhere(ids):
    return torch.ones_like(ids, dtype=torch.bool)
