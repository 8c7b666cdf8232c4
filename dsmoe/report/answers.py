"""Answers: for each model and target one sentence on whether steering helps there, and what it costs elsewhere."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from dsmoe.report.collection import Collection, Entry, Key
from dsmoe.report.shown import interval, p_text, percent, points, seen
from dsmoe.results import Verdict

QUESTION = (
    "Does steering the router toward the experts of a domain make the model better on that domain, "
    "and what does it cost elsewhere?"
)
WORDS: dict[Verdict, str] = {"better": "Yes", "worse": "It harms", "no evidence": "No evidence"}


@dataclass(frozen=True)
class Answer:
    """The answer for one model and target: in a word, which kind of verdict it is, and in a sentence."""

    group: Key
    word: str
    kind: str
    sentence: str


def answers(collection: Collection) -> list[Answer]:
    """One answer a model, target and origin of questions, in the collection's order."""
    return [_answer(group, entries, collection.tests) for group, entries in collection.groups.items()]


def _answer(group: Key, entries: Sequence[Entry], tests: int) -> Answer:
    asked = [(entry, verdict) for entry in entries if (verdict := entry.verdict("base")) is not None]
    if not asked:
        return Answer(group, "Not asked", "unasked", "No cell of this model and target compares dsmoe with base.")
    verdicts = Counter(verdict for _, verdict in asked)
    if len(asked) == 1:
        ((entry, verdict),) = asked
        return Answer(group, WORDS[verdict], verdict.replace(" ", "-"), _alone(entry, tests))
    if len(verdicts) == 1:
        (kind,) = verdicts
        return Answer(group, WORDS[kind], kind.replace(" ", "-"), _together(entries, verdicts, tests))
    leading: Verdict = "better" if verdicts["better"] else "worse"
    word = f"{WORDS[leading]} in {verdicts[leading]} of {len(asked)} cells"
    return Answer(group, word, "mixed", _together(entries, verdicts, tests))


def _alone(entry: Entry, tests: int) -> str:
    """The answer of a single cell, with everything that the cell compares dsmoe with."""
    found, base = entry.comparison("dsmoe", "base"), entry.row("base", "target")
    assert found is not None
    assert base is not None
    amount = f"{points(found.delta)} points {interval(found)}"
    p = entry.adjusted["base"]
    by = f"p {p_text(p)}"
    verdict = entry.verdict("base")
    if verdict == "no evidence":
        # That of all comparisons of the report would be larger; a cell's results do not tell how much.
        how = ", by p values adjusted within the cell alone" if tests > len(entry.adjusted) else ""
        first = (
            f"there is no evidence that steering changes accuracy on {found.domain}: {amount}, {by}; {seen(found, how)}"
        )
    else:
        verb = "raises" if verdict == "better" else "lowers"
        first = f"steering {verb} accuracy on {found.domain} from {percent(base.value)}% by {amount}, {by}"
    clauses = [first[0].upper() + first[1:]]
    for baseline, words in (("sft", "fine-tuning"), ("other_domain", "steering toward another domain’s experts")):
        against, verdict = entry.comparison("dsmoe", baseline), entry.verdict(baseline)
        if against is not None and verdict is not None:
            clauses.append(f"against {words} {points(against.delta)} points ({verdict})")
    if entry.results.specificity is not None:
        of = entry.results.specificity
        clauses.append(f"above {of.above} of {len(of.draws)} draws of random experts")
    if (elsewhere := entry.comparison("dsmoe", "base", "non_target")) is not None:
        harm = f" ({elsewhere.harm.verdict})" if elsewhere.harm is not None else ""
        clauses.append(f"on the other domains {points(elsewhere.delta)} points {interval(elsewhere)}{harm}")
    return "; ".join(clauses) + "."


def _together(entries: Sequence[Entry], verdicts: Counter[Verdict], tests: int) -> str:
    """The answer of several cells: how often which verdict, and between what their differences lie."""
    counted = ", ".join(f"{kind} in {verdicts[kind]}" for kind in WORDS if verdicts[kind])
    text = (
        f"Steering against the base model on {entries[0].group[1]}: {counted} of {sum(verdicts.values())} cells, "
        f"p adjusted over all {tests} primary comparisons of this report; the differences {_range(entries, 'target')}"
    )
    if elsewhere := _range(entries, "non_target"):
        text += f", on the other domains they {elsewhere}"
    return text + "."


def _range(entries: Sequence[Entry], role: str) -> str:
    deltas = [found.delta for entry in entries if (found := entry.comparison("dsmoe", "base", role)) is not None]
    if not deltas:
        return ""
    least, most = points(min(deltas)), points(max(deltas))
    return f"are all {least} points" if least == most else f"lie between {least} and {most} points"
