"""How long the load of a model takes: as last seen anywhere, or by its size. Pure."""

from typing import TYPE_CHECKING, Final

from cachetools import LRUCache

from libs.common.contracts.inference import ModelRef
from libs.common.contracts.worker import WorkerHeartbeat

if TYPE_CHECKING:
    from services.scheduler.fleet import Worker

START_SECONDS: Final = 1.0
BYTES_PER_SECOND: Final = 200_000_000


class Loads:
    def __init__(self) -> None:
        self._seconds: LRUCache[str, float] = LRUCache(maxsize=1000)

    def learn(self, worker: "Worker", heartbeat: WorkerHeartbeat, now: float) -> None:
        """A model that is in memory now and was not before: since the first grant that waited for it."""
        for loaded in heartbeat.loaded:
            if loaded.runner not in worker.loaded and (grants := worker.own_grants(loaded.runner)):
                self._seconds[loaded.runner] = now - min(grant.granted_at for grant in grants)

    def seconds(self, model: ModelRef) -> float:
        if model.weights is None:
            return 0.0
        return self._seconds.get(model.runner, START_SECONDS + model.size / BYTES_PER_SECOND)
