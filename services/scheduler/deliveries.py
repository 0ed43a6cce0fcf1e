"""A request may come more than once: one of its deliveries is kept unanswered, the others are let go."""

from libs.common.bus.base import Delivery
from services.scheduler.context import Context
from services.scheduler.waiting import Waiting


def hold(ctx: Context, known: Waiting, delivery: Delivery) -> None:
    """After a lost connection the new delivery is the one that counts; to answer the old one then does nothing."""
    old, known.delivery = known.delivery, delivery
    known.unsure |= delivery.redelivered  # another scheduler may have had it in between
    if old is not None:
        ctx.tasks.start(old.ack(), "ack a duplicate")


def put_back(ctx: Context, waiting: Waiting, *, preempted: bool = False) -> None:
    """Among those that wait, instead of whatever waits there for the same request, having come back another way."""
    other = ctx.waiting.get(waiting.request.request_id)
    if other is not None:
        if waiting.delivery is None:
            waiting.delivery = other.delivery
        else:
            ctx.tasks.start(other.ack(), "ack a duplicate")
    ctx.waiting.put_back(waiting, preempted=preempted)
    ctx.wake.set()
