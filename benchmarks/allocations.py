"""Counting what tensors take on the CPU: every allocation and release that torch makes while something runs."""

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def peak_tensor_byte(run: Callable[[], object]) -> int:
    """The most bytes that tensors made during ``run`` held at one time; what was there before does not count.

    The size of the process would be of no use: the interpreter and torch alone take most of it.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    assert recorded.profiler is not None
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
