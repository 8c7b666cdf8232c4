"""What work took: seconds and peaks, of blocks that stand inside one another."""

import subprocess
import sys
import time

import pytest

from dsmoe.usage import measured

BLOCKS = """
import json, sys
from dsmoe.usage import measured

MIB = 2**20
def take(mib):
    return len(bytearray(b"x" * (mib * MIB)))  # twice that at the peak, all touched

take(200)
with measured() as outer:
    take(20)
    with measured() as inner:
        take(80)
    with measured() as later:
        take(5)
print(json.dumps([usage.to_json() for usage in (outer, inner, later)]))
"""


def test_seconds_of_its_own_leave_out_what_stands_inside() -> None:
    with measured() as outer:
        with measured() as inner:
            time.sleep(0.2)
            first = inner.to_json()
        with measured() as later:
            time.sleep(0.1)
            second = later.to_json()
        taken = outer.to_json()
    assert first["own_seconds"] == first["seconds"] >= 0.2
    assert taken["own_seconds"] == pytest.approx(taken["seconds"] - first["seconds"] - second["seconds"], abs=0.1)


def test_an_error_ends_a_block() -> None:
    with measured() as outer:
        with pytest.raises(RuntimeError), measured():
            time.sleep(0.1)
            raise RuntimeError
        assert outer.to_json()["own_seconds"] <= outer.to_json()["seconds"] - 0.1 + 0.001


def test_a_peak_is_that_of_the_block_not_of_the_process() -> None:
    import json

    done = subprocess.run([sys.executable, "-c", BLOCKS], capture_output=True, text=True, check=True)
    outer, inner, later = json.loads(done.stdout)
    if "process_peak_host_bytes" in outer:
        pytest.skip("the kernel does not let a process count its peak anew")
    mib = 2**20
    assert 160 * mib <= inner["peak_host_bytes"] < 300 * mib
    assert outer["peak_host_bytes"] == inner["peak_host_bytes"]
    assert later["peak_host_bytes"] < inner["peak_host_bytes"] - 100 * mib
    assert "peak_gpu_bytes" not in outer
