from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hub.fake_hub import FakeHub, fake_hub


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with fake_hub() as server:
        yield server
