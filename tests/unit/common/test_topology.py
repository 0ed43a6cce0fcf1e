"""Names and arguments of queues, as they follow from contracts and handlers."""

from typing import Any

import pytest

from libs.common.bus.base import Ack, Handlers
from libs.common.bus.topology import COMMANDS, DEAD, EVENTS, QUERIES, Listener, command_key, listeners, retry_queue
from libs.common.contracts.auth.identity import IdentityChanged, VerifyKey
from libs.common.contracts.message import Command, Message
from libs.common.contracts.scheduler.inference import RequestInference
from libs.common.contracts.worker import InferenceFinished, RunInference


class Homeless(Command):
    to_instance = True


def the_listener(service: str, message: type[Message], **options: Any) -> Listener:
    handlers = Handlers(service)
    handlers.on(message, **options)(_handler)
    (listener,) = listeners(handlers, "i1")
    return listener


async def _handler(*_: object) -> None: ...


def test_a_query_is_shared_by_the_replicas_of_its_owner() -> None:
    queue = the_listener("auth", VerifyKey).queue
    assert (queue.name, queue.exchange, queue.routing_key) == ("auth.VerifyKey", QUERIES, "auth.VerifyKey")
    assert queue.arguments["x-queue-type"] == "classic"
    assert queue.arguments["x-message-ttl"] > 0


def test_a_command_waits_in_a_quorum_queue_that_never_drops() -> None:
    queue = the_listener("scheduler", RequestInference).queue
    assert (queue.name, queue.exchange) == ("scheduler.RequestInference", COMMANDS)
    assert queue.arguments["x-queue-type"] == "quorum"
    assert queue.arguments["x-delivery-limit"] == 100
    assert queue.arguments["x-dead-letter-exchange"] == DEAD
    assert "x-single-active-consumer" not in queue.arguments


def test_single_active_is_a_property_of_the_queue() -> None:
    queue = the_listener("scheduler", RequestInference, single_active=True).queue
    assert queue.arguments["x-single-active-consumer"] is True


def test_an_instances_command_returns_to_whoever_gave_it() -> None:
    queue = the_listener("worker", RunInference).queue
    assert (queue.name, queue.exchange, queue.returns) == ("worker.i1.RunInference", COMMANDS, True)
    assert queue.arguments["x-message-ttl"] == 500
    assert queue.arguments["x-dead-letter-exchange"] == COMMANDS
    assert queue.arguments["x-dead-letter-routing-key"] == "scheduler.RequestInference"


def test_a_returned_command_shares_the_queue_it_returns_to() -> None:
    handlers = Handlers("scheduler")
    handlers.on(RunInference, ack=Ack.MANUAL)(_handler)
    handlers.on(RequestInference, ack=Ack.MANUAL, prefetch=500)(_handler)
    (listener,) = listeners(handlers, "i1")
    assert listener.queue.name == "scheduler.RequestInference"
    assert listener.prefetch == 500
    assert set(listener.routes) == {"scheduler.RequestInference", "worker.RunInference"}


def test_an_event_is_pooled_or_for_every_replica() -> None:
    pooled = the_listener("auth", InferenceFinished).queue
    assert (pooled.name, pooled.exchange, pooled.exclusive) == ("auth.worker.InferenceFinished", EVENTS, False)
    assert pooled.routing_key == "worker.InferenceFinished"
    own = the_listener("gateway", IdentityChanged, every_replica=True).queue
    assert (own.name, own.routing_key, own.exclusive) == (
        "gateway.i1.auth.IdentityChanged",
        "auth.IdentityChanged",
        True,
    )


def test_a_retry_comes_back_through_the_default_exchange() -> None:
    queue = retry_queue(1.5)
    assert queue.name == queue.exchange == "retry.1500ms"
    assert queue.arguments["x-message-ttl"] == 1500
    assert queue.arguments["x-dead-letter-exchange"] == ""


def test_a_command_is_addressed_as_its_contract_says() -> None:
    assert command_key(RequestInference) == "scheduler.RequestInference"
    assert command_key(RunInference, "w7") == "worker.w7.RunInference"
    with pytest.raises(ValueError, match="not addressed"):
        command_key(RequestInference, "w7")
    with pytest.raises(ValueError, match="addressed"):
        command_key(RunInference)


@pytest.mark.parametrize(
    ("service", "messages", "why"),
    [
        ("gateway", [VerifyKey], "belongs to auth"),
        ("scheduler", [RunInference], "has no handler here"),
        ("auth", [VerifyKey, VerifyKey], "twice"),
        ("test_topology", [Homeless], "must say where"),
    ],
)
def test_handlers_that_cannot_be_right_are_refused(service: str, messages: list[type[Message]], why: str) -> None:
    handlers = Handlers(service)
    for message in messages:
        handlers.on(message)(_handler)
    with pytest.raises(ValueError, match=why):
        listeners(handlers, "i1")
