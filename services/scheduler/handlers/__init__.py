"""The scheduler's doors on the bus, one module for each resource."""

from libs.common.bus.base import Handlers
from services.scheduler.handlers import inference, journal, nodes, privacy, requests

handlers = Handlers.joined(
    "scheduler", inference.handlers, journal.handlers, requests.handlers, nodes.handlers, privacy.handlers
)
