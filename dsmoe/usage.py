"""What work has on this machine and what it takes: processors; seconds, and the most memory that its process had."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

RESET_PEAK = "5"
"""What, written to clear_refs, has the kernel count the peak of this process anew (proc(5))."""


def processors() -> int:
    """How many of this machine's the process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Usage:
    """What a block of work has taken so far.

    `seconds` and the peaks are of all that is done within it; `own_seconds` leaves out measured work inside.
    """

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._inside = 0.0
        self._host = self._gpu = 0
        self._of_process = False

    @property
    def seconds(self) -> float:
        """Seconds since the work began."""
        return time.monotonic() - self._started

    def to_json(self) -> dict[str, float | int]:
        """Seconds and bytes.

        `peak_host_bytes` is the largest resident set of the process during the work. Where the kernel does not let a
        process count that anew it is `process_peak_host_bytes`, the peak since the process began. `peak_gpu_bytes` is
        what torch had allocated at most, on all GPUs together; it is there where torch uses one.
        """
        _note_peaks()
        seconds = self.seconds
        found: dict[str, float | int] = {
            "seconds": round(seconds, 3),
            "own_seconds": round(max(seconds - self._inside, 0.0), 3),
            "process_peak_host_bytes" if self._of_process else "peak_host_bytes": self._host,
        }
        return {**found, "peak_gpu_bytes": self._gpu} if self._gpu else found


_open: list[Usage] = []
"""Work that goes on now, the outermost first."""


@contextmanager
def measured() -> Iterator[Usage]:
    """Measure the block; blocks may stand inside one another."""
    _note_peaks()
    reset = _reset_peaks()
    usage = Usage()
    usage._of_process = not reset
    _open.append(usage)
    try:
        yield usage
    finally:
        _note_peaks()
        _open.remove(usage)
        if _open:
            _open[-1]._inside += usage.seconds


def _note_peaks() -> None:
    """Let all that goes on know of the peaks since they were last counted anew, which an inner block does."""
    host, cuda = _host_peak(), _used_cuda()
    gpu = sum(cuda.max_memory_allocated(number) for number in range(cuda.device_count())) if cuda else 0
    for usage in _open:
        usage._host, usage._gpu = max(usage._host, host), max(usage._gpu, gpu)


def _host_peak() -> int:
    """Bytes of the largest resident set of this process since that was last counted anew."""
    import resource

    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):  # Not on Linux, or in a sandbox that shows less.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _reset_peaks() -> bool:
    """Count peaks anew from here; whether the kernel does so for the host's."""
    if cuda := _used_cuda():
        for number in range(cuda.device_count()):
            cuda.reset_peak_memory_stats(number)
    try:
        Path("/proc/self/clear_refs").write_text(RESET_PEAK, encoding="ascii")
    except OSError:
        return False
    return True


def _used_cuda() -> Any:
    """torch.cuda where it is in use: whoever has not loaded torch does not pay for it here."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None
