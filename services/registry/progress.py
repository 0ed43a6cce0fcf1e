"""How long work tells how far it is."""

from collections.abc import Callable

from libs.common.contracts.registry import Progress

Report = Callable[[Progress], None]
"""Never waits: what comes too quickly is told together, the latest of each layer."""
