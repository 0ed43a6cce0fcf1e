"""A second factor, a new sealing key, and all of one person's data, with real services over HTTP."""

import base64
import secrets
import time
from collections.abc import Awaitable, Callable

import httpx
import pyotp
import pytest

from services.auth.sealed import COLUMNS
from tests.fixtures.suite import Suite, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]
"""The first one waits for servers and services, too."""

PASSWORD = "a good password"


async def a_user(suite: Suite) -> tuple[str, str]:
    """Id and address."""
    email = f"{secrets.token_hex(6)}@example.com"
    async with suite.admin() as http:
        made = await http.post("/api/v1/users", json={"email": email, "password": PASSWORD, "role": "operator"})
    assert made.status_code == 201, made.text
    return made.json()["id"], email


async def log_in(http: httpx.AsyncClient, email: str, code: str = "") -> httpx.Response:
    """The client has the token from here on, if it is one."""
    body = {"email": email, "password": PASSWORD} | ({"code": code} if code else {})
    response = await http.post("/api/v1/auth/login", json=body)
    if response.is_success:
        http.headers["Authorization"] = f"Bearer {response.json()['access_token']}"
    return response


async def set_up(http: httpx.AsyncClient) -> tuple[str, list[str]]:
    """Secret and recovery codes of whoever is logged in."""
    offered = await http.post("/api/v1/auth/totp", json={"password": PASSWORD})
    assert offered.status_code == 201, offered.text
    secret = offered.json()["secret"]
    verified = await http.post("/api/v1/auth/totp/verify", json={"code": pyotp.TOTP(secret).now()})
    assert verified.status_code == 200, verified.text
    return secret, verified.json()["codes"]


def all_sealed_anew(suite: Suite) -> int:
    """How often auth has said of one of its columns that it needs no older key."""
    return suite.processes["auth"].log_file.read_text().count("older ones are not needed")


def is_all_sealed_anew(suite: Suite, told_before: int) -> Callable[[], Awaitable[bool]]:
    async def is_so() -> bool:
        return all_sealed_anew(suite) == told_before + len(COLUMNS)

    return is_so


async def test_a_second_factor_outlives_the_key_it_is_sealed_with(suite: Suite) -> None:
    """The old key is only given along until all is sealed anew; nobody is logged out by any of it."""
    _, email = await a_user(suite)
    auth = suite.processes["auth"]
    old, new = auth.environment["AUTH_SECRET_KEY"], base64.b64encode(secrets.token_bytes(32)).decode()
    async with httpx.AsyncClient(base_url=suite.url, timeout=30) as http:
        await log_in(http, email)
        secret, codes = await set_up(http)
        for keys in ({"AUTH_SECRET_KEY": new, "AUTH_OLD_SECRET_KEYS": old}, {"AUTH_OLD_SECRET_KEYS": ""}):
            auth.stop()
            auth.environment |= keys
            told_before = all_sealed_anew(suite)
            await suite.start("auth")
            await eventually(is_all_sealed_anew(suite, told_before), "auth says that the old key is not needed")
        assert (await http.get("/api/v1/auth/totp")).json()["recovery_codes_left"] == 10
        refused = await log_in(http, email)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "second_factor_required")
        assert (await log_in(http, email, pyotp.TOTP(secret).at(time.time() + 30))).status_code == 200
        assert (await log_in(http, email, codes[0])).status_code == 200


async def test_all_of_a_person_is_handed_out_and_forgotten(suite: Suite) -> None:
    user_id, email = await a_user(suite)
    async with httpx.AsyncClient(base_url=suite.url, timeout=30) as http, suite.admin() as admin:
        await log_in(http, email)
        body = {"model": "echo", "prompt": "hello", "stream": False}
        answer = await http.post("/api/v1/inference/generate", json=body)
        assert answer.status_code == 200, answer.text

        async def told() -> bool:
            answer = await http.get("/api/v1/users/profile/export")
            if answer.status_code != 200:
                return False
            export = answer.json()
            return len(export["requests"]["rows"]) == len(export["usage"]["rows"]) == 1 and bool(
                export["audit"]["rows"]
            )

        await eventually(told, "the request and what it took are in the export")
        erased = await http.post("/api/v1/users/profile/erase", json={"password": PASSWORD})
        assert erased.status_code == 204, erased.text

        async def logged_out() -> bool:
            return (await http.get("/api/v1/users/profile")).status_code == 401

        await eventually(logged_out, "the gateway heard that the session has ended")
        assert (await log_in(http, email)).status_code == 401
        assert (await admin.get(f"/api/v1/users/{user_id}")).status_code == 404

        async def unnamed() -> bool:
            requests = (await admin.get("/api/v1/inference/requests", params={"user_id": user_id})).json()
            return not requests["items"]

        await eventually(unnamed, "the journal knows nobody by that id")
