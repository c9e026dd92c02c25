"""What can be wrong with a cut."""


class CutError(ValueError):
    """A cut that cannot be made: the message names the cut, why, and what would be accepted."""
