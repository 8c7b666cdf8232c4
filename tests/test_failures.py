"""What a cluster brings, on a real Slurm: cells that fail, each in a way of its own; disks that fill up or close."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest
from slurm_stub import submitted
from test_compare import BRIEF
from test_disk import mount, read_only, unmount
from test_slurm import WAIT, Run, _slurm, outcomes, run, seen, settle, until  # noqa: F401 (fixtures)

from dsmoe.cell import Cell
from dsmoe.cli import main
from dsmoe.compose import compose_cells
from dsmoe.launch.survey import BROKEN
from dsmoe.models.fit import job_node

pytestmark = pytest.mark.slurm

SMALL = (*BRIEF, "model.pretrain.steps=5", "sft.epochs=2", "benchmark.limit=12", "benchmark.non_target=[]")
SLURM = ("hydra/launcher=slurm", "cluster.time_minutes=60")
ONE = ("compare", "domain=chemistry", *SMALL)
TOO_LARGE = "model.pretrain.expert_size=2000000"


def test_three_failures_are_three_paragraphs_and_the_other_cells_are_done(tmp_path: Path, run: Run) -> None:  # noqa: F811
    """One cell's node has no GPU, one wants more memory than it may take, one finds half a folder in its place."""
    base = ("methods=[base]", *SMALL)
    assert run(tmp_path, "compare", *base, *SLURM, "cluster.gpus=1", "cluster.gpu_memory_gb=80")[0] == 0
    (no_gpu,) = seen(tmp_path)
    half, large = (
        Cell(one.config, job_node(one.config))
        for domain in ("biology", "chemistry")
        for one in compose_cells([*base, f"domain={domain}", TOO_LARGE, f"paths.results={tmp_path}"])
    )
    half.folder.mkdir()
    (half.folder / "samples.parquet").touch()
    sweep = ("domain=chemistry,biology", f"{TOO_LARGE},32", "cluster.setup=[ulimit -v 12000000]", "cluster.retries=2")
    status, out, _ = run(tmp_path, "compare", "-m", *base, *sweep, *SLURM, WAIT)
    assert (status, out.count("results: "), len(outcomes(tmp_path))) == (1, 2, 2)
    assert len(submitted(tmp_path / "default")) == 2  # what would fail again is not tried again
    settle(tmp_path)
    status, out, _ = run(tmp_path, "status")
    table, *paragraphs = out.split("\n\n")
    assert (status, table.partition("\n")[0]) == (1, f"{tmp_path / 'default'}: 2 finished, 3 failed")
    said = {paragraph.split()[1]: paragraph for paragraph in paragraphs}
    for cell, words in (
        (no_gpu, ("it was submitted for cuda, but torch sees cpu on localhost; ", "again, alone: dsmoe compare 'meth")),
        (
            large.id,
            ("DefaultCPUAllocator: can't allocate memory: you tried to allocate", ": cluster.memory_gb=420 would"),
        ),
        (half.id, ("is there but not whole", "again, alone: dsmoe compare 'methods=[base]'")),
    ):
        paragraph = said.pop(cell)
        assert all(word in paragraph for word in words), paragraph
        assert f"  log: {seen(tmp_path)[cell].log}\n" in paragraph
    assert not said


@contextmanager
def of_size(results: Path, kilobytes: int) -> Iterator[None]:
    """A disk of its own for the results."""
    results.mkdir()
    mount("-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", results)
    try:
        yield
    finally:
        unmount(results)


@contextmanager
def crammed(results: Path) -> Iterator[None]:
    """Meanwhile, whatever room there is on the disk is taken at once, though it be given back again and again."""
    end = Event()

    def cram() -> None:
        with (results / ".filler").open("wb", buffering=0) as file:
            while not end.is_set():
                try:
                    file.write(b"0" * 4096)
                except OSError:
                    time.sleep(0.001)

    thread = Thread(target=cram)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()
        (results / ".filler").unlink()


def test_on_disks_that_fill_up_or_close_no_cell_runs_for_ever(tmp_path: Path, run: Run) -> None:  # noqa: F811
    """One disk is too small, on one somebody else takes all that is left, one goes read-only; side by side."""
    calm = tmp_path / "calm"
    assert main([*ONE, f"paths.results={calm}"]) == 0
    small, full, closed = disks = [tmp_path / name for name in ("small", "full", "closed")]
    with of_size(small, 1300), of_size(full, 8000), of_size(closed, 8000):
        for disk in disks:
            assert run(disk, *ONE, *SLURM)[0] == 0
        happens: dict[Path, Callable[[Path], AbstractContextManager[None]]] = {full: crammed, closed: read_only}
        with ExitStack() as happening:

            def has_happened() -> bool:
                for disk in list(happens):
                    if list(disk.glob("stages/fine_tune/.*.partial")):
                        happening.enter_context(happens.pop(disk)(disk))
                return not happens

            until("a cell is being fine-tuned", has_happened)
            found = {disk: cell for disk in disks for cell in settle(disk).values()}
            for disk in disks:
                status, out, _ = run(disk, "status")
                assert (status, found[disk].condition in BROKEN) == (1, True)
                assert found[disk].error in out
                assert outcomes(disk) == {}
            assert "no space left on device" in found[small].error
            assert f"nothing can be written to {closed}" in found[closed].error
            status, _, err = run(closed, *ONE, *SLURM)
            assert (status, err) == (
                2,
                f"dsmoe: paths.results: {closed / 'default' / '.jobs'} cannot be written: read-only file system\n",
            )
        mount("-o", "remount,size=8000k", small)
        for disk in disks:
            assert run(disk, *ONE, *SLURM)[0] == 0
        for disk in disks:
            assert run(disk, *ONE, *SLURM, WAIT)[0] == 0
            assert outcomes(disk) == outcomes(calm)
