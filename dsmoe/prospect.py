"""What is ahead of some cells: what their models need, and which cells are finished, in lines to be read."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dsmoe.cell import Cell
from dsmoe.compose import Composed
from dsmoe.forecast import Kind, Outlook, forecast, named
from dsmoe.methods import discovers
from dsmoe.models import checkpoint
from dsmoe.models.fit import USUAL, Machine, check_fits, gigabytes, gpus, job_node, machine
from dsmoe.models.needs import Needs, needs
from dsmoe.parts import read_of, split_of

LOCAL_SOURCES = frozenset({"world", "records"})
"""Sources of records that never ask the Hub."""


def read_ahead(composed: Sequence[Composed]) -> None:
    """Read the data of cells that can be named, which needs to know nothing of their models."""
    if not any(map(_unnamed, composed)):
        for read in dict.fromkeys(read_of(one.config) for one in composed):
            split_of(*read)


def prospect(composed: Sequence[Composed]) -> list[str]:
    """What every model of the cells needs, and which cells are finished. Raises InputError where one cannot fit."""
    models: dict[tuple[Needs, Machine], list[str]] = {}
    for one in composed:
        found, there = needs(one.config, discovers(one.config)), machine(one.config.cluster, one.config.model)
        models[found, there] = check_fits(found, there)
    lines: list[str] = []
    for (found, there), warnings in models.items():
        lines += [*_model(found, there), *(f"  warning: {warning}" for warning in warnings), ""]
    if any(one.config.fine_tunes for one in composed):
        lines += ["fine-tuning (method sft) is not counted in this memory", ""]
    return lines + _cells(composed)


def _model(needs: Needs, there: Machine) -> list[str]:
    where = needs.path or "embedded"
    memory = there.gpu_memory if there.gpus else USUAL
    fits = "fits" if needs.total <= there.usable else "may not fit"
    return [
        f"{needs.name} ({where}, {needs.architecture})",
        f"  parameters  {_billions(needs.parameters)}, {_billions(needs.active)} active a token, "
        f"{_billions(needs.embedding)} of them the embedding",
        f"  weights     {gigabytes(needs.weights)} in {needs.dtype}",
        f"  checkpoint  {_stored(needs)}",
        f"  KV cache    {gigabytes(needs.cache)} for {needs.sequences} sequences of {needs.tokens} tokens",
        f"  evaluation  {gigabytes(needs.evaluation)} a batch, with that cache",
        f"  discovery   {_discovery(needs)}",
        f"  GPUs        {_gpus(needs, memory)}",
        f"  room        {gigabytes(needs.total)} at the peak {fits} in {there}",
    ]


def _billions(count: int) -> str:
    return f"{count / 1e9:.2f} billion" if count >= 1e8 else f"{count / 1e6:.2f} million"


def _stored(needs: Needs) -> str:
    if needs.path is None:
        return "none to download: it is trained here"
    if needs.stored is None:
        return "of unknown size"
    return gigabytes(needs.stored) + ("" if needs.stored_known else ", estimated from its config")


def _discovery(needs: Needs) -> str:
    if not needs.discovery_tokens:
        return "none"
    said = f"{gigabytes(needs.discovery)} for {needs.discovery_tokens} tokens a pass"
    if needs.checkpointing:
        return f"{said}, with activation checkpointing; {gigabytes(needs.discovery_plain)} without"
    return f"{said}; {gigabytes(needs.discovery_checkpointed)} with activation checkpointing"


def _gpus(needs: Needs, memory: float) -> str:
    """How many GPUs hold it all, and what it is that makes them so many."""
    count, least = gpus(needs.total, memory), gpus(needs.weights, memory)
    said = f"{count} × {memory / 1e9:.3g} GB, limited by "
    if count == least:
        return said + "the weights"
    return (
        said + f"{'discovery' if needs.discovery > needs.evaluation else 'evaluation'}; the weights alone want {least}"
    )


def _cells(composed: Sequence[Composed]) -> list[str]:
    """How many cells there are, which of them are finished and which are missing."""
    cells = "1 cell" if len(composed) == 1 else f"{len(composed)} cells"
    for one in composed:
        if reason := _unnamed(one):
            return [f"{cells}; they cannot be named before {reason}"]
    found = forecast([Cell(one.config, job_node(one.config) if one.launcher else None) for one in composed])
    missing = sum(bool(outlook.reason) for outlook in found.outlooks)
    lines = [f"{cells}: {len(composed) - missing} finished, {missing} missing"]
    if missing:
        stages = sum(kind.stages for kind in found.kinds)
        if stages:
            many = "1 stage" if stages == 1 else f"{stages} stages"
            lines[0] += f"; {many} to make, about {_time(found.seconds)} one after the other"
        lines += [f"  {_kind(kind)}" for kind in found.kinds if kind.seconds]
    common = set.intersection(*(set(one.overrides) for one in composed)) if len(composed) > 1 else set()
    for one, outlook in zip(composed, found.outlooks, strict=True):
        own = " ".join(override for override in one.overrides if override not in common)
        state = "missing " if outlook.reason else "finished"
        lines.append(f"  {state}  {outlook.cell.folder}  {own}".rstrip() + _outlook(outlook))
    return lines


def _kind(kind: Kind) -> str:
    """How long the stages of one name take, and how that is known."""
    source = f"as {kind.known_from} finished of this model took" if kind.known_from else f"assuming {kind.rate}"
    return f"{kind.name.replace('_', '-'):<9} {kind.stages:>4}, {_time(kind.seconds)}, {source}"


def _outlook(outlook: Outlook) -> str:
    """Why a cell is missing, and what of it."""
    if not outlook.reason:
        return ""
    if not outlook.missing:
        return f"  ({outlook.reason}; its {outlook.stages} stages are there)"
    stages, time = f"all {outlook.stages} stages missing", f", {_time(outlook.seconds)}" if outlook.seconds else ""
    if len(outlook.missing) < outlook.stages:
        names = named(outlook.missing, len(outlook.cell.inputs.domains))
        stages = f"{len(outlook.missing)} of {outlook.stages} stages missing: {names}"
    return f"  ({outlook.reason}; {stages}{time})"


def _time(seconds: float) -> str:
    """Seconds as one says them."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds:.2g} seconds"


def _unnamed(one: Composed) -> str:
    """What must be there before a cell has a name, which is a hash of all its inputs; empty where all of it is."""
    config = one.config
    model = config.model
    if model.path is not None and checkpoint.is_local(model) and not any(Path(model.path).glob("*.safetensors")):
        return "the weights are there"
    for origin in (config.dataset, config.benchmark):
        if origin.source is not None and origin.source not in LOCAL_SOURCES and origin.path is None:
            return f"the data are here: {origin.key}.path names a copy"
    if one.launcher is not None:  # It runs where `cluster` says.
        return ""
    there = machine(config.cluster, model)
    here = machine(replace(config.cluster, gpus=None, gpu_memory_gb=None, memory_gb=None), model)
    if bool(there.gpus) != bool(here.gpus):
        return "they run: bits differ between CPU and GPU, and this machine has the other one"
    return ""
