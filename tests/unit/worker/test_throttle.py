import asyncio

from services.worker.blobs.throttle import Throttle


async def test_who_comes_later_waits_for_what_was_taken() -> None:
    throttle = Throttle(1000)
    await throttle.take(60_000)
    assert 50 < throttle.backlog_seconds <= 60
    waiting = asyncio.create_task(throttle.take(1000))
    done, _ = await asyncio.wait({waiting}, timeout=0.05)
    assert not done
    waiting.cancel()


async def test_the_rate_holds_for_all_together() -> None:
    throttle, loop = Throttle(1_000_000), asyncio.get_running_loop()
    began = loop.time()
    await asyncio.gather(*(throttle.take(50_000) for _ in range(5)))
    assert loop.time() - began >= 0.2


async def test_without_a_bound_nobody_waits() -> None:
    throttle = Throttle(0)
    await throttle.take(10**12)
    assert throttle.backlog_seconds == 0
    await throttle.take(1)
