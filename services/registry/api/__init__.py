"""The registry's doors for HTTP, for workers and gateways: the bytes that are too many for the bus."""

from fastapi import APIRouter

from services.registry.api import blobs, v2

router = APIRouter()
router.include_router(blobs.router)
router.include_router(v2.router)
