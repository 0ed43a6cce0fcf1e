"""How long a context a model is loaded with. Pure; why it is so: docs/decisions/0006."""

from dataclasses import dataclass

from libs.common.contracts.inference import ModelRef


@dataclass(frozen=True)
class ContextPolicy:
    """Lengths in tokens, per slot."""

    default: int
    largest: int

    def length(self, model: ModelRef, num_ctx: int) -> int:
        """What must be loaded for a request that asks for ``num_ctx`` (0: it does not say).

        The default, or the next power of two, so that a model which only ever grows does so a few times at most.
        Monotonic: whatever it is loaded with serves every request that asks for no more.
        """
        most = min(self.largest, model.context_length or self.largest)
        if model.weights is None:
            return most  # nothing of ours is allocated for it, so there is nothing to save and no reason to reload
        return min(self.default if num_ctx <= self.default else _power_of_two(num_ctx), most)


def _power_of_two(tokens: int) -> int:
    """The smallest that is not less."""
    return 1 << (tokens - 1).bit_length()
