"""Charges what requests take to the accounts of fair sharing: their prompt at the grant, then tokens as they are made.

Pure. What was charged is put right once, when a request ends: each request costs what it took, whoever granted it.
"""

from dataclasses import dataclass
from typing import Final, cast

import msgspec
from cachetools import LRUCache

from libs.common.contracts.inference import Priority
from libs.common.contracts.scheduler.inference import RequestInference
from libs.common.contracts.worker import InferenceFinished
from services.scheduler.accounts import LEAST_COST, Account, cost_of

MOST_ENDED: Final = 100_000
GRACE_SECONDS: Final = 60.0

Classes = dict[Priority, Account]


def flow_name(request: RequestInference | InferenceFinished) -> str:
    """Who shares what an organization gets."""
    return request.key_id or request.user_id or ""


@dataclass(slots=True)
class Meter:
    flow: Account
    prompt_tokens: int
    completion_tokens: int
    charged: float
    forget_at: float
    """Its end was never heard."""


class SavedAccount(msgspec.Struct, array_like=True, frozen=True):
    counter: float
    weight: float
    last_left: str | None
    children: dict[str, "SavedAccount"]


class SavedMeter(msgspec.Struct, array_like=True, frozen=True):
    path: tuple[Priority, str, str]
    prompt_tokens: int
    completion_tokens: int
    charged: float
    forget_at: float


class Saved(msgspec.Struct, array_like=True, frozen=True):
    """The accounts as another scheduler may go on with them."""

    classes: dict[Priority, SavedAccount]
    meters: dict[str, SavedMeter]


class Meters:
    """Times are seconds since the epoch, handed in."""

    def __init__(self, classes: Classes) -> None:
        self._classes = classes
        self._meters: dict[str, Meter] = {}
        self._ended: LRUCache[str, float] = LRUCache(MOST_ENDED)
        """What each cost."""

        self.changed = False
        """Since somebody set it back."""

    def start(self, request_id: str, flow: Account, prompt_tokens: int, deadline: float) -> None:
        """At a grant. What was granted before has paid for its prompt."""
        if request_id in self._meters:
            return
        self._open(request_id, Meter(flow, prompt_tokens, 0, 0.0, deadline + GRACE_SECONDS))
        self._charge(self._meters[request_id], max(LEAST_COST, cost_of(prompt_tokens, 0)))

    def progress(self, request_id: str, prompt_tokens: int, completion_tokens: int) -> None:
        """As its worker tells while it runs: what it has done so far."""
        meter = self._meters.get(request_id)
        if meter is None:
            return
        meter.prompt_tokens = max(meter.prompt_tokens, prompt_tokens)
        meter.completion_tokens = max(meter.completion_tokens, completion_tokens)
        cost = cost_of(meter.prompt_tokens, meter.completion_tokens)
        if cost > meter.charged:
            self._charge(meter, cost)

    def end(self, end: InferenceFinished) -> None:
        """Exactly what it took. Of ends that no worker tells nobody knows the prompt: it stays as charged."""
        if end.request_id in self._ended:
            return
        meter = self._meters.get(end.request_id)
        prompt_tokens = end.prompt_tokens if end.worker_id or meter is None else meter.prompt_tokens
        cost = self._ended[end.request_id] = max(LEAST_COST, cost_of(prompt_tokens, end.completion_tokens))
        if meter is None:
            if not end.granted_at:
                return
            # The scheduler that granted it died before it could save that.
            flow = self._classes["interactive"].child(end.organization_id).child(flow_name(end))
            meter = Meter(flow, 0, 0, 0.0, end.finished_at)
            self._open(end.request_id, meter)
        self._charge(meter, cost)
        self._close(end.request_id)

    def forget(self, now: float) -> None:
        """What should have ended long ago, and the accounts that nothing was heard of since the last call."""
        for request_id in [name for name, meter in self._meters.items() if meter.forget_at < now]:
            self._close(request_id)
        for root in self._classes.values():
            root.forget_idle()

    def save(self) -> Saved:
        classes = {priority: _save(root) for priority, root in self._classes.items()}
        return Saved(classes, {request_id: _save_meter(meter) for request_id, meter in self._meters.items()})

    def load(self, saved: Saved) -> None:
        """In place of what is known here. Those that wait keep their places; what has ended since is put right."""
        for request_id in list(self._meters):
            self._close(request_id)
        for priority, root in self._classes.items():
            if priority in saved.classes:
                _load(root, saved.classes[priority])
        for request_id, meter in saved.meters.items():
            priority, organization, flow = meter.path
            account = self._classes[priority].child(organization).child(flow)
            self._open(
                request_id,
                Meter(account, meter.prompt_tokens, meter.completion_tokens, meter.charged, meter.forget_at),
            )
            if (cost := self._ended.get(request_id)) is not None:
                self._charge(self._meters[request_id], cost)
                self._close(request_id)
        self.changed = False

    def _open(self, request_id: str, meter: Meter) -> None:
        self._meters[request_id] = meter
        for account in _chargeable(meter.flow):
            account.metered += 1

    def _close(self, request_id: str) -> None:
        for account in _chargeable(self._meters.pop(request_id).flow):
            account.metered -= 1

    def _charge(self, meter: Meter, cost: float) -> None:
        for account in _chargeable(meter.flow):
            account.charge(cost - meter.charged)
        meter.charged = cost
        self.changed = True


def _chargeable(flow: Account) -> tuple[Account, Account]:
    assert flow.parent is not None
    return flow.parent, flow


def _save(account: Account) -> SavedAccount:
    children = {name: _save(child) for name, child in account.children.items()}
    return SavedAccount(account.counter, account.weight, account.last_left, children)


def _save_meter(meter: Meter) -> SavedMeter:
    organization, flow = _chargeable(meter.flow)
    assert organization.parent is not None
    path = (cast(Priority, organization.parent.name), organization.name, flow.name)
    return SavedMeter(path, meter.prompt_tokens, meter.completion_tokens, meter.charged, meter.forget_at)


def _load(account: Account, saved: SavedAccount) -> None:
    account.set(saved.counter)
    account.weight, account.last_left = saved.weight, saved.last_left
    for name in account.children.keys() - saved.children.keys():
        if not account.children[name].waiting:
            del account.children[name]
    for name, child in saved.children.items():
        _load(account.child(name), child)
