"""The database and cache servers of the chaos tests' own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.services import OwnServices


@pytest.fixture(scope="session")
def own_services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnServices]:
    """Started when they are asked for."""
    services = OwnServices(tmp_path_factory.mktemp("chaos") / "services")
    try:
        yield services
    finally:
        services.remove()
