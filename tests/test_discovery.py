"""Discovery: saliencies, counts and scores, against the authors' outputs and against hand computation."""

import gc
import json
import math
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SHARED, WORDS, random_model, random_records
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from dsmoe import ExpertProfile, InputError, Record, Steering, discover, steer
from dsmoe.discovery.saliency import SalientBatch, salient_batches
from dsmoe.discovery.texts import Markers
from dsmoe.discovery.tokens import CONTENT, IGNORED, PLAIN, TokenKinds, read_stop_words
from dsmoe.domains.prompts import discovery_prompt, evaluation_prompt
from dsmoe.domains.records import LETTERS
from dsmoe.models.routers import find_routers

STOP_WORDS = ["a", "the", "of", "and", "is", "in", "which", "what", "to"]
RECORDS = random_records(40)


def float64_oracle(model: PreTrainedModel, ids: list[int]) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
    """Saliencies of one prompt and each router's choices [tokens, top_k], one prompt at a time, in float64."""
    double = model.double()
    double.set_experts_implementation("eager")
    chosen = {}
    hooks = [
        router.module.register_forward_hook(
            lambda _, __, output, at=router: chosen.update({at.layer: at.read(output).chosen})
        )
        for router in find_routers(double)
    ]
    embedded = double.get_input_embeddings()(torch.tensor([ids])).detach().requires_grad_(True)
    logits = double(inputs_embeds=embedded).logits[0]
    (gradient,) = torch.autograd.grad(functional.cross_entropy(logits[:-1], torch.tensor(ids[1:])), embedded)
    for hook in hooks:
        hook.remove()
    return (embedded * gradient)[0].detach().square().sum(dim=1).sqrt(), chosen


def test_agrees_with_a_walk_over_single_prompts_in_float64(family: str, tokenizer: Any) -> None:
    profile = discover(random_model(family), tokenizer, RECORDS, stop_words=STOP_WORDS, batch_tokens=700)
    slow = random_model(family)
    words, saliencies, choices = [], [], []
    for record in RECORDS:
        ids = tokenizer(discovery_prompt(record)).input_ids
        saliency, chosen = float64_oracle(slow, ids)
        words += tokenizer.convert_ids_to_tokens(ids)
        saliencies += saliency.tolist()
        choices += list(zip(*(chosen[layer].tolist() for layer in profile.layers), strict=True))
    threshold = sorted(saliencies)[math.ceil(0.15 * (len(saliencies) - 1))]  # any cut between two neighbours will do
    counts = torch.zeros(2, *profile.scores.shape, dtype=torch.int64)
    for word, saliency, layers in zip(words, saliencies, choices, strict=True):
        important = saliency >= threshold and word.lower() not in STOP_WORDS and word not in ".?,:()"
        for row, experts in enumerate(layers):
            counts[0 if important else 1, row, list(experts)] += 1
    assert profile.report.choices_near_tie <= 1
    assert (profile.counts.important - counts[0]).abs().sum() <= 2 * profile.report.choices_near_tie
    assert (profile.counts.unimportant - counts[1]).abs().sum() <= 2 * profile.report.choices_near_tie
    difference = (profile.counts.important - profile.counts.unimportant).double() / counts.sum()
    assert torch.allclose(profile.scores, difference, rtol=0, atol=1e-15)


def test_batches_and_padding_change_saliencies_by_rounding_only(model: PreTrainedModel, tokenizer: Any) -> None:
    prompts = [tokenizer(discovery_prompt(record)).input_ids for record in RECORDS]
    alone = torch.cat([batch.saliency_N for batch in salient_batches(model, iter([p] for p in prompts))])
    (together,) = salient_batches(model, iter([prompts]))
    assert torch.allclose(together.saliency_N, alone, rtol=1e-5, atol=0)


def test_a_batch_leaves_nothing_behind(model: PreTrainedModel, tokenizer: Any) -> None:
    """What is left in the middle of the heap makes each batch take new memory: the peak grew by a quarter."""
    prompts = [tokenizer(discovery_prompt(record)).input_ids for record in RECORDS]
    alive: list[int] = []

    def batches() -> Iterator[list[list[int]]]:
        for _ in range(3):
            gc.collect()
            alive.append(sum(tensor.nbytes for tensor in gc.get_objects() if type(tensor) is torch.Tensor))
            yield prompts

    for batch in salient_batches(model, batches()):
        del batch
    assert alive[1:] == alive[:1] * 2


def test_checkpointing_keeps_less_and_changes_no_bit(model: PreTrainedModel, tokenizer: Any) -> None:
    """Layers run again on the way back, in evaluation mode: phimoe would route otherwise in training mode."""
    prompts = [tokenizer(discovery_prompt(record)).input_ids for record in RECORDS]
    kept = {}

    def run(checkpointing: bool) -> SalientBatch:
        kept[checkpointing] = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            kept[checkpointing] += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            (batch,) = salient_batches(model, iter([prompts]), checkpointing)
        return batch

    plain, again = run(False), run(True)
    for field in fields(SalientBatch):
        assert torch.equal(getattr(plain, field.name), getattr(again, field.name))
    assert kept[True] < kept[False] / 2
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_batch_size_changes_no_count(model: PreTrainedModel, tokenizer: Any) -> None:
    profiles = [discover(model, tokenizer, RECORDS, batch_tokens=size) for size in (1, 300, 100_000)]
    assert all(profile.report.tokens_near_threshold == 0 for profile in profiles)
    for other in profiles[1:]:
        for name in ("important", "unimportant"):
            difference = getattr(other.counts, name) - getattr(profiles[0].counts, name)
            assert difference.abs().sum() <= 2 * profiles[0].report.choices_near_tie


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(12)))
def test_the_order_of_records_changes_no_bit(order: list[int], tokenizer: Any) -> None:
    model = random_model("olmoe")
    one = discover(model, tokenizer, RECORDS[:12])
    other = discover(model, tokenizer, [RECORDS[index] for index in order])
    assert torch.equal(one.scores, other.scores)
    assert one.report == other.report


def test_leaves_the_model_as_it_was_and_the_folder_empty(
    model: PreTrainedModel, tokenizer: Any, tmp_path: Path
) -> None:
    model.lm_head.weight.requires_grad_(False)
    wanting = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    discover(model, tokenizer, RECORDS, folder=tmp_path)
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == wanting
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert list(tmp_path.iterdir()) == []


def test_layers_without_a_router_have_no_row(tokenizer: Any) -> None:
    profile = discover(random_model("qwen3_moe"), tokenizer, RECORDS)
    assert profile.layers == (0, 2)
    assert profile.num_layers == 3
    assert profile.scores.shape == (2, 8)
    assert set(Steering.from_profile(profile, 16, 1.0).experts) == {0, 2}


def test_a_window_leaves_the_best_experts_of_its_layers(tokenizer: Any) -> None:
    profile = discover(random_model("olmoe"), tokenizer, RECORDS)
    everywhere = Steering.from_profile(profile, 24, 1.0)
    for window, layers in (((0, 2), [0, 1, 2]), ((1, 2), [1, 2]), ((1, 1), [1]), ((2, 9), [2])):
        steering = Steering.from_profile(profile, 3, 1.0, layers=window)
        flat = sorted((-float(profile.scores[layer, e]), layer, e) for layer in layers for e in range(8))[:3]
        assert sorted((layer, e) for layer, experts in steering.experts.items() for e in experts) == sorted(
            (layer, e) for _, layer, e in flat
        )
    assert Steering.from_profile(profile, 0.25, 1.0, layers=(1, 1)).total_experts == 2
    assert Steering.from_profile(profile, 24, 1.0, layers=(0, 2)).experts == everywhere.experts
    with pytest.raises(InputError, match="no layer from 3 to 4 has a router"):
        Steering.from_profile(profile, 1, 1.0, layers=(3, 4))
    with pytest.raises(InputError, match="count from 1 to 8"):
        Steering.from_profile(profile, 9, 1.0, layers=(1, 1))


# Tokens: what may be important.


def blank_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with tokens for single spaces and line ends, and with a token before every text."""
    vocabulary = [
        "<s>",
        "<unk>",
        " ",
        "\n",
        *LETTERS,
        *(letter.lower() for letter in LETTERS),
        *".:?0123456789",
        "¿",
        "×",
    ]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>")
    fast.add_tokens([" the", "Stop"])
    return fast


def test_kinds_of_tokens() -> None:
    tokenizer = blank_tokenizer()
    kinds = TokenKinds(tokenizer, ["The", "a"])
    expected = {"<s>": IGNORED, "<unk>": IGNORED, " ": IGNORED, "\n": IGNORED, " the": PLAIN, "A": PLAIN, "a": PLAIN}
    expected |= {".": PLAIN, "?": PLAIN, "¿": PLAIN, "×": CONTENT, "B": CONTENT, "7": CONTENT, "Stop": CONTENT}
    for word, kind in expected.items():
        assert kinds(torch.tensor(tokenizer.convert_tokens_to_ids([word])).numpy()).tolist() == [kind], word


def test_an_id_beyond_the_tokenizer_is_in_no_count() -> None:
    """A model with a padded vocabulary may generate one."""
    tokenizer = blank_tokenizer()
    kinds, known = TokenKinds(tokenizer, ["The"]), tokenizer.convert_tokens_to_ids("B")
    assert kinds(np.array([known, 10 * len(tokenizer), known], dtype=np.int32)).tolist() == [CONTENT, IGNORED, CONTENT]


def test_english_stop_words_are_those_that_scikit_learn_gives() -> None:
    """They are read from its file, past its public name."""
    assert read_stop_words("english") == sorted(ENGLISH_STOP_WORDS)


def test_special_and_white_space_tokens_are_in_no_count() -> None:
    """The authors' labels drift here: white space drops out of one of their lists and stays in the other."""
    tokenizer, model = blank_tokenizer(), random_model("mixtral")
    record = Record("1", "d", "Ab cd", ("X y", "zz"), 0)
    ids = tokenizer(discovery_prompt(record)).input_ids
    profile = discover(model, tokenizer, [record], quantile=0.0, stop_words=["a"])
    blanks = sum(not tokenizer.decode([index]).strip() for index in ids)
    assert blanks == 7
    assert profile.report.tokens == len(ids) - blanks
    assert (profile.counts.total.sum(dim=1) == 2 * profile.report.tokens).all()


def test_a_token_at_the_threshold_is_not_important(tokenizer: Any) -> None:
    """Strictly above: with quantile 0 the least salient token is the threshold itself and stays out."""
    record = Record("1", "d", " ".join(WORDS[20:30]), ("word1", "word2"), 0)
    report = discover(random_model("olmoe"), tokenizer, [record], quantile=0.0, stop_words=[]).report
    marks = sum(mark in ".:" for mark in tokenizer.tokenize(discovery_prompt(record)))
    assert report.important_tokens in (report.tokens - marks - 1, report.tokens - marks)
    assert report.tokens_near_threshold >= 1


def test_warns_where_few_tokens_are_important(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    discover(random_model("olmoe"), tokenizer, RECORDS, stop_words=WORDS)
    assert "below 50%" in caplog.text


# Which tokens are counted.


def counted_tokens(profile: ExpertProfile) -> int:
    (tokens,) = {int(count) for count in (profile.counts.total + profile.counts.special).sum(dim=1) / profile.top_k}
    return tokens


def test_a_span_counts_its_own_tokens(tokenizer: Any) -> None:
    model = random_model("olmoe")
    found = {}
    for span in ("prompt", "question", "options"):
        found[span] = discover(model, tokenizer, RECORDS, quantile=0.0, span=span)
    questions = sum(len(tokenizer(record.question).input_ids) for record in RECORDS)
    prompts = sum(len(tokenizer(discovery_prompt(record)).input_ids) for record in RECORDS)
    ends = sum(len(tokenizer("\nAnswer:").input_ids) for _ in RECORDS)
    assert counted_tokens(found["prompt"]) == prompts
    assert counted_tokens(found["question"]) == questions
    assert counted_tokens(found["options"]) == prompts - questions - ends
    rest = found["prompt"].counts.total - found["question"].counts.total - found["options"].counts.total
    assert (rest >= 0).all()
    assert (rest.sum(dim=1) == 2 * ends).all()


def test_generated_tokens_are_counted_as_the_model_chose_them_while_generating(tokenizer: Any) -> None:
    """Against the choices of generation itself, token by token with a cache."""
    model, records = random_model("olmoe"), RECORDS[:3]
    profile = discover(model, tokenizer, records, quantile=0.0, span="generated", max_new_tokens=6)
    counts = torch.zeros_like(profile.counts.total)
    generated = 0
    for record in records:
        ids = torch.tensor([tokenizer(discovery_prompt(record)).input_ids])
        heard: list[torch.Tensor] = []
        hooks = [
            router.module.register_forward_hook(lambda _, __, out, at=router, to=heard: to.append(at.read(out).chosen))
            for router in find_routers(model)
        ]
        with torch.no_grad():  # The last token is never read back, so one more is generated.
            new = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=7, do_sample=False)
        for hook in hooks:
            hook.remove()
        steps = min(6, new.shape[1] - ids.shape[1])
        generated += steps
        layers = len(profile.layers)
        for step in range(1, steps + 1):
            for row in range(layers):
                counts[row, heard[step * layers + row][0]] += 1
    assert counted_tokens(profile) == generated
    assert torch.equal(profile.counts.total + profile.counts.special, counts)


def test_a_marker_counts_the_tokens_of_its_text(tokenizer: Any) -> None:
    model = random_model("olmoe")
    profile = discover(model, tokenizer, RECORDS, markers=["Answer:", "word1", "nowhere"])
    sizes = {text: int(counts[0].sum()) // profile.top_k for text, counts in profile.counts.markers.items()}
    text = "".join(tokenizer.decode([token]) for r in RECORDS for token in tokenizer(discovery_prompt(r)).input_ids)
    assert sizes["Answer:"] == len(RECORDS) * len(tokenizer("Answer:").input_ids)
    assert sizes["word1"] == text.count("word1") > 0
    assert sizes["nowhere"] == 0
    with pytest.raises(InputError, match=r"discovery\.markers: 'nowhere' does not occur"):
        profile.scored("rice")
    assert torch.isfinite(profile.scored("rice", markers={"Answer:": 1.0}).scores).all()


@pytest.mark.parametrize(
    "decoder", [decoders.Metaspace(), decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])]
)
def test_a_marker_of_several_words_is_found_where_spaces_belong_to_tokens(decoder: Any) -> None:
    """As SentencePiece has it; some of its decoders drop the space before a token that is decoded alone."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer, trained.decoder = pre_tokenizers.Metaspace(), decoder
    text = "Wait, let me see the answer"
    trained.train_from_iterator([text], trainers.BpeTrainer(vocab_size=40, special_tokens=["<unk>"]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained, unk_token="<unk>")
    ids = tokenizer(text).input_ids
    found = Markers(tokenizer, ["let me", "see the", "ethe", "Wait"])(ids)
    assert found.any(axis=1).tolist() == [True, True, False, True]
    marked = [token for token, is_marked in zip(ids, found[0], strict=True) if is_marked]
    assert tokenizer.decode(marked).strip() == "let me"


def test_gate_weights_sum_up_what_routers_gave(model: PreTrainedModel, tokenizer: Any) -> None:
    profile = discover(model, tokenizer, RECORDS, stop_words=STOP_WORDS)
    prompts = [tokenizer(discovery_prompt(record)).input_ids for record in RECORDS]
    expected = torch.zeros_like(profile.counts.gate_weights)
    for prompt in prompts:
        (batch,) = salient_batches(model, iter([[prompt]]))
        for chosen_LK, weights_LK in zip(batch.chosen_NLK, batch.weights_NLK, strict=True):
            for row, (chosen, weights) in enumerate(zip(chosen_LK, weights_LK, strict=True)):
                expected[row, chosen] += weights.double()
    assert torch.allclose(profile.counts.gate_weights, expected, rtol=1e-4, atol=1e-6)


# Refusals.


def test_a_model_in_training_mode_is_refused(tokenizer: Any) -> None:
    with pytest.raises(InputError, match="training mode"):
        discover(random_model("mixtral").train(), tokenizer, RECORDS)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"records": []}, "no records"),
        ({"quantile": 1.0}, "discovery.quantile: 1.0"),
        ({"rule": "dsmo"}, "discovery.rule: 'dsmo'.*did you mean dsmoe"),
        ({"stop_words": "no/such/file"}, "discovery.stop_words"),
        ({"span": "answer"}, "discovery.span: 'answer' is not one of prompt, question, options, generated"),
        ({"span": "generated", "max_new_tokens": 250}, "250 new ones; the model's context holds 256"),
        ({"rule": "risk_difference"}, "risk_difference holds the domain against others"),
        ({"rule": "rice", "markers": ()}, "discovery.markers: rice scores by markers, and there are none"),
        ({"records": [Record("long", "d", "word1 " * 300, ("a", "b"), 0)]}, "'long'.*context holds 256"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], says: str, tokenizer: Any) -> None:
    with pytest.raises(InputError, match=says):
        discover(random_model("olmoe"), tokenizer, **{"records": RECORDS, **arguments})


def test_a_bypassed_router_is_not_counted_as_if_it_had_chosen(tokenizer: Any) -> None:
    model = random_model("olmoe")
    block = model.model.layers[1].mlp
    block.forward = lambda hidden: hidden
    with pytest.raises(RuntimeError, match=r"layer 1.*bypassed"):
        discover(model, tokenizer, RECORDS)


# The profile's file.


def test_a_profile_comes_back_from_its_file(tokenizer: Any, tmp_path: Path) -> None:
    profile = discover(random_model("qwen3_moe"), tokenizer, RECORDS, rule="frequency")
    profile.save(tmp_path / "profile.safetensors")
    again = ExpertProfile.load(tmp_path / "profile.safetensors")
    assert torch.equal(again.scores, profile.scores)
    for name in ("important", "unimportant", "special", "gate_weights"):
        assert torch.equal(getattr(again.counts, name), getattr(profile.counts, name))
    assert list(again.counts.markers) == ["Answer:"]
    assert torch.equal(again.counts.markers["Answer:"], profile.counts.markers["Answer:"])
    for name in ("layers", "rule", "domain", "model", "architecture", "num_layers", "top_k", "report", "settings"):
        assert getattr(again, name) == getattr(profile, name), name


# The authors' own outputs.


@pytest.fixture(params=["qwen3_moe", "olmoe", "mixtral", "qwen2_moe"])
def golden(request: pytest.FixtureRequest) -> tuple[PreTrainedModel, Any, list[Record], dict[str, Any]]:
    folder = SHARED / "golden" / str(request.param)
    if not folder.exists():
        pytest.skip(f"the authors' outputs for {request.param} are not here")
    rows = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    records = [
        Record(str(n), row["domain"], row["question"], tuple(row["options"]), LETTERS.index(row["answer"]))
        for n, row in enumerate(rows)
    ]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder), records, json.loads((folder / "golden.json").read_text())


def test_golden_counts_scores_and_saliencies(golden: Any) -> None:
    model, tokenizer, records, expected = golden
    profile = discover(model, tokenizer, records, rule="dsmoe_code", stop_words=STOP_WORDS)
    assert profile.counts.total.tolist() == expected["total"]
    assert profile.counts.important.tolist() == expected["important"]
    assert profile.counts.unimportant.tolist() == expected["unimportant"]
    scores = torch.tensor(expected["weighted_score"], dtype=torch.float64)
    assert torch.allclose(profile.scores, scores, rtol=0, atol=1e-6)
    steering = Steering.from_profile(profile, 4, 1.0)
    assert {str(layer): sorted(chosen) for layer, chosen in steering.experts.items()} == {
        layer: sorted(chosen) for layer, chosen in expected["top4_by_layer"].items()
    }
    ids = tokenizer(discovery_prompt(records[0])).input_ids
    assert ids == expected["first_prompt_token_ids"]
    (batch,) = salient_batches(model, iter([[ids]]))
    assert torch.allclose(batch.saliency_N, torch.tensor(expected["first_prompt_saliency"]), rtol=0, atol=1e-6)


def test_golden_steered_logits_and_predictions(golden: Any) -> None:
    model, tokenizer, records, expected = golden
    experts = {int(layer): tuple(chosen) for layer, chosen in expected["top4_by_layer"].items()}
    prompt = torch.tensor([expected["first_prompt_token_ids"]])

    def last_logits() -> torch.Tensor:
        with torch.no_grad():
            return model(prompt).logits[0, -1]

    def predictions() -> list[str]:
        return [LETTERS[best(record)] for record in records]

    def best(record: Record) -> int:
        context, continuations = evaluation_prompt(record, "letter")
        scores = []
        for continuation in continuations:
            start = len(tokenizer(context).input_ids)
            ids = torch.tensor(tokenizer(context + continuation).input_ids)
            with torch.no_grad():
                log_probabilities = model(ids[None]).logits[0].log_softmax(dim=-1)
            scores.append(sum(float(log_probabilities[at - 1, ids[at]]) for at in range(start, len(ids))))
        return max(range(len(scores)), key=scores.__getitem__)

    base = torch.tensor(expected["last_logits_base"])
    assert torch.allclose(last_logits(), base, rtol=0, atol=1e-5)
    assert predictions() == expected["predictions_base"]
    steered = [name for name in expected if name.startswith("last_logits_") and not name.endswith("base")]
    assert len(steered) == 4
    for name in steered:
        _, _, kind, amount = name.split("_")
        strength = float(amount) if kind == "multiplicative" else math.expm1(float(amount))
        with steer(model, Steering(experts, strength)):
            assert torch.allclose(last_logits(), torch.tensor(expected[name]), rtol=0, atol=1e-5), name
        assert (torch.tensor(expected[name]) - base).abs().max() > 1e-2
    with steer(model, Steering(experts, math.expm1(1.5))):
        assert predictions() == expected["predictions_additive_1.5"]
