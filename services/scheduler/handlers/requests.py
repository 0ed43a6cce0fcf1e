"""Requests as people look at them, who waits, and how it all goes."""

from libs.common import actor
from libs.common.bus.base import Handlers
from libs.common.contracts.auth.organizations import OrganizationDeleted
from libs.common.contracts.paging import Page
from libs.common.contracts.scheduler.queue import GetQueue, GetStats, QueueState, SystemStats
from libs.common.contracts.scheduler.requests import (
    GetRequest,
    ListRequests,
    RequestDetails,
    RequestSummary,
    StoreExchange,
)
from services.scheduler import exchanges, queue, requests, stats
from services.scheduler.context import Context

handlers = Handlers("scheduler")


@handlers.on(ListRequests)
async def list_requests(query: ListRequests, ctx: Context) -> Page[RequestSummary]:
    return await requests.list_requests(ctx, query)


@handlers.on(GetRequest)
async def get_request(query: GetRequest, ctx: Context) -> RequestDetails:
    return await requests.get(ctx, query)


@handlers.on(StoreExchange)
async def store_exchange(command: StoreExchange, ctx: Context) -> None:
    await exchanges.keep(ctx, command)


@handlers.on(OrganizationDeleted)
async def organization_deleted(event: OrganizationDeleted, ctx: Context) -> None:
    await exchanges.forget_organization(ctx, event.organization_id)


@handlers.on(GetQueue)
async def get_queue(query: GetQueue, ctx: Context) -> QueueState:
    return await queue.state(ctx, query.organization_id, actor.current().organization_id, query.user_id)


@handlers.on(GetStats)
async def get_stats(query: GetStats, ctx: Context) -> SystemStats:
    return await stats.over(ctx, query.window_seconds)
