import base64
import os

import pytest
from pydantic import SecretStr

from libs.common.settings import load
from services.auth.settings import Settings

GOOD = base64.b64encode(bytes(32)).decode()


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AUTH_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("secret", [None, "", "short", base64.b64encode(bytes(31)).decode(), "ü" * 44, GOOD[:-1]])
def test_without_a_good_secret_key_it_ends_with_one_line(monkeypatch: pytest.MonkeyPatch, secret: str | None) -> None:
    if secret is not None:
        monkeypatch.setenv("AUTH_SECRET_KEY", secret)
    with pytest.raises(SystemExit) as ended:
        load(Settings)
    assert str(ended.value).startswith("AUTH_SECRET_KEY: ")
    assert "\n" not in str(ended.value)
    assert not secret or secret not in str(ended.value)


def test_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTH_SECRET_KEY", GOOD)
    settings = load(Settings)
    assert settings.registration == "invitation"
    assert settings.ops_port == 11441
    assert settings.admin_password is None
    assert GOOD not in repr(settings)
    assert isinstance(settings.secret_key, SecretStr)
