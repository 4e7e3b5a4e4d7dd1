"""The words of generated problems: domains for `real` names, a pool for `random` ones, states."""

from __future__ import annotations

import string

import numpy as np

LOW_HIGH = ("low", "high")
KINDS = ("real", "random", "fake")
ALL_KINDS = (*KINDS, "shared")

# Each domain lists variables in a plausible causal order (earlier may cause later), with the
# words for the values 0 and 1.
_DOMAINS = """
farming = seasonal rainfall: low/high; air temperature: cold/hot; irrigation: limited/abundant;
soil moisture: low/high; fertilizer use: low/high; soil fertility: poor/excellent; insect damage:
light/heavy; plant growth: slow/fast; grain yield: low/high; grain quality: poor/good

schooling = family income: low/high; parental support: weak/strong; class size: small/large;
teacher training: poor/excellent; student motivation: low/high; school attendance:
irregular/regular; homework completion: low/high; reading ability: poor/good; exam result:
bad/good; university admission: unsuccessful/successful

heart health = age: young/old; daily walking: little/a lot; salt intake: low/high; diet quality:
unhealthy/healthy; smoking habit: light/heavy; body weight: low/high; cholesterol level: low/high;
arterial pressure: low/high; heart function: weak/strong; life expectancy: short/long

city traffic = fuel price: low/high; road maintenance: poor/good; bus service: limited/abundant;
number of cars: few/many; road works: few/many; traffic flow: slow/fast; commuting time:
short/long; noise level: low/high; accident rate: low/high; driver satisfaction: low/high

retail = store location: bad/good; advertising budget: small/large; staff training:
inadequate/adequate; product variety: limited/abundant; shelf price: low/high; customer traffic:
low/high; customer service: poor/excellent; customer loyalty: weak/strong; monthly sales:
low/high; store profit: low/high

river = snow melt: slow/fast; mountain rainfall: low/high; river flow: weak/strong; water
temperature: cold/warm; algae growth: slow/fast; water clarity: poor/good; oxygen level: low/high;
fish population: small/large; bird population: small/large; fishing income: low/high

factory = machine age: young/old; operator skill: low/high; maintenance schedule:
irregular/regular; raw material quality: poor/good; machine reliability: low/high; production
speed: slow/fast; defect rate: low/high; delivery time: short/long; unit cost: low/high; client
satisfaction: low/high

hospital = hospital funding: limited/abundant; nurse staffing: inadequate/adequate; equipment
quality: poor/excellent; waiting time: short/long; disease severity: mild/severe; early diagnosis:
unlikely/likely; treatment quality: poor/good; infection risk: low/high; recovery speed:
slow/fast; patient trust: weak/strong

sleep = work pressure: low/high; screen time: short/long; coffee intake: low/high; bedroom noise:
low/high; evening exercise: light/heavy; sleep duration: short/long; sleep depth: poor/good;
morning mood: bad/good; attention span: short/long; work accuracy: poor/excellent

housing = interest rate: low/high; local employment: weak/strong; building activity: low/high;
housing supply: limited/abundant; school reputation: negative/positive; crime rate: low/high;
neighborhood appeal: weak/strong; housing demand: low/high; house price: low/high; rental price:
low/high

software = team experience: low/high; project deadline: short/long; code review:
superficial/thorough; test coverage: low/high; code complexity: low/high; bug count: low/high;
release frequency: low/high; system stability: unstable/stable; user feedback: negative/positive;
subscription growth: slow/fast

airport = wind strength: weak/strong; sky visibility: poor/good; runway capacity:
limited/abundant; crew availability: low/high; security queue: short/long; boarding speed:
slow/fast; flight punctuality: late/on time; baggage handling: inefficient/efficient; missed
connections: few/many; airline rating: bad/good

sport = coach experience: low/high; training load: light/heavy; nutrition plan: poor/excellent;
rest time: short/long; injury risk: low/high; muscle strength: weak/strong; running speed:
slow/fast; team spirit: weak/strong; match result: bad/good; fan support: weak/strong

forest = summer drought: mild/severe; logging activity: low/high; tree density: low/high;
undergrowth: sparse/dense; fire risk: low/high; air quality: bad/good; deer population:
small/large; wolf population: small/large; tourist visits: few/many; park revenue: low/high
"""


def _domains(text: str) -> dict[str, tuple[tuple[str, ...], ...]]:
    """By domain its variables as (name, word for 0, word for 1)."""
    found = {}
    for paragraph in text.split("\n\n"):
        domain, _, variables = " ".join(paragraph.split()).partition(" = ")
        pairs = (variable.split(": ") for variable in variables.split("; "))
        found[domain] = tuple((name, *states.split("/")) for name, states in pairs)
    return found


DOMAINS = _domains(_DOMAINS)
# Names for `random`: each also appears with low and high on a graph that means nothing.
_POOL = """
market demand, public opinion, blood pressure, amount of exercise, stress level, job satisfaction,
education level, mental health, physical health, humidity level, work-life balance, traffic
congestion, sales performance, quality of teaching, government spending, appearance, talent,
temperature, rainfall, income level, air pressure, social trust, energy price, reading speed,
battery life, music volume, garden size, bread consumption, tax rate, internet speed, ice
thickness, museum visits, screen brightness, bicycle use, water pressure, pollen count, voter
turnout, steel output, tea consumption, memory capacity
"""
POOL: tuple[str, ...] = tuple(" ".join(_POOL.split()).split(", "))

# Names for `shared`: an owner's traits.
OWNERS = ("a person's", "a student's", "a patient's", "a company's", "a city's", "the child's")
TRAITS = (
    *("income", "education level", "income level", "stress level", "energy level", "health"),
    *("physical health", "mental health", "activity", "physical activity", "experience"),
    *("work experience", "performance", "reputation", "growth", "sleep quality", "diet quality"),
)

VARIABLE_NAMES: tuple[str, ...] = tuple(
    dict.fromkeys([*POOL, *(name for domain in DOMAINS.values() for name, _, _ in domain)])
)
STATE_PAIRS: tuple[tuple[str, str], ...] = tuple(
    dict.fromkeys([LOW_HIGH, *((a, b) for domain in DOMAINS.values() for _, a, b in domain)])
)


def draw_names(
    rng: np.random.Generator, kind: str, n: int
) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Names and state words for nodes 0..n-1.

    real: n variables of one domain in its causal order (beyond a domain's length: `random`);
    random: from the pool in any order; fake: strings of four letters; shared: traits of one owner,
    whose names begin alike.
    """
    if kind == "fake":
        words: dict[str, None] = {}
        while len(words) < n:
            letters = rng.integers(len(string.ascii_lowercase), size=4)
            words["".join(string.ascii_lowercase[i] for i in letters)] = None
        return tuple(words), (LOW_HIGH,) * n
    if kind == "shared":
        owner = OWNERS[rng.integers(len(OWNERS))]
        chosen = rng.choice(len(TRAITS), size=n, replace=False)
        return tuple(f"{owner} {TRAITS[i]}" for i in chosen), (LOW_HIGH,) * n
    domains = list(DOMAINS.values())
    domain = domains[rng.integers(len(domains))]
    if kind == "random" or n > len(domain):
        chosen = rng.choice(len(POOL), size=n, replace=False)
        return tuple(POOL[i] for i in chosen), (LOW_HIGH,) * n
    rows = [domain[i] for i in sorted(rng.choice(len(domain), size=n, replace=False))]
    return tuple(row[0] for row in rows), tuple((row[1], row[2]) for row in rows)
