"""What becomes known of one grant while this process runs it."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from libs.common.contracts.scheduler.inference import RequestInference
from libs.common.contracts.tokens import Frame, StreamEnd, Usage
from libs.common.contracts.worker import RunInference
from services.worker.engines.base import Spent

PROGRESS_SECONDS: Final = 1.0
"""An attempt gets on for so long before it may be preempted."""

Stage = Literal["opening", "producing", "ending"]

Stop = Literal["cancelled", "preempted", "drained"]


@dataclass(eq=False)
class Attempt:
    run: RunInference
    stage: Stage = "opening"
    """``opening``: its log; ``ending``: the answer is complete, or given up, and only that has to be told."""

    stopped: Stop | None = None
    """Why it does not come to its own end."""

    began_at: float = field(default_factory=time.time)
    first_token_at: float | None = None
    """The first that no earlier attempt had made."""

    history: Sequence[Frame] = ()
    earlier_tokens: int = 0
    """In the history."""

    load_ns: int = 0
    spent: Spent = field(default_factory=Spent)
    end: StreamEnd = field(default_factory=StreamEnd)
    job: "asyncio.Task[None]" = field(init=False, repr=False)

    @property
    def request(self) -> RequestInference:
        return self.run.request

    def go_on_after(self, history: Sequence[Frame]) -> None:
        self.history = history
        self.earlier_tokens = sum(frame.least_tokens for frame in history)

    def usage_so_far(self) -> Usage:
        """For an attempt that does not come to its end: what was made is paid for, once over all attempts."""
        return Usage(self.spent.prompt_tokens, max(self.earlier_tokens, self.spent.completion_tokens), self.load_ns)

    def preemptible(self, now: float) -> bool:
        """It has made new tokens for as long as it took to come to the first: no slot is wasted on coming back."""
        if self.stage != "producing" or self.first_token_at is None:
            return False
        return now - self.first_token_at >= max(PROGRESS_SECONDS, self.first_token_at - self.began_at)

    def stop(self, why: Stop) -> None:
        """End what is produced. Before, there is no log yet to end: it looks for itself; after, it has ended."""
        if self.stopped is None:
            self.stopped = why
            if self.stage == "producing":
                self.job.cancel()
