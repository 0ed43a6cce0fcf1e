"""The bus on RabbitMQ.

Everything that belongs to a connection lives in one ``_Session``, built by one function. When any part of it is
lost, all of it is closed and a new one is built: there is no half-restored state. We stand on aiormq, the protocol
layer of aio-pika, because it costs a third less CPU per message (docs/decisions/0002).
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import aiormq
import structlog
from aiormq.abc import AbstractChannel, DeliveredMessage
from aiormq.exceptions import AMQPError, DeliveryError, PublishError
from pamqp.commands import Basic
from pamqp.exceptions import PAMQPException
from yarl import URL

from libs.common.bus.core import MessageBus
from libs.common.bus.envelope import Envelope
from libs.common.bus.topology import (
    DEAD,
    DEFAULT,
    EXCHANGES,
    RETRY_DELAYS_SECONDS,
    Listener,
    Queue,
    dead_queue,
    retry_queue,
)
from libs.common.bus.transport import OnDelivery
from libs.common.errors import Unavailable
from libs.common.settings import RabbitSettings

log = structlog.get_logger(__name__)

CONNECT_SECONDS: Final = 10.0
FIRST_CONNECT_SECONDS: Final = 30.0
RECONNECT_PAUSE_SECONDS: Final = 0.5
PUBLISH_SECONDS: Final = 5.0
SETTLE_SECONDS: Final = 5.0

REPLY_TO: Final = "amq.rabbitmq.reply-to"
"""Direct reply-to: a pseudo queue that belongs to the channel that asks; nothing to declare, nothing to clean up."""
