"""How numbers are shown: percent and points with one decimal, p values with three."""

from dsmoe.results import Comparison

MINUS = "\N{MINUS SIGN}"


def percent(fraction: float) -> str:
    """A fraction as percent with one decimal, without the sign."""
    return f"{100 * fraction:.1f}"


def plain_points(fraction: float) -> str:
    """A difference in points with its sign; minus is that of ASCII, for files that programs read."""
    return f"{100 * fraction:+z.1f}"


def plain_p(value: float) -> str:
    """A p value with three decimals, or that it is below them."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def points(fraction: float) -> str:
    """A difference in points with its sign, as it is shown."""
    return minus(plain_points(fraction))


def interval(comparison: Comparison) -> str:
    """A comparison's interval in points."""
    return f"[{points(comparison.ci_low)}, {points(comparison.ci_high)}]"


def visible(comparison: Comparison) -> str:
    """The smallest visible effect as percent; `none` where not even a gain on every question would have been seen."""
    return percent(effect) if (effect := comparison.smallest_visible_effect) < 1 else "none"


def seen(comparison: Comparison, how: str = "") -> str:
    """In words what would have been seen; `how` the p values were adjusted, where that has to be told."""
    if comparison.smallest_visible_effect >= 1:
        return f"{comparison.n} questions are too few to see any effect with power 0.8"
    return f"an effect of {visible(comparison)} points would have been seen with power 0.8{how}"


def p_text(value: float, equals: str = "= ") -> str:
    """A p value in words, with `equals` before it where it is not below the smallest that is shown."""
    text = plain_p(value)
    return text if text.startswith("<") else f"{equals}{text}"


def minus(text: str) -> str:
    """A number's text with a true minus sign."""
    return text.replace("-", MINUS)
