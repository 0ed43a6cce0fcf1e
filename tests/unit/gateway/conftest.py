from collections.abc import AsyncIterator

import httpx
import pytest

from tests.fixtures.gateway import Gateway, a_gateway


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with a_gateway() as gateway:
        yield gateway


@pytest.fixture
async def http(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    """Of a caller without credentials."""
    async with gateway.client() as http:
        yield http
