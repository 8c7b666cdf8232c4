"""Languages of the world: their ISO 639-1 codes and their weekdays, from Babel (the Unicode CLDR)."""

from babel import Locale

from dsmoe.domains.world import Fact

CODE_LENGTH = 2
# Written in Latin letters, with seven weekdays in one word each.
WEEKDAYS_OF = (
    "af", "cs", "da", "de", "es", "et", "eu", "fi", "fr", "gl", "hr", "hu", "id", "is", "it", "lt", "lv", "nl", "pl",
    "ro", "sv", "sw", "tr", "zu",
)  # fmt: skip


def facts() -> list[Fact]:
    """What language a code stands for, and the days of the week in a number of languages."""
    english = Locale("en")
    days = english.days["stand-alone"]["wide"]
    known = [
        Fact("code", name, f"The language code {code} stands for", name, (f"Web pages marked {code} are in",))
        for code, name in sorted(english.languages.items())
        # A name that begins with its code gives itself away.
        if len(code) == CODE_LENGTH and not name.casefold().startswith(code)
    ]
    for code in WEEKDAYS_OF:
        language = english.languages[code]
        translated = Locale(code).days["stand-alone"]["wide"]
        known += [
            Fact(
                f"weekday in {language}",
                language,
                f"The {language} word for {days[day]} is",
                translated[day],
                (f"Speakers of {language} call {days[day]}",),
            )
            for day in sorted(days)
        ]
    return known
