"""Prompt against rollout: equal to counting by hand, deterministic, refused before work."""

from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_model, random_records
from numpy.typing import NDArray

from dsmoe.analysis.passages import from_records
from dsmoe.analysis.rollout import rollout
from dsmoe.analysis.sample import sampled_passages
from dsmoe.errors import InputError
from dsmoe.models.continuation import greedy_continuation
from dsmoe.models.routers import find_routers

PASSAGES = from_records([*random_records(5, "alpha"), *random_records(4, "beta"), *random_records(1, "gamma")])


def visits(model: Any, ids: list[int], start: int) -> dict[int, list[NDArray[np.float64]]]:
    """Visits of a prompt's tokens and of those after it, by layer, from the logits that routers put out."""
    found = {}

    def hook(layer: int) -> Any:
        def hear(module: Any, inputs: Any, output: Any) -> None:
            best = output[0].topk(2, dim=-1).indices.tolist()
            found[layer] = [
                np.array([sum(expert in choice for choice in part) for expert in range(8)], dtype=np.float64)
                for part in (best[:start], best[start:])
            ]

        return hear

    hooks = [router.module.register_forward_hook(hook(router.layer)) for router in find_routers(model)]
    with torch.no_grad():
        model(input_ids=torch.tensor([ids]))
    for one in hooks:
        one.remove()
    return found


def test_equals_counting_by_hand(tokenizer: Any) -> None:
    model = random_model("qwen3_moe")
    found = rollout(model, tokenizer, PASSAGES, a_domain=3, new_tokens=6, permutations=49, seed=1).to_pylist()
    chosen = [PASSAGES[index] for index in sampled_passages(PASSAGES, 3)]
    counted = []
    for passage in chosen:
        prompt = tokenizer(passage.text).input_ids
        new = greedy_continuation(model, tokenizer, prompt, 6)
        special = set(tokenizer.all_special_ids)
        # Special tokens are read and not counted: the end is the last token, where there is one.
        assert not special & {*prompt, *new[:-1]}
        ids = [*prompt, *new]
        both = visits(model, ids if new[-1] not in special else ids[:-1], len(prompt))
        counted.append((passage.domain, both))
    assert [line["layer"] for line in found] == [0, 2]
    for line in found:
        cosines: dict[str, list[float]] = {"own": [], "same_domain": [], "other_domain": []}
        for one, (domain, prompt_side) in enumerate(counted):
            for other, (another, continuation_side) in enumerate(counted):
                p, c = prompt_side[line["layer"]][0], continuation_side[line["layer"]][1]
                kind = "own" if one == other else "same_domain" if domain == another else "other_domain"
                cosines[kind].append(float(p @ c / np.linalg.norm(p) / np.linalg.norm(c)))
        for kind, values in cosines.items():
            assert line[kind] == pytest.approx(np.mean(values))
        assert 0 < line["p"] <= 1


def test_a_seed_gives_the_same_table(tokenizer: Any) -> None:
    model = random_model("qwen3_moe")
    first, second = (
        rollout(model, tokenizer, PASSAGES, a_domain=2, new_tokens=4, permutations=49, seed=1) for _ in range(2)
    )
    assert first.equals(second)


def test_without_others_there_is_nothing_to_compare_with(tokenizer: Any) -> None:
    alone = [passage for passage in PASSAGES if passage.domain == "gamma"]
    found = rollout(random_model("qwen3_moe"), tokenizer, alone, 3, 4, 9, 0).to_pylist()
    assert found == [
        {"layer": layer, "own": None, "same_domain": None, "other_domain": None, "p": None} for layer in (0, 2)
    ]


def test_a_short_context_is_refused_before_anything_is_generated(tokenizer: Any) -> None:
    done: list[int] = []
    with pytest.raises(InputError, match=r"has \d+ tokens and 250 new ones; the model's context holds 256"):
        rollout(random_model("qwen3_moe"), tokenizer, PASSAGES, 3, 250, 9, 0, lambda number, total: done.append(number))
    assert not done


def test_every_family_is_observed_while_it_generates(family: str, model: Any, tokenizer: Any) -> None:
    found = rollout(model, tokenizer, PASSAGES, 2, 3, 9, 0).to_pylist()
    assert [line["layer"] for line in found] == [router.layer for router in find_routers(model)]
    assert all(0 <= line["own"] <= 1 + 1e-9 for line in found)
