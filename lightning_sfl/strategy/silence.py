"""Running a training step without what it logs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn

_NAMES = ("log", "log_dict")


@contextmanager
def silent(module: nn.Module) -> Iterator[Callable[[], None]]:
    """Let a module log nothing, until what this context gives is called, or it ends."""
    own = {name: vars(module)[name] for name in _NAMES if name in vars(module)}

    def speak() -> None:
        for name in _NAMES:
            vars(module).pop(name, None)
        vars(module).update(own)

    vars(module).update(dict.fromkeys(_NAMES, _log_nowhere))
    try:
        yield speak
    finally:
        speak()


def _log_nowhere(*_args: object, **_kwargs: object) -> None:
    """In place of `self.log`."""
