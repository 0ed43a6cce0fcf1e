"""One request is one trace."""

import secrets
from itertools import pairwise

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
    async with httpx.AsyncClient(timeout=60) as http:
        response = await http.post(
            f"{suite.url}/api/generate",
            json={"model": "echo", "prompt": "trace me", "stream": False},
            headers={"traceparent": f"00-{trace_id}-{callers_span}-01"},
        )
    assert response.status_code == 200

    async def is_one_trace() -> bool:
        # Every process exports on its own clock; the span around another one ends, and is exported, after it.
        by_id = {span.span_id: span for span in otlp[1].trace(trace_id)}
        named = {span.name: span for span in by_id.values()}
        root = next((span for span in by_id.values() if span.parent_id == callers_span), None)
        if root is None or not named.keys() >= {"scheduler.grant", "worker.inference", "worker.generate"}:
            return False
        chain = (root, *(named[name] for name in ("scheduler.grant", "worker.inference", "worker.generate")))
        below = (is_below(span, ancestor, by_id) for ancestor, span in pairwise(chain))
        return root.service == "ollamamax-gateway" and all(below)

    await eventually(is_one_trace, "the worker's spans are below the scheduler's, and that below the gateway's")
