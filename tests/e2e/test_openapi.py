"""The running platform keeps the promises of its document, whatever it is sent."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fixtures.installation import API, Installation, an_installation

pytestmark = pytest.mark.e2e

MOST_SECONDS = 600
CONFIG = Path(__file__).with_name("schemathesis.toml")
LOCKS_OUT = "put_organizations_organization_id_second_factor_policy"
"""Its example demands a second factor of admins: from then on the rest would only be refused."""


@pytest.fixture(scope="module")
async def installation(
    tmp_path_factory: pytest.TempPathFactory, postgres_url: str, passwords: dict[str, str]
) -> AsyncIterator[Installation]:
    """One of its own: nobody can foresee what it is like afterwards."""
    async with an_installation(tmp_path_factory.mktemp("installation"), postgres_url, passwords) as installation:
        yield installation


async def run(installation: Installation, credentials: str, *arguments: str) -> None:
    command = (
        *(str(Path(sys.executable).with_name("schemathesis")), "--no-color", "--config-file", str(CONFIG)),
        *("run", f"{installation.suite.url}{API}/openapi.json", "--header", f"Authorization: {credentials}"),
        *arguments,
    )
    process = await asyncio.create_subprocess_exec(
        *command, cwd=installation.suite.directory, stdout=-1, stderr=asyncio.subprocess.STDOUT
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), MOST_SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, output.decode()[-20_000:]


@pytest.mark.timeout(2 * MOST_SECONDS)
async def test_no_server_error_and_no_broken_promise(installation: Installation) -> None:
    """In one session: after so many wrong passwords nobody may log in for a while."""
    async with installation.admin() as admin:
        credentials = admin.http.headers["Authorization"]
        await run(installation, credentials, "--exclude-operation-id", LOCKS_OUT)
        await run(installation, credentials, "--include-operation-id", LOCKS_OUT)
