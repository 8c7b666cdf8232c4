"""Splits: which records discovery and fine-tuning see, on which choices are made, and which are read once."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from dsmoe.config import SplitsConfig
from dsmoe.domains.records import Record, normalized
from dsmoe.errors import InputError

NAMES = ("discover", "dev", "test")
SHOWN = 10


@dataclass(frozen=True)
class Splits:
    """A data set's records, each in one split and each split in an order that depends on nothing but the groups."""

    discover: tuple[Record, ...]
    dev: tuple[Record, ...]
    test: tuple[Record, ...]

    @cached_property
    def domains(self) -> list[str]:
        """Every domain of the records, in alphabetical order."""
        return sorted({record.domain for split in (self.discover, self.dev, self.test) for record in split})

    @cached_property
    def tested(self) -> list[str]:
        """Every domain that there are test questions of, in alphabetical order."""
        return sorted({record.domain for record in self.test})

    def of(self, split: str, domain: str, limit: int | None = None) -> list[Record]:
        """The first `limit` records of a split that belong to `domain`."""
        return [record for record in getattr(self, split) if record.domain == domain][:limit]


def split_records(records: Sequence[Record], config: SplitsConfig) -> Splits:
    """Fill the splits group by group, in the order of a stable hash of the group's name, domain by domain by quota.

    Where the source itself prescribes splits, those hold. Raises InputError that names the pairs where a group, or a
    question with its options, would stand in two splits.
    """
    prescribed = [record for record in records if record.split]
    if prescribed and len(prescribed) < len(records):
        bare = next(record for record in records if not record.split)
        raise InputError(f"{bare.source}: record {bare.id!r} names no split (discover, dev or test) where others do")
    if odd := [record for record in prescribed if record.split not in NAMES]:
        raise InputError(
            f"{odd[0].source}: record {odd[0].id!r} is of split {odd[0].split!r}; allowed are {', '.join(NAMES)}"
        )
    chosen = {record.id: record.split or "" for record in prescribed} or _by_quota(records, config)
    ordered = _ordered(records)
    _refuse_leaks([(record, chosen[record.id]) for record in ordered])
    parts: dict[str, list[Record]] = defaultdict(list)
    for record in ordered:
        parts[chosen[record.id]].append(record)
    return Splits(tuple(parts["discover"]), tuple(parts["dev"]), tuple(parts["test"]))


def transferred(splits: Splits, records: Sequence[Record]) -> Splits:
    """The splits with other records, all those of another data set, as the test split.

    Raises InputError that names the pairs where a group, or a question with its options, would stand in two splits.
    """
    whole = Splits(splits.discover, splits.dev, tuple(_ordered(records)))
    _refuse_leaks([(record, split) for split in NAMES for record in getattr(whole, split)])
    return whole


def _ordered(records: Iterable[Record]) -> list[Record]:
    return sorted(records, key=lambda record: (_stable_hash(record.group), record.id))


def _by_quota(records: Iterable[Record], config: SplitsConfig) -> dict[str, str]:
    """The split of every record's id. A group that spans domains goes where its first domain has room."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[record.group].append(record)
    sizes = Counter(record.domain for members in groups.values() for record in members)
    filled: Counter[tuple[str, str]] = Counter()
    chosen = {}
    for group in sorted(groups, key=_stable_hash):
        domain = min(record.domain for record in groups[group])
        quotas = (("discover", config.discover), ("dev", config.dev))
        room = (split for split, share in quotas if filled[domain, split] < round(share * sizes[domain]))
        split = next(room, "test")
        for record in groups[group]:
            chosen[record.id] = split
            filled[record.domain, split] += 1
    return chosen


def _refuse_leaks(homes: Sequence[tuple[Record, str]]) -> None:
    """Raise InputError where what two records, each with its split, share stands in two splits."""
    leaks = []
    first: dict[tuple[str, object], tuple[Record, str]] = {}
    for record, split in homes:
        content = (normalized(record.question), tuple(sorted(map(normalized, record.options))))
        for kind, key in (("group", record.group), ("question", content)):
            other, home = first.setdefault((kind, key), (record, split))
            if home != split:
                leaks.append(f"{other.id!r} in {home} and {record.id!r} in {split} share a {kind}")
    if leaks:
        more = (f"… and {len(leaks) - SHOWN} more",) if len(leaks) > SHOWN else ()
        raise InputError(f"{homes[-1][0].source}: {len(leaks)} leaks between splits", (*leaks[:SHOWN], *more))


def _stable_hash(group: str) -> str:
    return hashlib.sha256(group.encode()).hexdigest()
