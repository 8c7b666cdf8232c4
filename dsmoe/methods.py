"""Methods: what `methods` may name, what each steers by, and which of its settings are chosen on dev."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from dsmoe import plugins
from dsmoe.config import AUTO, Config, SftConfig, SteeringConfig
from dsmoe.discovery.rule import AS_CONFIGURED, RULES, Suggestion, rule_of
from dsmoe.errors import InputError

UNSTEERED = ("base", "sft")
OWN = "steering"
ORACLE = "oracle"
CONTROLS = ("random", "other_domain")

Settings = SteeringConfig | SftConfig


@dataclass(frozen=True, slots=True)
class Recipe:
    """Experts found by `rule` for `domain`, steered as the config says, or else as the rule's own paper suggests."""

    rule: str
    domain: str
    suggestion: Suggestion = AS_CONFIGURED


@dataclass(frozen=True, slots=True)
class Trial:
    """One method's answers to one split's questions.

    `settings` are those of a candidate on dev, and None for the method's own, chosen or configured. `draw` tells the
    random control's draws apart.
    """

    method: str
    split: str = "test"
    settings: Settings | None = None
    draw: int = 0

    @property
    def name(self) -> str:
        """What progress, plans and journals call it."""
        of = [f"draw {self.draw}"] if self.draw else []
        if isinstance(self.settings, SteeringConfig):
            of = [f"strength {self.settings.strength:g}", f"experts {self.settings.num_experts:g}"]
        elif isinstance(self.settings, SftConfig):
            of = [f"learning rate {self.settings.learning_rate:g}", f"epochs {self.settings.epochs}"]
        if self.split != "test":
            of.append(self.split)
        return f"{self.method} ({', '.join(of)})" if of else self.method


def known() -> list[str]:
    """All that `methods` may name."""
    rules = [rule for rule in plugins.names(RULES) if rule not in CONTROLS]
    return [*UNSTEERED, *rules, *CONTROLS, ORACLE, OWN]


def check_known(methods: Sequence[str]) -> None:
    """Raise InputError for a name that is none of a method."""
    for method in methods:
        if method not in known():
            near = plugins.did_you_mean(method, known())
            raise InputError(f"methods: {method!r} is not one of {', '.join(known())}{near}")


def steers(method: str) -> bool:
    """Whether the method steers the router."""
    return method not in UNSTEERED


def suggestion(method: str) -> Suggestion:
    """How a method's own paper steers; empty for those that steer as the config says."""
    by_rule = method not in (*UNSTEERED, *CONTROLS, ORACLE, OWN, "dsmoe")
    return rule_of(method, "methods").suggestion if by_rule else AS_CONFIGURED


def recipe(method: str, config: Config, other_domain: str) -> Recipe | None:
    """What a method steers by; None for those that need no discovery.

    `dsmoe` steers as the config says, by the config's rule, and both controls do the same with other experts. Other
    rules are methods of their own, each steered as its paper does.
    """
    if method in (*UNSTEERED, OWN, ORACLE):
        return None
    rule = config.discovery.rule if method in ("dsmoe", *CONTROLS) else method
    domain = other_domain if method == "other_domain" else config.domain
    return Recipe(rule, domain, suggestion(method))


def scored(config: Config, other_domain: str) -> list[Recipe]:
    """The recipes whose experts are scored here, each once; `dsmoe` takes those of a profile that the user brings."""
    recipes = [one for method in config.methods if (one := recipe(method, config, other_domain))]
    own = recipe("dsmoe", config, other_domain) if config.discovery.profile else None
    return list({(one.rule, one.domain): one for one in recipes if one != own}.values())


def counted(config: Config, of: Recipe) -> bool:
    """Whether the choices of the recipe's own domain are counted here: a profile of the target has them."""
    return config.discovery.profile is None or of.domain != config.domain


def discovers(config: Config) -> bool:
    """Whether anything is discovered here. Raises InputError for a method that is none."""
    check_known(config.methods)
    # What the other domain is takes the data to know; that it is another one does not.
    return any(counted(config, one) or rule_of(one.rule).contrasts for one in scored(config, other_domain=""))


def tuned_as(method: str) -> str:
    """The method whose choice on dev a method takes over: controls steer as that which they control."""
    return "dsmoe" if method in CONTROLS else method


def settings(method: str, config: Config) -> Settings | None:
    """What a method is set to, `auto` where dev decides; None where there is nothing to set."""
    if method == "sft":
        return config.sft if config.sft.adapter is None else None
    if method in ("base", OWN):
        return None
    if method == ORACLE:  # Its experts are known, and so is how many there are.
        return replace(config.steering, num_experts=1)
    fixed = suggestion(method)
    if fixed is AS_CONFIGURED:
        return config.steering
    counted = fixed.num_experts is not None or fixed.top_p is not None
    return replace(
        config.steering,
        strength=config.steering.strength if fixed.strength is None else fixed.strength,
        num_experts=(fixed.num_experts or 1) if counted else config.steering.num_experts,
    )


def open_settings(of: Settings | None) -> list[str]:
    """The names of the settings that dev decides."""
    if of is None:
        return []
    return [name for name in ("num_experts", "strength", "epochs", "learning_rate") if getattr(of, name, None) == AUTO]


def candidates(of: Settings) -> Iterator[Settings]:
    """Every choice from the grids of what is open, smaller strengths first."""
    names = sorted(open_settings(of), reverse=True)
    for values in product(*(sorted(getattr(of, f"{name}_grid")) for name in names)):
        yield replace(of, **dict(zip(names, values, strict=True)))
