"""Whether inputs can be run: refused before anything is written, with the key that is wrong and what is allowed."""

import logging
from functools import cache
from pathlib import Path

from dsmoe import plugins
from dsmoe.baselines.adapter import check_adapter
from dsmoe.config import AUTO, GENERATES, Config, ModelConfig, SteeringConfig
from dsmoe.discovery.profile import ExpertProfile
from dsmoe.discovery.rule import rule_of
from dsmoe.domains import world
from dsmoe.errors import InputError
from dsmoe.inputs import Inputs
from dsmoe.methods import CONTROLS, ORACLE, candidates, check_known, discovers, open_settings, settings, suggestion
from dsmoe.models.chat import check_chat
from dsmoe.models.checkpoint import Held, content_of, held_by
from dsmoe.models.fit import check_fits, check_processes, machine
from dsmoe.models.load import context_length, router_shape
from dsmoe.models.needs import architecture_of, needs
from dsmoe.models.planted import PlantedExperts
from dsmoe.models.routers import RouterShape
from dsmoe.parts import TASKS
from dsmoe.remembered import Answers
from dsmoe.serving import check_served
from dsmoe.steering.selection import expert_count, in_window
from dsmoe.steering.steering import Steering, check_mode

FEWEST = 50
"""Dev questions of the target on which something may be chosen."""

log = logging.getLogger(__name__)


def check_inputs(inputs: Inputs) -> None:
    """Raise InputError for whatever in the config, or in the files it names, cannot be run."""
    _check_names(inputs)
    _check_domains(inputs)
    _check_evidence(inputs)
    _check_model(inputs)
    _check_generation(inputs)
    if inputs.config.backend == "vllm":
        check_served(inputs.config, inputs.own_steering)


def check_room(config: Config) -> None:
    """Warn, or raise InputError, where the model does not fit this machine, as far as can be known beforehand."""
    there = machine(config.cluster, config.model)
    for line in check_fits(needs(config, discovers(config)), there):
        _warn(line)
    check_processes(config, there)


def _check_names(inputs: Inputs) -> None:
    config = inputs.config
    rule_of(config.discovery.rule)
    check_known(config.methods)
    benchmark = config.benchmark
    metrics = plugins.load(TASKS, benchmark.task, "benchmark.task").METRICS
    if benchmark.metric not in metrics:
        raise InputError(f"benchmark.metric: {benchmark.metric!r} is none of {benchmark.task}'s: {', '.join(metrics)}")


def _check_domains(inputs: Inputs) -> None:
    target = inputs.config.domain
    for key, domain in (("domain", target), *(("benchmark.non_target", d) for d in inputs.domains[1:])):
        _check_domain(inputs, key, domain)
        if not inputs.questions("test", domain).records:
            tested = ", ".join(inputs.splits.tested)
            raise InputError(f"{key}: {domain!r} has no test questions; there are some of {tested or 'no domain'}")
    if len(set(inputs.domains)) < len(inputs.domains):
        twice = ", ".join(inputs.domains)
        raise InputError(f"benchmark.non_target: a domain is named twice, or is the target: {twice}")
    if "other_domain" in inputs.config.methods:
        key = "discovery.other_domain"
        _check_domain(inputs, key, inputs.other_domain)
        if inputs.other_domain == target:
            raise InputError(f"{key}: {target!r} is the target domain; name another, or leave out the method")


def _check_domain(inputs: Inputs, key: str, domain: str) -> None:
    if domain not in (named := inputs.splits.domains):
        raise InputError(f"{key}: {domain!r} is not one of {', '.join(named)}{plugins.did_you_mean(domain, named)}")


def _check_evidence(inputs: Inputs) -> None:
    """Refuse what has no questions to learn from, or too few to choose on."""
    config = inputs.config
    found = [one for method in config.methods if (one := inputs.recipe(method))]
    if inputs.own_profile is not None:
        _check_profile(inputs.own_profile, config)
        found = [one for one in found if one.domain != config.domain]
    wanted = {one.domain for one in found} | ({config.domain} if config.fine_tunes else set())
    for domain in sorted(wanted):
        if not inputs.discover_part((domain,)).records:
            raise InputError(f"domain: {domain!r} has no questions in the discover split")
    for one in found:
        if rule_of(one.rule).contrasts and not inputs.discover_part(inputs.contrast(one.domain)).records:
            raise InputError(f"methods: {one.rule} holds {one.domain!r} against other domains; there are none")
    opened = [name for method in config.methods for name in open_settings(settings(method, config))]
    if opened and config.benchmark.source is not None:
        raise InputError(
            f"{_key(opened[0])}: auto chooses on the data set's dev questions, which are of another kind than "
            f"those of benchmark.source={config.benchmark.source}; choose there, and carry the settings over"
        )
    if opened and (questions := len(inputs.questions("dev", config.domain).records)) < FEWEST:
        raise InputError(
            f"{_key(opened[0])}: auto chooses on the "
            f"{questions} dev questions of {config.domain!r}; it wants at least {FEWEST}"
        )


def _check_profile(profile: ExpertProfile, config: Config) -> None:
    """Refuse a profile of another domain, and scores by another rule than that by which controls find their experts."""
    by_its_scores = {"dsmoe", *CONTROLS} & set(config.methods)
    for key, wanted, has in (
        ("discovery.rule", config.discovery.rule, profile.rule),
        ("domain", config.domain, profile.domain),
    ):
        if has != wanted and (key == "domain" or by_its_scores):
            raise InputError(
                f"discovery.profile: {config.discovery.profile} is of {key} {has!r}, but {key} is {wanted!r}; to steer "
                "by it all the same, write a steering file and name it: methods=[base,steering] steering.file=FILE"
            )


def _check_model(inputs: Inputs) -> None:
    config = inputs.config
    pretrain = config.model.pretrain
    if pretrain is not None and pretrain.planted_loss is not None:
        planted = PlantedExperts.draw(world.DOMAINS, pretrain)
        if ORACLE in config.methods:
            planted.of(config.domain)
    elif ORACLE in config.methods:
        raise InputError("methods: oracle steers planted experts, and this model has none; choose model=planted")
    if config.fine_tunes and config.model.dtype == "float16":
        raise InputError("model.dtype: float16 is too narrow for method sft to fine-tune in; take bfloat16 or float32")
    shape = router_shape(config.model)
    for method in {"dsmoe": None, **dict.fromkeys(config.methods)}:
        if isinstance(of := settings(method, config), SteeringConfig):
            for steering in candidates(of):
                assert isinstance(steering, SteeringConfig)
                _check_steering(inputs, method, steering, shape)
    if inputs.own_steering is not None:
        inputs.own_steering.check_fit(shape)
    if inputs.own_adapter is not None:
        check_adapter(inputs.own_adapter)
        _ = FITS[inputs.own_adapter, content_of(inputs.own_adapter), config.model, held_by(config.model)]


def _check_adapter_fit(folder: Path, content: str, model: ModelConfig, held: Held | None) -> None:
    from dsmoe.baselines.lora import check_fit

    check_fit(folder, architecture_of(model))


FITS: Answers[tuple[Path, str, ModelConfig, Held | None], None] = Answers(_check_adapter_fit)
"""That adapters fit models: found once for all cells of a sweep."""


def _check_steering(inputs: Inputs, method: str, steering: SteeringConfig, shape: RouterShape) -> None:
    """Raise InputError where a method cannot steer so, as far as that can be known before discovery."""
    fixed = suggestion(method)
    check_mode(fixed.mode or steering.mode, shape.architecture)
    if method in inputs.config.methods and steering.layers and steering.layers[1] >= shape.num_layers:
        last = shape.num_layers - 1
        raise InputError(
            f"steering.layers: {list(steering.layers)} goes beyond the model's layers, which are 0 to {last}"
        )
    experts = {layer: count for layer, count in shape.num_experts.items() if in_window(layer, steering.layers)}
    assert steering.num_experts != AUTO
    assert steering.strength != AUTO
    count = expert_count(steering.num_experts, sum(experts.values()), steering.layers)
    forced = (fixed.mode or steering.mode) == "force" and steering.strength
    most = sum(_most(width, shape.top_k, fixed.within_top_k, forced) for width in experts.values())
    if fixed.top_p is None and count > most:
        raise InputError(
            f"steering.num_experts: {count} experts are more than the {most} that {method} can steer in {len(experts)} "
            f"layers with top-{shape.top_k}"
        )
    if inputs.own_profile is not None and method == "dsmoe":
        Steering.suggested(inputs.own_profile, steering).check_fit(shape)


def _most(width: int, top_k: int, within_top_k: bool, forced: float) -> int:
    """How many of a layer's experts may be steered; `forced` is the strength where they are forced in or out."""
    into = top_k if forced > 0 else width - top_k if forced < 0 else width
    return min(width, into, top_k if within_top_k else width)


def _check_generation(inputs: Inputs) -> None:
    benchmark, model = inputs.config.benchmark, inputs.config.model
    if benchmark.task not in GENERATES:
        return
    context = context_length(model)
    if context is not None and benchmark.max_new_tokens >= context:
        raise InputError(
            f"benchmark.max_new_tokens: {benchmark.max_new_tokens} leaves no room for a question in "
            f"{model.name}'s context of {context} tokens"
        )
    if inputs.config.generation.chat_template:
        check_chat(model, inputs.config.generation)


def _key(setting: str) -> str:
    """The config key of a setting that dev may decide."""
    return f"{'sft' if setting in ('epochs', 'learning_rate') else 'steering'}.{setting}"


@cache
def _warn(line: str) -> None:
    """Say it once, however many cells it holds for."""
    log.warning(line)
