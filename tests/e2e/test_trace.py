"""One request is one trace."""

import secrets

import httpx
import pytest

from tests.fixtures.otlp import Collector, ReceivedSpan
from tests.fixtures.suite import Suite, eventually

pytestmark = pytest.mark.e2e


def is_below(span: ReceivedSpan, ancestor: ReceivedSpan, spans: dict[str, ReceivedSpan]) -> bool:
    while span.span_id != ancestor.span_id:
        if span.parent_id not in spans:
            return False
        span = spans[span.parent_id]
    return True


async def test_gateway_scheduler_and_worker_share_one_trace(suite: Suite, otlp: tuple[str, Collector]) -> None:
    trace_id, callers_span = secrets.token_hex(16), secrets.token_hex(8)
    async with httpx.AsyncClient() as http:
        response = await http.post(
            f"{suite.url}/api/generate",
            json={"model": "echo", "prompt": "trace me", "stream": False},
            headers={"traceparent": f"00-{trace_id}-{callers_span}-01"},
        )
    assert response.status_code == 200
    wanted = {"ollamamax-gateway", "ollamamax-scheduler", "ollamamax-worker"}

    async def complete() -> bool:
        spans = otlp[1].trace(trace_id)
        return {span.service for span in spans} >= wanted and any(span.name == "worker.inference" for span in spans)

    await eventually(complete, "spans of gateway, scheduler and worker")
    by_id = {span.span_id: span for span in otlp[1].trace(trace_id)}
    named = {span.name: span for span in by_id.values()}
    root = next(span for span in by_id.values() if span.parent_id == callers_span)
    assert root.service == "ollamamax-gateway"
    assert is_below(named["scheduler.grant"], root, by_id)
    assert is_below(named["worker.inference"], named["scheduler.grant"], by_id)
    assert is_below(named["worker.generate"], named["worker.inference"], by_id)
