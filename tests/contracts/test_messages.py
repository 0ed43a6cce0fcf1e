"""Snapshots of every message on the bus. A breaking change fails; ``make contracts`` accepts an additive one."""

import importlib
import json
import os
import pkgutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel

from libs.common import contracts
from libs.common.contracts.message import Command, Event, Message, Query
from libs.common.contracts.tokens import Frame

SCHEMAS = Path(__file__).with_name("schemas")
OWNERS = ("auth", "gateway", "registry", "scheduler", "worker")


def all_messages() -> dict[str, type[BaseModel]]:
    for module in pkgutil.walk_packages(contracts.__path__, f"{contracts.__name__}."):
        importlib.import_module(module.name)
    found: dict[str, type[BaseModel]] = {}
    pending: list[type[Message]] = [Query, Command, Event]
    while pending:
        for message in pending.pop().__subclasses__():
            pending.append(message)
            if "[" not in message.__name__ and message.owner in OWNERS:
                found[message.wire_name] = message
    return found


def schema_of(message: type[BaseModel]) -> dict[str, Any]:
    schema = {"message": message.model_json_schema()}
    if issubclass(message, Query):
        schema["reply"] = message.reply_adapter().json_schema()
    return schema


SUBJECTS: dict[str, dict[str, Any]] = {name: schema_of(message) for name, message in all_messages().items()}
SUBJECTS["tokens.Frame"] = {"message": msgspec.json.schema(Frame)}


@pytest.mark.parametrize("name", sorted(SUBJECTS))
def test_the_wire_format_is_as_agreed(name: str) -> None:
    path = SCHEMAS / f"{name}.json"
    current = json.loads(json.dumps(SUBJECTS[name]))
    if os.environ.get("UPDATE_CONTRACTS"):
        path.write_text(json.dumps(current, indent=1, sort_keys=True) + "\n")
    assert path.exists(), "a new message: run `make contracts` and commit the snapshot"
    assert json.loads(path.read_text()) == current, (
        "changed: if additive, run `make contracts`; if not, make a new message"
    )


def test_no_snapshot_is_left_of_a_message_that_is_gone() -> None:
    assert {path.stem for path in SCHEMAS.glob("*.json")} == set(SUBJECTS)


@pytest.mark.parametrize("name", sorted(SUBJECTS))
def test_messages_accept_fields_they_do_not_know(name: str) -> None:
    """Readers are tolerant: an older one accepts what a newer one sends."""
    assert '"additionalProperties": false' not in json.dumps(SUBJECTS[name])
