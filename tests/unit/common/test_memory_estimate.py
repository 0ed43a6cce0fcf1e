"""The one formula of what a model takes."""

from libs.common.memory_estimate import WORKING_BYTES, bytes_needed


def test_weights_and_the_context_of_every_slot_are_counted() -> None:
    assert bytes_needed(1000, 10, context_length=50, slots=4) == 1000 + 10 * 50 * 4 + WORKING_BYTES


def test_a_model_without_weights_of_ours_takes_nothing() -> None:
    assert bytes_needed(0, 0, context_length=32768, slots=16) == 0
