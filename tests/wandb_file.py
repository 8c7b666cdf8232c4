"""Reads a wandb run file: records of protobuf in the framing of LevelDB's log."""

import struct
from collections.abc import Iterator
from pathlib import Path

from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

BLOCK, HEADER = 32768, 7
LAST = (1, 4)
"""Types of chunks that end a record: whole, and the last of several."""


def records(path: Path) -> Iterator[Record]:
    """Every record, in order."""
    content = path.read_bytes()
    assert content[:4] == b":W&B"
    at, parts = HEADER, b""
    while at + HEADER <= len(content):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + HEADER])
        if not kind:  # The rest of the file was never written.
            return
        parts += content[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in LAST:
            record = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""
