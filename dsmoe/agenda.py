"""The agenda of a comparison: whom it asks about which domain, and what must be known for that."""

from functools import cached_property

from dsmoe.config import Config
from dsmoe.discovery.rule import rule_of
from dsmoe.inputs import Inputs
from dsmoe.methods import Recipe, Trial, candidates, counted, open_settings, scored, settings, tuned_as


class Agenda:
    """What one config's comparison consists of, before any of it has a name."""

    def __init__(self, config: Config, inputs: Inputs) -> None:
        self._config = config
        self._inputs = inputs

    @cached_property
    def asked(self) -> list[tuple[Trial, str]]:
        """Whom the comparison asks about which domain."""
        dev = [trial for method in dict.fromkeys(map(tuned_as, self._config.methods)) for trial in self.on_dev(method)]
        trials = [*map(Trial, self._config.methods), *dict.fromkeys(dev)]
        asked = [(trial, domain) for trial in trials for domain in self._inputs.asked(trial.split)]
        return asked + [(trial, self._config.domain) for trial in self.draws]

    def on_dev(self, method: str) -> list[Trial]:
        """Whom dev is asked for what a method leaves open; nobody where that is nothing."""
        of = settings(method, self._config)
        if of is None or not open_settings(of):
            return []
        return [Trial("base", "dev"), *(Trial(method, "dev", candidate) for candidate in candidates(of))]

    @property
    def scored(self) -> list[Recipe]:
        """The recipes whose experts are scored here, each once."""
        return scored(self._config, self._inputs.other_domain)

    @property
    def discovered(self) -> list[tuple[str, ...]]:
        """The domains, alone or together, whose tokens' choices are counted here."""
        found: dict[tuple[str, ...], None] = {}
        for one in self.scored:
            if counted(self._config, one):
                found[(one.domain,)] = None
            if rule_of(one.rule).contrasts:
                found[self._inputs.contrast(one.domain)] = None
        return list(found)

    @property
    def draws(self) -> list[Trial]:
        """The random control's draws beside its first, on the target alone."""
        if not {"dsmoe", "random"} <= set(self._config.methods):
            return []
        return [Trial("random", draw=draw) for draw in range(1, self._config.steering.random_draws)]
