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
    absence absent adverse amateur awful backward bad barely barren basic below boring broke cheap chilly cloudy
    cold compromised cool dangerous dearth declining decreased deficiency deficient deficit
    degraded delayed denied depressed deprived deteriorated deteriorates difficulty dim diminished
    disadvantaged disappointing dissatisfied dreadful dull easy empty faint far feeble few fragile
    frail frustrating generic gloomy harmful hardly horrible idle impaired impoverished
    inclement inferior irreversible jobless junior lack lackluster lacking lacks late lazy less lesser light
    limited little loose lousy low malnourished meager meagre mediocre mild mini minimal minor
    modest narrow needy negative negligible night nil nonexistent novice occasional overcast
    paucity penniless petty poor poverty quiet rare reduced rejected restricted rigid rudimentary
    scanty scant scarce scarcity sedentary seldom short shortage shallow silent slack slight slim
    slow sluggish small soft sparse stagnant stormy stunted subdued substandard subpar superficial
    suppressed terrible thin tiny trivial underwhelming undernourished undeveloped
    uneducated unpredictable untalented untrained vacant vulnerable weak worse worsened worsens worst
    young
    """.split()  # noqa: SIM905
)

_MUCH = frozenset(
    """
    abundance abundant accepted accessible accurate active acute adequate advanced affluent ample
    appropriate approved available balanced beneficial best better big bountiful brisk bright
    brilliant boosted broad busy cautious challenging clear close coherent comfortable competent complete
    considerable consistent constructive controlled convenient cooperative copious correct costly
    critical crowded decisive deep dense desirable difficult diligent diverse dynamic early
    effective efficient elevated elite energetic enhanced enormous enthusiastic
    exceptional excess excessive exciting excellent exemplary expensive experienced expert
    extensive extraordinary extreme fantastic fast favorable favourable fierce fine fit fitting
    flawless flexible flourishing fortunate frequent fruitful full functional generous good grand
    granted great happier hard harsh healthy heavy heightened high hot huge ideal immense important impressed
    impressive improved increased intense intensive large lively long lots lucrative many marked
    massive mature meaningful moist morning motivated multiple necessary notable numerous
    nutritious old optimal optimum outstanding peak perfect pleasant plentiful plenty plus popular
    positive powerful precise present prime productive proficient profitable profound profuse
    prolonged prominent pronounced prosperous punctual qualified quick rapid raised regular
    reliable remarkable resilient responsive restful rich rigorous robust routine safe satisfactory
    satisfying seasoned secure senior serious severe sharp significant sizable sizeable skilled
    skillful smooth solid sound speedy splendid stable steady steep stellar strategic strict strong
    substantial successful sufficient suitable sunny superb superior supportive surplus
    sustainable sustained tall terrific thick thorough thriving top tough tremendous unique varied
    vast vibrant vigorous valuable warm wealthy well wide widespread wonderful
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


def is_degree(word: str) -> bool:
    """Whether a word of a state may only strengthen the one that follows: "highly limited"."""
    return word.endswith("ly") and state_of(word) is not None


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
