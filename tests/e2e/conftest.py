from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from tests.e2e.contract import EMBEDDER
from tests.fixtures.database import new_database
from tests.fixtures.infra import provided
from tests.fixtures.installation import Installation, an_installation
from tests.fixtures.minilm import write_minilm_gguf
from tests.fixtures.otlp import Collector, running_collector
from tests.fixtures.suite import Process, Suite, a_suite


@pytest.fixture(scope="package")
def otlp() -> Iterator[tuple[str, Collector]]:
    with running_collector() as endpoint_and_collector:
        yield endpoint_and_collector


@pytest.fixture(scope="package")
def own_postgres_urls(postgres_url: str, passwords: dict[str, str]) -> Iterator[dict[str, str]]:
    """A database of these tests' own: each suite seals its signing key with a secret of its own."""
    with new_database(postgres_url, passwords) as urls:
        yield urls


@pytest.fixture(scope="package")
async def suite(
    tmp_path_factory: pytest.TempPathFactory,
    rabbitmq_url: str,
    redis_url: str,
    own_postgres_urls: dict[str, str],
    otlp: tuple[str, Collector],
) -> AsyncIterator[Suite]:
    """One suite for all end-to-end tests: two workers, the echo engine and two real models, traces collected."""
    suite = a_suite(
        tmp_path_factory.mktemp("suite"),
        rabbitmq_url,
        redis_url,
        own_postgres_urls,
        models={EMBEDDER: write_minilm_gguf(tmp_path_factory.mktemp("minilm") / "all-minilm.gguf")},
        OTEL_EXPORTER_OTLP_ENDPOINT=otlp[0],
        OTEL_BSP_SCHEDULE_DELAY="200",
    )
    async with suite.running():
        yield suite


@pytest.fixture(scope="package")
async def other_suite(
    tmp_path_factory: pytest.TempPathFactory, postgres_url: str, passwords: dict[str, str]
) -> AsyncIterator[Suite]:
    """A second installation, which shares nothing with ``suite``. It runs no models."""
    with provided(["rabbitmq", "redis"]) as servers, new_database(postgres_url, passwords) as urls:
        directory = tmp_path_factory.mktemp("other-suite")
        suite = a_suite(directory, servers.urls["rabbitmq"], servers.urls["redis"], urls, workers=0)
        async with suite.running():
            yield suite


@pytest.fixture(scope="package")
async def installation(
    tmp_path_factory: pytest.TempPathFactory, postgres_url: str, passwords: dict[str, str]
) -> AsyncIterator[Installation]:
    """A third one, for tests that make people and organizations."""
    async with an_installation(tmp_path_factory.mktemp("installation"), postgres_url, passwords) as installation:
        yield installation


@pytest.fixture
async def http(suite: Suite) -> AsyncIterator[httpx.AsyncClient]:
    """Requests to the gateway, as a client without manners sends them: no redirects, no credentials."""
    async with httpx.AsyncClient(base_url=suite.url, timeout=60) as client:
        yield client


@pytest.fixture
async def admin(suite: Suite) -> AsyncIterator[httpx.AsyncClient]:
    """The first admin, logged in."""
    async with suite.admin() as client:
        yield client


@pytest.fixture
async def second_gateway(suite: Suite) -> AsyncIterator[tuple[str, Process]]:
    """Its address, and its process, which the test may kill."""
    async with suite.another_gateway() as address_and_process:
        yield address_and_process
