"""Words that say little or much of a variable: "scarce", "inadequate", "insufficiently", "poorer".

The lists hold plain words; `state_of` also knows their adverbs and comparatives, and what "un-",
"in-" or "sub-" makes of them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

LOW, HIGH = "low", "high"

_LITTLE = frozenset(
    """
    absence absent adverse awful backward bad barely barren boring
    cheap chilly cloudy cold compromised cool dangerous dearth declining decreased deficiency
    deficient degraded delayed denied depressed deprived deteriorated deteriorates
     dim diminished disadvantaged disappointing dissatisfied dreadful dull easy empty
    faint far feeble few fragile frail frustrating generic gloomy hardly harmful horrible idle
    impaired impoverished inclement inferior irreversible jobless lack lacking lackluster
    lacks late lazy less lesser light limited little loose lousy low malnourished meager meagre
    mediocre mild minimal minor modest narrow needy negative negligible night nil
    nonexistent occasional overcast paucity penniless petty poor poverty quiet rare
    reduced rejected restricted rigid rudimentary scant scanty scarce scarcity sedentary seldom
    shallow short shortage silent slack slight slim slow sluggish small soft sparse stagnant
    stormy stunted subdued subpar substandard superficial suppressed terrible thin tiny trivial
    undernourished underwhelming undeveloped uneducated unpredictable untalented untrained
    vacant vulnerable weak worse worsened worsens worst young
    """.split()  # noqa: SIM905
)

_MUCH = frozenset(
    """
    abundance abundant accepted accessible accurate active acute adequate advanced affluent
    ample appropriate approved available balanced beneficial best better big boosted bountiful
    bright brilliant brisk broad busy cautious challenging clear close coherent comfortable
    competent complete considerable consistent constructive convenient cooperative
    copious correct costly critical crowded decisive deep dense desirable difficult diligent
    diverse dynamic early effective efficient elevated elite energetic enhanced enormous
    enthusiastic excellent exceptional excessive exciting exemplary expensive experienced
    expert extensive extraordinary extreme fantastic fast favorable favourable fierce fine fit
    fitting flawless flexible flourishing fortunate frequent fruitful full functional generous
    good granted great happier hard harsh healthy heavy heightened high hot huge ideal
    immense important impressed impressive improved increased intense intensive large lively
    long lots lucrative many marked massive mature meaningful moist morning motivated multiple
    necessary notable numerous nutritious old optimal optimum outstanding perfect pleasant
    plentiful plenty popular positive powerful precise present productive proficient
    profitable profound profuse prolonged prominent pronounced prosperous punctual qualified
    quick rapid regular reliable remarkable resilient responsive restful rich rigorous
    robust safe satisfactory satisfying seasoned secure serious severe sharp
    significant sizable sizeable skilled skillful smooth solid sound speedy splendid stable
    steady steep stellar strategic strict strong substantial successful sufficient suitable
    sunny superb superior supportive surplus sustainable sustained tall terrific thick thorough
    thriving top tough tremendous unique valuable varied vast vibrant vigorous warm wealthy well
    wide widespread wonderful
    """.split()  # noqa: SIM905
)
NEGATIONS = ("un", "in", "im", "ir", "il", "dis", "dys", "non", "sub", "under", "mal")
_NO_STATE = frozenset("presently nearly lately newly shortly".split())  # noqa: SIM905
_ENDINGS = (("ily", "y"), ("ier", "y"), ("iest", "y"), ("ally", ""), ("ly", ""), ("ly", "le"))
_COMPARED = (("er", ""), ("er", "e"), ("est", ""), ("est", "e"))


@functools.cache
def state_of(word: str) -> str | None:
    """LOW, HIGH, or None where the word says neither."""
    if word in _NO_STATE:
        return None
    if state := _plain_state(word):
        return state
    for prefix in NEGATIONS:
        if word.startswith(prefix) and (state := _plain_state(word.removeprefix(prefix))):
            return LOW if state == HIGH else HIGH
    return None


def _plain_state(word: str) -> str | None:
    for form in _forms(word):
        if form in _LITTLE:
            return LOW
        if form in _MUCH:
            return HIGH
    return None


def _forms(word: str) -> Iterator[str]:
    """A word, and the adjectives that it may be an adverb or a comparative of."""
    yield word
    for ending, instead in (*_ENDINGS, *_COMPARED):
        if word.endswith(ending) and len(word) > len(ending) + 2:
            stem = word.removesuffix(ending)
            yield stem + instead
            if stem[-1] == stem[-2]:
                yield stem[:-1]
