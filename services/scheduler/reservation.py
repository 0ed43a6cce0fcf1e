"""Who must run alone gets a worker that is let run empty for it: on a fleet that is never idle it would wait for ever.

One worker at a time, however many must run alone: most of the fleet goes on as if nothing were.
"""

from services.scheduler import facts, placement
from services.scheduler.breaker import Breaker
from services.scheduler.fleet import Fleet, Worker
from services.scheduler.waiting import Waiting, WaitingSet


class Reservation:
    def __init__(self) -> None:
        self._worker: Worker | None = None
        self._request_id = ""

    def make(self, waiting: Waiting, fleet: Fleet, breaker: Breaker) -> None:
        """For one that found no worker now, unless another one has it: the least busy of those that could run it."""
        if self._worker is not None:
            return
        asked = facts.of_request(waiting.request, fleet, alone=True)
        known = [(facts.of_worker(waiting.request, worker, asked, fleet, breaker=breaker), worker) for worker in fleet]
        able = [(each.failed, each.granted, worker.id) for each, worker in known if placement.is_able(asked, each)]
        if able:
            self._worker, self._request_id = fleet[min(able)[2]], waiting.request.request_id
            fleet.reserve(self._worker, self._request_id)

    def review(self, waiting: WaitingSet, fleet: Fleet) -> None:
        """It ends when nobody waits for it any more, or its worker takes no work: another one is chosen then."""
        worker = self._worker
        if worker is None:
            return
        here = fleet.get(worker.id) is worker and worker.takes_work
        if not here or self._request_id not in waiting:
            fleet.reserve(worker, None)
            self._worker = None
