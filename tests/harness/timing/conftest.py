"""Orders are drawn by chance; a test's are the same each time."""

import random

import pytest


@pytest.fixture(autouse=True)
def _same_orders() -> None:
    random.seed(0)
