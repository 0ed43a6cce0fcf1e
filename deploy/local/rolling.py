"""A rolling restart: one process at a time, so that whoever is being answered notices nothing."""

from collections.abc import Mapping
from typing import Final

from deploy.local import readiness
from deploy.local.errors import SetupError
from deploy.local.services import SUCCESSOR
from deploy.local.supervisor import Supervisor

ORDER: Final = ("auth", "registry", "scheduler", "worker", "gateway")


def restart(supervisor: Supervisor, urls: Mapping[str, str], service: str) -> None:
    """``urls``: of health, by program. ``service``: only this one; empty: all. Raises ``SetupError``."""
    if service not in ("", *ORDER):
        raise SetupError(f"there is no service {service!r}: it is one of {', '.join(ORDER)}")
    names = sorted((name for name in urls if name != SUCCESSOR), key=lambda name: (ORDER.index(_service(name)), name))
    for name in names:
        if service in ("", _service(name)):
            _restart(supervisor, urls, name)


def _restart(supervisor: Supervisor, urls: Mapping[str, str], name: str) -> None:
    """What runs may finish first. A gateway has a successor on its port meanwhile: clients are never refused."""
    print(f"{name}:", flush=True)
    if name == "gateway":
        _begin(supervisor, urls, SUCCESSOR)
    supervisor.stop([name])
    _begin(supervisor, urls, name)
    if name == "gateway":
        supervisor.stop([SUCCESSOR])


def _begin(supervisor: Supervisor, urls: Mapping[str, str], name: str) -> None:
    supervisor.start(name)
    readiness.wait_until_ready(supervisor, {name: urls[name]})


def _service(name: str) -> str:
    return name.partition("-")[0]
