"""The proof that it works: a real answer from the real model, through every service."""

import json
from collections.abc import Iterator

import httpx

from deploy.local.config import Config
from deploy.local.errors import SetupError
from deploy.local.services import SEED_MODEL, admin_email, admits_anonymous, gateway_host

QUESTION = "In one short sentence: why is the sky blue?"

# The first answer includes loading the model.
ANSWER_SECONDS = 180.0


def base_url(config: Config) -> str:
    """Where a person on this machine finds the gateway."""
    host = gateway_host(config)
    reachable = "127.0.0.1" if host in {"0.0.0.0", "::", "localhost"} else host
    return f"http://{f'[{reachable}]' if ':' in reachable else reachable}:{config.port('GATEWAY_PORT')}"


def stream_answer(config: Config) -> None:
    """Ask, and print the answer as it comes. Raises ``SetupError`` if it does not."""
    print(f"\n{SEED_MODEL}, {QUESTION}\n> ", end="", flush=True)
    try:
        with httpx.Client(base_url=base_url(config), timeout=ANSWER_SECONDS, trust_env=False) as http:
            for text in _answer(http, credentials(http, config)):
                print(text, end="", flush=True)
    except httpx.HTTPError as error:
        raise SetupError(
            f"the gateway did not answer ({error!r}): see `make status` and `make logs s=gateway`"
        ) from error
    print("\n")


def credentials(http: httpx.Client, config: Config) -> dict[str, str]:
    """As headers: none if none are needed, else the admin's. Raises ``SetupError``."""
    if admits_anonymous(config):
        return {}
    login = {"email": admin_email(config), "password": config.secrets["AUTH_ADMIN_PASSWORD"]}
    response = http.post("/api/v1/auth/login", json=login)
    if response.status_code != 200:
        raise SetupError(
            f"{login['email']} cannot log in with the password in .run/secrets.env ({response.text.strip()})"
        )
    return {"Authorization": f"Bearer {response.json()['access_token']}"}


def _answer(http: httpx.Client, headers: dict[str, str]) -> Iterator[str]:
    message = {"role": "user", "content": QUESTION}
    body = {"model": SEED_MODEL, "messages": [message], "options": {"num_predict": 64, "seed": 1}}
    with http.stream("POST", "/api/chat", json=body, headers=headers) as response:
        for line in response.iter_lines():
            part = json.loads(line)
            if "error" in part:
                raise SetupError(f"the model did not answer ({part['error']}): see `make logs s=worker`")
            yield part["message"]["content"]
