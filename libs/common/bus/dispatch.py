"""What happens to a delivery: parse, call the handler, then answer, acknowledge, retry later or bury."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NoReturn

import structlog
from opentelemetry.trace import Span
from pydantic import ValidationError

from libs.common.bus.base import Ack, Subscription
from libs.common.bus.envelope import ATTEMPT, ERROR, FAILED, QUEUE, REASON, Envelope
from libs.common.bus.metrics import dead_letters_total, messages_total
from libs.common.bus.topology import DEAD, Listener, retry_queue
from libs.common.bus.transport import Incoming, Transport
