"""What can go wrong for a person who sets the suite up."""


class SetupError(Exception):
    """One line that says what is wrong and what to do about it."""
