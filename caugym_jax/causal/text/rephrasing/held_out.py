"""The half of the wordings that only test problems are worded in."""

from caugym_jax.causal.text.rephrasing.grammar import Half

HELD_OUT = Half(
    headers=(
        "Let us invent a universe whose mechanisms are all spelled out in what follows.",
        "Below is a toy model; no cause outside of it matters.",
        "This puzzle is set in an artificial environment, of which nothing is left unsaid.",
        "For the sake of argument, suppose that reality obeys just these mechanisms:",
        "A researcher has drawn up a causal diagram without any omissions, and explains it:",
        "Everything that drives this hypothetical environment is stated here:",
        "Imagine that the diagram described now is the whole truth.",
    ),
    edges=(
        "{cause} affects {effect} without any intermediary.",
        "{effect} is immediately governed by {cause}.",
        "{cause} feeds straight into {effect}.",
        "An arrow points from {cause} to {effect}.",
        "{cause} belongs to the factors that immediately determine {effect}.",
        "{effect} is partly set by {cause}, with nothing in between.",
        "Nothing stands between {cause} and its effect on {effect}.",
        "{cause} bears immediately on {effect}.",
        "{cause} drives {effect} at first hand.",
        "{effect} takes {cause} as an immediate input.",
        "{cause} ranks among the immediate determinants of {effect}.",
        "Whatever happens to {cause} is passed straight on to {effect}.",
        "{effect} has {cause} as one of its parents.",
    ),
    fan_outs=(
        "{cause} feeds straight into {effects}, one as much as the other.",
        "Arrows point from {cause} to {effects}.",
        "The immediate consequences of {cause} include {effects}.",
        "{cause} drives, at first hand, {effects}.",
    ),
    fan_ins=(
        "The parents of {effect} include {causes}.",
        "{effect} is immediately governed by {causes}, each in its own right.",
        "Arrows from {causes} meet at {effect}.",
        "{causes} all feed straight into {effect}.",
    ),
    chains=(
        "{cause} feeds straight into {middle}, and {middle} feeds straight into {effect}.",
        "An arrow points from {cause} to {middle} and another one from there to {effect}.",
        "{cause} drives {middle} at first hand, just as {middle} drives {effect}.",
    ),
    joiners=(
        ", whereas ",
        ", and moreover ",
        "; on top of that, ",
    ),
    intros=(
        "Counting gave these results.",
        "A survey of this universe found what follows.",
        "Next come the measured frequencies.",
        "It has been established by observation that the numbers are these.",
    ),
    conditionals=(
        "As long as {given_c}, the event of {target_n} occurs at a rate of {p}.",
        "For subjects having {given_n}, the probability of {target_n} stands at {p}.",
        "Supposing that {given_c}, one finds {target_n} in a fraction {p} of the cases.",
        "Conditional on {given_n}, a case of {target_n} has probability {p}.",
        "Out of everyone having {given_n}, a share of {p} also has {target_n}.",
        "A fraction {p} of the subjects having {given_n} shows {target_n}.",
        "Restricting attention to {given_n}, the frequency of {target_n} comes to {p}.",
        "Observing {given_n} puts the probability of {target_n} at {p}.",
        "Seeing that {given_c}, one should expect with probability {p} that {target_c}.",
        "{target_n} follows in a fraction {p} of the situations where {given_c}.",
        "Assuming that {given_c}, it is true with probability {p} that {target_c}.",
        "Knowledge of {given_n} makes the probability of {target_n} equal to {p}.",
    ),
    pairs=(
        "As long as {given_c}, the event of {target_n} occurs at a rate of {p}, which changes to "
        "{q} as soon as {other_c}.",
        "Conditional on {given_n}, a case of {target_n} has probability {p}, as opposed to {q} "
        "conditional on {other_n}.",
        "Out of everyone having {given_n}, a share of {p} also has {target_n}; out of everyone "
        "having {other_n}, this share is {q}.",
    ),
    marginals=(
        "All in all, {target_n} occurs at a rate of {p}.",
        "Irrespective of everything else, {target_n} has probability {p}.",
        "The share of all subjects having {target_n} is {p}.",
        "A fraction {p} of all subjects shows {target_n}.",
        "The unconditional frequency of {target_n} comes to {p}.",
        "Before anything is observed, one should expect with probability {p} that {target_c}.",
        "On the whole it is true with probability {p} that {target_c}.",
    ),
    joints=(
        "All in all, {target_n} occur side by side at a rate of {p}.",
        "The share of all subjects having {target_n} in common is {p}.",
        "A fraction {p} of all subjects shows simultaneously {target_n}.",
        "Irrespective of everything else, the coincidence of {target_n} has probability {p}.",
        "It is jointly true with probability {p} that {target_c}.",
    ),
    clauses=(
        "{name} stands at {state}",
        "{name} takes the value {state}",
        "{name} turns out to be {state}",
    ),
    nouns=(
        "{name} at {state}",
        "{name} = {state}",
        "{name} in the state {state}",
    ),
    instructions=(
        "What follows concerns the {quantity} of {x} on {y}, or {task} for short.",
        "Compute the {task}, i.e. the {quantity}, that {x} has on {y}.",
        "We are after the {task} ({quantity}) with {x} as cause and {y} as outcome.",
        "Determine how {x} acts on {y} in terms of the {quantity} ({task}).",
    ),
    labels=(
        "Query: ",
        "What we want to know: ",
        "The problem: ",
    ),
    questions={
        "ATE": (
            "Were {x} moved to {to} by decree, would that tip {y} towards {asked}?",
            "Is it true that {y} comes out {asked} more often in a world where {x} is made to be "
            "{to}?",
            "Will imposing {x} = {to} on everyone lead to a higher frequency of {y} = {asked}?",
            "Can one promote {y} = {asked} by bringing {x} to {to}?",
            "Were we to fix {x} at {to}, should we expect {y} to be {asked} more frequently?",
            "On average, is {y} = {asked} favoured by an action that renders {x} {to}?",
            "Does everyone's {x} becoming {to} push up the share with {y} = {asked}?",
            "Should {x} be brought to {to} from outside, would {y} = {asked} gain in frequency?",
        ),
        "CDE": (
            "Were {held_n} imposed throughout, would moving {x} to {to} tip {y} towards {asked}?",
            "With {held_n} clamped, does {y} come out {asked} more often where {x} is made to be "
            "{to}?",
            "Can one promote {y} = {asked} by bringing {x} to {to} as {held_n} cannot change?",
            "Clamping {held_n}, should we expect {y} to be {asked} more frequently were {x} fixed "
            "at {to}?",
            "If nobody's condition may differ from {held_n}, will {x} = {to} lead to a higher "
            "frequency of {y} = {asked}?",
            "Under an experiment that pins {held_n}, does rendering {x} {to} favour {y} = {asked}?",
            "Once we see to it that {held_c}, would {x} = {to} push up the share with {y} = "
            "{asked}?",
            "Where an experimenter dictates that {held_c}, would {y} = {asked} gain in frequency "
            "by {x} = {to}?",
        ),
        "ETT": (
            "Of the subjects that got {x} = {away}, would a larger share have had {y} = {asked} "
            "had they got {x} = {to}?",
            "Turning to everyone with {x} = {away}: in the alternative history with {x} = {to}, "
            "does {y} come out {asked} more often for them?",
            "Would precisely those subjects having {x} = {away} have shown {y} = {asked} more "
            "frequently in case of {x} = {to}?",
            "Restricted to reality's {x} = {away}, would the counterfactual {x} = {to} tip {y} "
            "towards {asked}?",
            "As for subjects who ended up with {x} = {away}, should one think that {y} = {asked} "
            "would have been favoured by {x} = {to}?",
            "Rewind the lives of those with {x} = {away} and give them {x} = {to}: does {y} = "
            "{asked} gain in frequency?",
            "Would subjects with an actual {x} = {away} have profited from {x} = {to} in terms of "
            "a higher frequency of {y} = {asked}?",
            "Only for subjects showing {x} = {away}, can one say that {x} = {to} in its place "
            "would have promoted {y} = {asked}?",
        ),
        "NDE": (
            "With every intermediate variable frozen, would moving {x} to {to} tip {y} towards "
            "{asked}?",
            "Were {x} moved to {to} behind the back of the intermediate variables, should we "
            "expect {y} to be {asked} more frequently?",
            "Not counting any detour, is {y} = {asked} favoured by {x} = {to}?",
            "If the intermediate variable stayed at its former value, would {x} = {to} lead to a "
            "higher frequency of {y} = {asked}?",
            "Does the arrow from {x} to {y} alone, fed with {x} = {to}, push up the share with "
            "{y} = {asked}?",
            "Let {x} become {to} for {y} only, the intermediate variables seeing the old {x}: "
            "does {y} = {asked} gain in frequency?",
            "Can one promote {y} = {asked} by {x} = {to} although the intermediate variable "
            "refuses to follow?",
            "Blocking every detour, does {y} come out {asked} more often where {x} is made to be "
            "{to}?",
        ),
        "NIE": (
            "With {x} frozen and the intermediate variables acting as for {x} = {to}, would that "
            "tip {y} towards {asked}?",
            "Were the intermediate variables alone told that {x} moved to {to}, should we expect "
            "{y} to be {asked} more frequently?",
            "Counting nothing but detours, is {y} = {asked} favoured by {x} = {to}?",
            "If the intermediate variable alone went where {x} = {to} sends it, would there be a "
            "higher frequency of {y} = {asked}?",
            "Do the detours from {x} to {y}, fed with {x} = {to}, push up the share with {y} = "
            "{asked}?",
            "Let {x} become {to} for the intermediate variables only, {y} seeing the old {x}: "
            "does {y} = {asked} gain in frequency?",
            "Can one promote {y} = {asked} by lifting the intermediate variable to its level for "
            "{x} = {to} as {x} stands still?",
            "Blocking the arrow from {x} to {y}, does {y} come out {asked} more often where {x} "
            "is made to be {to}?",
        ),
        "PN": (
            "Somebody shows {x} = {away} and {y} = {other_state}; within the given data, what is "
            "the {bound} for the probability that {x} = {to} would have prevented this by {y} = "
            "{asked}?",
            "Can {y} = {other_state} be put down to {x} = {away}? State the {bound} for the "
            "probability that {x} = {to} would have meant {y} = {asked}.",
            "After {x} = {away} came {y} = {other_state}: give the {bound} for the probability "
            "that {y} = {asked} would have come after {x} = {to}, making the former indispensable.",
            "Which number is the {bound} for the probability that, absent {x} = {away} (so {x} = "
            "{to}), an observed {y} = {other_state} would have turned into {y} = {asked}?",
            "Was {x} = {away} indispensable for {y} = {other_state}? Report the {bound} for the "
            "probability of {y} = {asked} had it been {x} = {to}.",
            "Looking back at {x} = {away} with {y} = {other_state}, what is the {bound} for the "
            "probability that {y} = {asked} would have resulted from {x} = {to} in its absence?",
            "Blame {x} = {away} for {y} = {other_state}: what is the {bound} for the probability "
            "that the blame is right because {x} = {to} would have given {y} = {asked}?",
            "Since {x} = {away} and {y} = {other_state} occurred, what is the {bound} for the "
            "probability of an averted outcome, {y} = {asked}, had {x} = {to} occurred?",
        ),
        "PS": (
            "Somebody shows {x} = {away} and {y} = {other_state}; within the given data, what is "
            "the {bound} for the probability that {x} = {to} would have triggered {y} = {asked}?",
            "Does {x} = {to} do the job alone? For subjects with {x} = {away} and {y} = "
            "{other_state}, state the {bound} for the probability that it would have meant {y} = "
            "{asked}.",
            "Without {x} = {to}, {x} being {away}, there was {y} = {other_state}: give the "
            "{bound} for the probability that supplying it would have yielded {y} = {asked}.",
            "Which number is the {bound} for the probability that, once {x} = {away} gives way to "
            "{x} = {to}, an observed {y} = {other_state} would have been lifted to {y} = {asked}?",
            "Would {x} = {to} have done it? Report the {bound} for the probability of {y} = "
            "{asked} on introducing it where {x} = {away} and {y} = {other_state}.",
            "Looking ahead from {x} = {away} with {y} = {other_state}, what is the {bound} for "
            "the probability that {x} = {to} is all that {y} = {asked} takes?",
            "Credit {x} = {to} with the power to bring about {y} = {asked}: what is the {bound} "
            "for the probability that it works where {x} = {away} and {y} = {other_state}?",
            "Since neither was present, {x} = {away} and {y} = {other_state} being the case, what "
            "is the {bound} for the probability of an induced {y} = {asked} through {x} = {to}?",
        ),
    },
    bounds={
        "lower": (
            "floor",
            "lowest conceivable figure",
            "tightest guarantee from below",
        ),
        "upper": (
            "ceiling",
            "highest conceivable figure",
            "tightest guarantee from above",
        ),
    },
    formats=(
        "Finish with JSON of the form {form}; round the figure to four decimals:",
        "Respond by means of an object like {form}, whose figure has four decimals:",
        "Express your conclusion (yes or no, and a figure with four decimals) as in {form}:",
        "Conclude with something like {form}, the figure being rounded to four decimals:",
    ),
    bound_formats=(
        "Finish with JSON of the form {form}; the figure has four decimals:",
        "Respond by means of an object like {form}, giving four decimals:",
        "Express your conclusion (a figure with four decimals) as in {form}:",
        "Conclude with something like {form}, rounding to four decimals:",
    ),
)
