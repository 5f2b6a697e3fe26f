"""The order of images as if no other test had drawn one."""

from collections.abc import Iterator

import pytest

from metadistiller.data._order import permutation


@pytest.fixture
def fresh_permutations() -> Iterator[None]:
    """No order that another test has drawn is remembered."""
    permutation.cache_clear()
    yield
    permutation.cache_clear()
