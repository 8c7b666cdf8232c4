"""What an analysis found, in sentences and tables."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dsmoe.report.table import pipes

Found = Mapping[str, Any]


def sentences(found: Found) -> list[str]:
    """What `analysis.json` holds, in plain sentences, null results among them."""
    parts: list[Callable[[Found], list[str]]] = [_existence, _overlap, _committee, _load, _direction]
    parts += [_similarity, _rollout, _origin, _against, _causal]
    return [line for part in parts for line in part(found)]


def markdown(found: Found) -> str:
    """The sentences, and tables of domains and layers, in GitHub's Markdown."""
    heading = f"# {found['model']}: do its domains have experts of their own?"
    lines = "\n".join(f"- {line}" for line in sentences(found))
    return "\n\n".join([heading, lines, *_domains(found), *_layers(found)]) + "\n"


def _existence(found: Found) -> list[str]:
    existence, domains = found["existence"], found["existence"]["domains"]
    if existence["untested"] is not None:
        lines = [f"existence of domain experts is not tested: {existence['untested']}"]
    else:
        exist = [of["domain"] for of in domains if of["verdict"] == "exists"]
        lines = [
            f"{len(exist)} of {len(domains)} domains have experts of their own"
            f"{': ' + ', '.join(exist) if exist else ', as far as these tests can see'}"
        ]
    return lines + [f"{of['domain']}: {_domain(of)}" for of in domains]


def _domain(of: Found) -> str:
    said = (
        f"{of['jsd']:.4f} bits from the others; permuted labels give at most {of['labels_q95']:.4f} in 95% of draws "
        f"(p {_p(of['labels_p_adjusted'])})"
    )
    if of["shared_jsd"] is not None:
        said += (
            f"; on shared tokens {of['shared_jsd']:.4f}, where random routers give at most {of['routers_q95']:.4f} "
            f"(p {_p(of['routers_p_adjusted'])})"
        )
    return f"{said}: {_beaten(of)}"


def _beaten(of: Found) -> str:
    if of["verdict"] == "not tested":
        return "not tested"
    names = {"labels": "permuted labels", "routers": "random routers"}
    unbeaten = [name for null, name in names.items() if of[f"{null}_p_adjusted"] >= 0.05]
    return f"not beaten: {' and '.join(unbeaten)}; no evidence" if unbeaten else "both are beaten: exists"


def _overlap(found: Found) -> list[str]:
    depth = found["depth"]
    mean = {name: sum(layer[name] for layer in depth) / len(depth) for name in depth[0]}
    nearest, farthest = (pick(depth, key=lambda layer: layer["js_distance"]) for pick in (min, max))
    of_layers = (
        f"; least in layer {nearest['layer']} ({nearest['js_distance']:.3f}), most in layer {farthest['layer']} "
        f"({farthest['js_distance']:.3f})"
        if len(depth) > 1
        else ""
    )
    return [
        f"two domains' choices are {mean['js_distance']:.3f} apart (Jensen–Shannon distance, 0 to 1, mean over "
        f"pairs){of_layers}; their top-{found['top_k']} sets share {_percent(mean['jaccard_top_k'])}, their sets of "
        f"{_percent(found['top_p'])} of the choices {_percent(mean['jaccard_top_p'])} (Jaccard)"
    ]


def _committee(found: Found) -> list[str]:
    layers = found["committee"]
    members = sum(layer["members"] for layer in layers)
    share = sum(layer["share"] for layer in layers) / len(layers)
    return [
        f"committee: {members} of {len(layers) * found['num_experts']} experts are in the sets of at least 80% of the "
        f"domains, and take {_percent(share)} of the choices"
    ]


def _load(found: Found) -> list[str]:
    layers = found["load"]
    return [
        f"load: Gini {_range(layers, 'gini', '.2f')} by layer, coefficient of variation {_range(layers, 'cv', '.2f')}; "
        f"{sum(layer['dead'] for layer in layers)} experts are never chosen, "
        f"{sum(layer['hot'] for layer in layers)} take three times the uniform share or more"
    ]


def _direction(found: Found) -> list[str]:
    layers = found["direction"]
    times = [{"times": layer["spread"] / layer["spread_random"]} for layer in layers]
    return [
        f"shared direction: the mean hidden state holds {_range(layers, 'mean_energy', '.0%')} of the energy by layer; "
        f"routers' rows lie along it {_range(times, 'times', '.1f')} times as much as random rows would"
    ]


def _similarity(found: Found) -> list[str]:
    lines = []
    for level, whose in (("token", "tokens'"), ("sequence", "texts'")):
        layers = [layer for layer in found["similarity"] if layer["level"] == level]
        beaten = sum(layer["p"] is not None and layer["p"] < 0.05 for layer in layers)
        lines.append(
            f"similarity of two {whose} hidden states explains {_range(layers, 'explained', '.0%')} of how alike they"
            f" are routed, by layer (Mantel: p < 0.05 in {beaten} of {len(layers)}); at equal states, one domain"
            f" adds a partial correlation of {_range(layers, 'same_domain_partial', '+.2f')}"
        )
    return lines


def _rollout(found: Found) -> list[str]:
    if found["rollout"] is None:
        return []
    own, same, other = (_range(found["rollout"], name, ".2f") for name in ("own", "same_domain", "other_domain"))
    return [
        f"a prompt's choices are like those while its own continuation is generated by a cosine of {own} by layer,"
        f" like those of another of its domain by {same}, of another domain by {other}"
    ]


def _origin(found: Found) -> list[str]:
    if found["origin"] is None:
        return []
    ways: dict[tuple[float, str], list[Found]] = {}
    for layer in found["origin"]:
        ways.setdefault((layer["router_loss"], layer["batches"]), []).append(layer)
    return [
        f"trained anew, load-balancing loss {loss:g}, {batches} batches: {_mean(layers, 'jsd'):.3f} bits between a"
        f" domain and the others, Gini {_mean(layers, 'gini'):.2f}, mean energy {_mean(layers, 'mean_energy'):.0%}"
        for (loss, batches), layers in ways.items()
    ]


def _against(found: Found) -> list[str]:
    of = found["against"]
    if of is None:
        return []
    alike = "" if of["jaccard_top_p"] is None else f"; their top-p sets share {_percent(of['jaccard_top_p'])} (Jaccard)"
    return [f"against {of['model']}: rank-matched mass overlap {_percent(of['rank_matched_overlap'])}{alike}"]


def _causal(found: Found) -> list[str]:
    of = found["causal"]
    if of is None:
        return []
    random = (
        f"; one random expert in its layer: {_percent(of['accuracy']['random'])} right"
        if "random" in of["accuracy"]
        else ""
    )
    return [
        f"steering the one best expert for {of['domain']} by rule {of['rule']} (strength {of['strength']:g}): "
        f"{100 * of['delta']:+.1f} points [{100 * of['ci_low']:+.1f}, {100 * of['ci_high']:+.1f}] on {of['n']} "
        f"questions, p {_p(of['p_value'])}: {of['verdict']}, from {_percent(of['accuracy']['base'])}{random}"
    ]


def _domains(found: Found) -> list[str]:
    columns = ["jsd", "labels_mean", "labels_q95", "labels_p_adjusted"]
    columns += ["shared_jsd", "routers_mean", "routers_q95", "routers_p_adjusted"]
    lines = []
    for of in found["existence"]["domains"]:
        figures = [_cell(of[name], name.endswith("adjusted")) for name in columns]
        sizes = [found[what][of["domain"]] for what in ("texts", "tokens", "shared_tokens")]
        lines.append([of["domain"], *map(str, sizes), *figures, of["verdict"]])
    names = ["domain", "texts", "tokens", "shared", "bits", "labels: mean", "95%", "p (Holm)"]
    names += ["bits, shared", "routers: mean", "95%", "p (Holm)", "verdict"]
    return ["**Existence** of each domain's experts, mean over layers", pipes(names, lines)]


def _layers(found: Found) -> list[str]:
    names = [
        "layer",
        "bits",
        "p (labels)",
        "p (routers)",
        "JS distance",
        "Jaccard top-k",
        "Jaccard top-p",
        "committee",
        "its share",
    ]
    names += ["Gini", "CV", "dead", "hot", "mean energy", "spread", "random rows"]
    lines = [
        [
            str(depth["layer"]),
            *(_cell(existence[name], name.endswith("_p")) for name in ("jsd", "labels_p", "routers_p")),
            *(f"{depth[name]:.3f}" for name in ("js_distance", "jaccard_top_k", "jaccard_top_p")),
            str(committee["members"]),
            _percent(committee["share"]),
            *(f"{load[name]:.2f}" for name in ("gini", "cv")),
            *(str(load[name]) for name in ("dead", "hot")),
            *(f"{direction[name]:.3f}" for name in ("mean_energy", "spread", "spread_random")),
        ]
        for existence, depth, committee, load, direction in zip(
            found["existence"]["layers"],
            *(found[key] for key in ("depth", "committee", "load", "direction")),
            strict=True,
        )
    ]
    return ["**Layers**, means over domains and pairs of them, and all domains together", pipes(names, lines)]


def _cell(value: float | None, is_p: bool) -> str:
    if value is None:
        return ""
    return _p(value) if is_p else f"{value:.4f}"


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%"


def _mean(layers: Sequence[Found], key: str) -> float:
    return sum(layer[key] for layer in layers) / len(layers)


def _range(layers: Sequence[Found], key: str, form: str) -> str:
    """The least and the most over the layers that have a figure; a dash where none has."""
    figures = [layer[key] for layer in layers if layer[key] is not None]
    if not figures:
        return "\N{EN DASH}"
    low, high = (f"{pick(figures):{form}}" for pick in (min, max))
    return low if low == high else f"{low} to {high}"
