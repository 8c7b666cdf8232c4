"""Splits: quotas, whole groups, no leaks, and the same split for ever."""

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmoe import InputError, Record
from dsmoe.config import SplitsConfig
from dsmoe.domains.splits import Splits, split_records

QUOTAS = SplitsConfig(discover=0.1, dev=0.2, test=0.7)
NAMES = ("discover", "dev", "test")


def record(number: int, domain: str = "law", group: str | None = None, split: str | None = None) -> Record:
    question = f"{domain} {number}?"
    return Record(f"{domain}{number}", domain, question, ("x", "y"), 0, "file", group or question, split)


def homes(splits: Splits) -> dict[str, str]:
    return {one.id: name for name in NAMES for one in getattr(splits, name)}


def refusal(records: list[Record]) -> str:
    with pytest.raises(InputError) as caught:
        split_records(records, QUOTAS)
    return str(caught.value)


def test_quotas_hold_in_every_domain() -> None:
    records = [record(number, domain) for domain, size in (("law", 100), ("art", 47)) for number in range(size)]
    splits = split_records(records, QUOTAS)
    sizes = {domain: [len(splits.of(name, domain)) for name in NAMES] for domain in splits.domains}
    assert sizes == {"art": [5, 9, 33], "law": [10, 20, 70]}


def test_of_takes_the_first_of_a_fixed_order() -> None:
    splits = split_records([record(number) for number in range(50)], QUOTAS)
    assert splits.of("test", "law", 7) == splits.of("test", "law")[:7]
    assert splits.of("test", "nothing") == []


def test_the_split_of_known_records_never_changes() -> None:
    # The order of `printf 'law 0?' | sha256sum` and so on; of twelve, 1 is a tenth and 2 a fifth.
    splits = split_records([record(number) for number in range(12)], QUOTAS)
    assert [[one.id for one in getattr(splits, name)] for name in NAMES] == [
        ["law5"],
        ["law9", "law11"],
        ["law1", "law2", "law6", "law8", "law0", "law4", "law3", "law10", "law7"],
    ]


groups = st.lists(st.tuples(st.integers(0, 6), st.sampled_from(["law", "art"])), min_size=1, max_size=40)


@given(groups, st.randoms(use_true_random=False))
def test_groups_stay_whole_whatever_the_order(drawn: list[tuple[int, str]], draw: random.Random) -> None:
    records = [record(number, domain, f"group {group}") for number, (group, domain) in enumerate(drawn)]
    splits = split_records(records, QUOTAS)
    placed = homes(splits)
    assert placed.keys() == {one.id for one in records}
    assert sum(len(getattr(splits, name)) for name in NAMES) == len(records)
    for group in {one.group for one in records}:
        assert len({placed[one.id] for one in records if one.group == group}) == 1
    assert split_records(draw.sample(records, len(records)), QUOTAS) == splits


@given(st.lists(st.integers(1, 5), min_size=1, max_size=30))
def test_no_quota_is_passed_by_more_than_a_group(sizes: list[int]) -> None:
    members = [(number, size) for number, size in enumerate(sizes) for _ in range(size)]
    records = [record(place, "law", f"group {number}") for place, (number, _) in enumerate(members)]
    filled = Counter(homes(split_records(records, QUOTAS)).values())
    left = len(records)
    for name, quota in (("discover", round(0.1 * len(records))), ("dev", round(0.2 * len(records)))):
        assert min(quota, left) <= filled[name] < max(quota, 1) + max(sizes)
        left -= filled[name]


def test_another_domain_moves_nothing() -> None:
    law = [record(number) for number in range(40)]
    both = [*law, *(record(number, "art") for number in range(30))]
    placed = homes(split_records(both, QUOTAS))
    assert {one.id: placed[one.id] for one in law} == homes(split_records(law, QUOTAS))


def test_prescribed_splits_hold() -> None:
    names = [NAMES[number % 3] for number in range(9)]
    records = [record(number, split=name) for number, name in enumerate(names)]
    assert homes(split_records(records, QUOTAS)) == {f"law{number}": name for number, name in enumerate(names)}


def test_half_prescribed_or_unknown_splits_are_refused() -> None:
    assert "'law1' names no split (discover, dev or test)" in refusal([record(0, split="test"), record(1)])
    message = refusal([record(0, split="test"), record(1, split="validation")])
    assert message == "file: record 'law1' is of split 'validation'; allowed are discover, dev, test"


def test_a_group_on_both_sides_is_refused() -> None:
    message = refusal([record(0, group="one", split="discover"), record(1, group="one", split="test")])
    first, detail = message.splitlines()
    assert first == "file: 1 leaks between splits"
    assert "'law0' in discover" in detail
    assert "'law1' in test" in detail
    assert "share a group" in detail


def test_the_same_question_in_other_words_order_is_refused() -> None:
    one = replace(record(0, split="dev"), question="What is it?", options=("Yes", "no"), group="a")
    other = replace(record(1, split="test"), question=" what  IS it? ", options=("NO ", "yes"), group="b")
    message = refusal([one, other])
    assert "share a question" in message
    assert "'law0' in dev" in message
    assert "'law1' in test" in message
    split_records([one, replace(other, options=("maybe", "yes"))], QUOTAS)  # another question


def test_ten_leaks_are_shown_and_all_counted() -> None:
    pairs = [
        record(2 * number + half, group=f"g{number}", split=split)
        for number in range(12)
        for half, split in enumerate(("dev", "test"))
    ]
    lines = refusal(pairs).splitlines()
    assert lines[0] == "file: 12 leaks between splits"
    assert len(lines) == 12
    assert lines[-1] == "  … and 2 more"
