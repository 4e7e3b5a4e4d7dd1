"""The half of the wordings that training problems are worded in."""

from caugym_jax.causal.text.rephrasing.grammar import Half

TRAIN = Half(
    headers=(
        "Picture a closed, made-up world in which only the causal links below exist:",
        "Consider an invented setting. Its complete causal structure is as follows.",
        "Think of a small system that is fully described by the following causal relations.",
        "Here is an imaginary case; besides the causes named here, nothing plays a part.",
        "In a fictional world, these are the only causal connections, with no hidden factors:",
        "Assume a scenario whose every causal connection is listed in the next sentences.",
        "You are given a complete account of which variables act on which others.",
        "Take the following description of cause and effect to be complete.",
    ),
    edges=(
        "{cause} directly influences {effect}.",
        "{cause} is a direct cause of {effect}.",
        "{cause} exerts a direct influence on {effect}.",
        "{effect} is directly affected by {cause}.",
        "{effect} depends directly on {cause}.",
        "There is a direct causal link from {cause} to {effect}.",
        "{cause} directly shapes {effect}.",
        "A change in {cause} acts directly on {effect}.",
        "{effect} responds directly to {cause}.",
        "Among the direct causes of {effect} is {cause}.",
        "{cause} makes a direct contribution to {effect}.",
        "One direct driver of {effect} is {cause}.",
        "{effect} is, in part, a direct result of {cause}.",
        "{cause} has a direct impact on {effect}.",
    ),
    fan_outs=(
        "{cause} directly influences each of {effects}.",
        "{cause} has a direct impact on all of these: {effects}.",
        "{effects} are each directly affected by {cause}.",
        "Direct causal links lead from {cause} to {effects}.",
        "{cause} is a direct cause of {effects} alike.",
    ),
    fan_ins=(
        "{causes} each have a direct impact on {effect}.",
        "{effect} depends directly on each of {causes}.",
        "{effect} has several direct causes, namely {causes}.",
        "{causes} all directly shape {effect}.",
        "{effect} is directly affected by all of these: {causes}.",
    ),
    chains=(
        "{cause} directly influences {middle}, which in turn directly influences {effect}.",
        "{middle} is directly affected by {cause} and itself acts directly on {effect}.",
        "{cause} is a direct cause of {middle}, and {middle} is a direct cause of {effect}.",
        "{effect} depends directly on {middle}, which depends directly on {cause}.",
    ),
    joiners=(
        "; ",
        ", while ",
        "; in addition, ",
    ),
    intros=(
        "The following probabilities are known.",
        "The data show the following.",
        "These figures have been recorded.",
        "About this world we also know some probabilities.",
    ),
    conditionals=(
        "When {given_c}, the probability that {target_c} is {p}.",
        "If {given_c}, the chance that {target_c} is {p}.",
        "With {given_n}, the likelihood of {target_n} is {p}.",
        "In cases where {given_c}, we see {target_n} with probability {p}.",
        "Given {given_n}, the probability of {target_n} equals {p}.",
        "Among cases with {given_n}, the proportion with {target_n} is {p}.",
        "The chance of {target_n} given {given_n} is {p}.",
        "Provided that {given_c}, there is a probability of {p} that {target_c}.",
        "The probability that {target_c}, given that {given_c}, is {p}.",
        "Whenever {given_c}, the probability of {target_n} amounts to {p}.",
        "Looking only at cases with {given_n}, we find that {target_n} has a probability of {p}.",
        "Once it is known that {given_c}, the likelihood that {target_c} is {p}.",
        "Under {given_n}, it happens with probability {p} that {target_c}.",
        "The likelihood that {target_c} when {given_c} is {p}.",
    ),
    pairs=(
        "When {given_c}, the probability that {target_c} is {p}, whereas when {other_c} it is {q}.",
        "The chance of {target_n} is {p} given {given_n} and {q} given {other_n}.",
        "If {given_c}, the likelihood of {target_n} is {p}; if {other_c}, it is {q}.",
        "With {given_n}, there is {target_n} with a probability of {p}, compared with {q} for "
        "{other_n}.",
    ),
    marginals=(
        "The overall probability that {target_c} is {p}.",
        "Overall, {target_n} has a probability of {p}.",
        "In general, the chance that {target_c} is {p}.",
        "The likelihood of {target_n} is {p}.",
        "Taking all cases together, the probability of {target_n} is {p}.",
        "Across the whole population, we see {target_n} with probability {p}.",
        "Without any condition, the probability that {target_c} equals {p}.",
        "As a general rule, {target_n} is seen with a probability of {p}.",
    ),
    joints=(
        "The joint probability of {target_n} is {p}.",
        "The probability that, at the same time, {target_c} is {p}.",
        "The chance of jointly seeing {target_n} is {p}.",
        "It holds together that {target_c} with probability {p}.",
        "Overall, the combination of {target_n} has a probability of {p}.",
        "The likelihood of the combination of {target_n} is {p}.",
    ),
    clauses=(
        "{name} is {state}",
        "{name} happens to be {state}",
        "{name} is observed to be {state}",
    ),
    nouns=(
        "{name} being {state}",
        "{state} {name}",
        "{name} that is {state}",
    ),
    instructions=(
        "Work out the {quantity} ({task}) of {x} on {y}.",
        "The quantity of interest is the {quantity} ({task}) of {x} on {y}.",
        "This is a question about the {quantity} ({task}) of {x} on {y}.",
        "Your task is to find the {quantity} ({task}) of {x} on {y}.",
    ),
    labels=(
        "Now the question: ",
        "To be answered: ",
        "Please answer this: ",
    ),
    questions={
        "ATE": (
            "If {x} were set to {to}, would {y} become more likely to be {asked}?",
            "Would setting {x} to {to} make it more likely that {y} is {asked}?",
            "Does making {x} {to} raise the probability of {y} being {asked}?",
            "Suppose someone steps in and makes {x} {to}; is {y} then more likely to be {asked}?",
            "Would an intervention that turns {x} to {to} increase the chance of {y} being "
            "{asked}?",
            "When {x} is changed to {to}, does it become more probable that {y} is {asked}?",
            "Is {y} more likely to end up {asked} when {x} is forced to be {to}?",
            "Compared with its opposite, does putting {x} at {to} make {y} more likely to be "
            "{asked}?",
            "Will {y} be {asked} with a higher probability if {x} is made {to}?",
            "By switching {x} to {to}, would one increase the probability that {y} is {asked}?",
        ),
        "CDE": (
            "With the condition fixed that {held_c}, would {y} have been more likely to be "
            "{asked} if {x} had been {to}?",
            "Holding {held_n}, would setting {x} to {to} make {y} more likely to be {asked}?",
            "While it is ensured that {held_c}, does making {x} {to} raise the probability of {y} "
            "being {asked}?",
            "Suppose it is kept fixed that {held_c}; would {x} being {to} then make {y} more "
            "likely to be {asked}?",
            "If {x} were set to {to} in a world held at {held_n}, would {y} be more likely to be "
            "{asked}?",
            "Given that we force {held_n}, does changing {x} to {to} increase the chance of {y} "
            "being {asked}?",
            "Fixing {held_n}, is it more probable that {y} is {asked} once {x} is made {to}?",
            "Had {x} been {to} while we made sure that {held_c}, would {y} have been {asked} with "
            "a higher probability?",
            "Under the fixed condition that {held_c}, would switching {x} to {to} increase the "
            "probability that {y} is {asked}?",
        ),
        "ETT": (
            "Take only the cases in which {x} is {away}; if {x} had instead been {to}, would {y} "
            "have been more likely to be {asked}?",
            "Among those whose {x} is actually {away}, would {y} have been more likely to be "
            "{asked} had {x} been {to}?",
            "For cases that in fact have {x} at {away}, would it have been more probable that {y} "
            "is {asked} if {x} had been {to}?",
            "Look at those for whom {x} was {away}: had their {x} been {to}, would their {y} have "
            "been {asked} with a higher probability?",
            "Where {x} was in fact {away}, would having {x} at {to} have raised the probability "
            "of {y} being {asked}?",
            "Consider just the group with {x} being {away}; would changing their {x} to {to} have "
            "made it more likely that {y} is {asked}?",
            "Of those who actually had {x} at {away}, would more have had {y} at {asked} if {x} "
            "had been {to}?",
            "For the group in which {x} is {away}, would {y} be more likely to be {asked} if, "
            "contrary to fact, {x} were {to}?",
            "Suppose that {x} is {away}; for such cases, would {y} have had a higher chance of "
            "being {asked} if {x} had been {to} instead?",
        ),
        "NDE": (
            "If {x} were set to {to} but all mediators stayed as they were, would {y} be more "
            "likely to be {asked}?",
            "With the mediator left at its natural value, would changing {x} to {to} make {y} "
            "more likely to be {asked}?",
            "Leaving out what passes through the mediator, does making {x} {to} raise the "
            "probability of {y} being {asked}?",
            "Suppose {x} is switched to {to} while the mediator does not react; is {y} then more "
            "likely to be {asked}?",
            "Would {y} have been more likely to be {asked} if {x} had been {to} and the mediator "
            "had kept the value it would have had without that change?",
            "Considering only the direct path, would {x} being {to} increase the chance of {y} "
            "being {asked}?",
            "When {x} is changed to {to} and the mediator is unaware of the change, does it "
            "become more probable that {y} is {asked}?",
            "If only the direct route from {x} to {y} felt the change of {x} to {to}, would {y} "
            "have been {asked} with a higher probability?",
            "Had {x} been {to} with no change in the mediator, would it have been more likely "
            "that {y} is {asked}?",
        ),
        "NIE": (
            "If {x} stayed as it was but the mediator took the value it would have with {x} at "
            "{to}, would {y} be more likely to be {asked}?",
            "With {x} itself untouched, and the mediator behaving as though {x} were {to}, would "
            "{y} be more likely to be {asked}?",
            "Counting only what passes through the mediator, does making {x} {to} raise the "
            "probability of {y} being {asked}?",
            "Suppose only the mediator reacts as if {x} had been switched to {to}; is {y} then "
            "more likely to be {asked}?",
            "Would {y} have been more likely to be {asked} if the mediator had moved to the value "
            "it takes under {x} being {to}, while {x} did not change?",
            "Considering only the indirect path, would {x} being {to} increase the chance of {y} "
            "being {asked}?",
            "When {x} is left alone and the mediator is given the value that {x} being {to} would "
            "produce, does it become more probable that {y} is {asked}?",
            "If only the indirect routes from {x} to {y} felt the change of {x} to {to}, would "
            "{y} have been {asked} with a higher probability?",
            "Keeping {x} fixed and letting the mediator respond as under {x} at {to}, would it be "
            "more likely that {y} is {asked}?",
        ),
        "PN": (
            "In a case where {x} was {away} and {y} was {other_state}, what is the {bound} of the "
            "probability that {y} would have been {asked} without this, that is, with {x} at {to}?",
            "Knowing that {x} was {away} and {y} was {other_state}, what is the {bound} of the "
            "probability that {x} was necessary, so that {y} would have been {asked} had {x} been "
            "{to}?",
            "Both {x} at {away} and {y} at {other_state} were observed; what is the {bound} of "
            "the probability that {y} would have been {asked} but for this, had {x} been {to}?",
            "How necessary was {x} being {away} for {y} being {other_state}, as the {bound} of "
            "the probability that {y} would be {asked} if {x} had been {to}?",
            "Find the {bound} of the probability of necessity: given {x} at {away} and {y} at "
            "{other_state}, {y} would have been {asked} if {x} had been {to}.",
            "We saw {y} at {other_state} after {x} was {away}; what is the {bound} of the "
            "probability that {y} needed this, and would have been {asked} with {x} at {to}?",
            "What is the {bound} of the probability that {y} would not have been {other_state} "
            "but {asked} if {x} had been {to}, given that {x} was {away} and {y} was "
            "{other_state}?",
            "Suppose {x} was {away} and {y} turned out {other_state}; what is the {bound} of the "
            "probability that undoing the cause, with {x} at {to}, would have left {y} at {asked}?",
        ),
        "PS": (
            "In a case where {x} was {away} and {y} was {other_state}, what is the {bound} of the "
            "probability that making {x} {to} would have been enough for {y} to be {asked}?",
            "Knowing that {x} was {away} and {y} was {other_state}, what is the {bound} of the "
            "probability that {x} at {to} would have sufficed to make {y} {asked}?",
            "Neither {x} at {to} nor {y} at {asked} was observed, but {x} at {away} and {y} at "
            "{other_state}; what is the {bound} of the probability that {x} at {to} would have "
            "produced {y} at {asked}?",
            "How sufficient would {x} being {to} be for {y} being {asked}, as the {bound} of the "
            "probability for cases in which {x} was {away} and {y} was {other_state}?",
            "Find the {bound} of the probability of sufficiency: given {x} at {away} and {y} at "
            "{other_state}, {y} would have become {asked} if {x} had become {to}.",
            "We saw {y} at {other_state} with {x} at {away}; what is the {bound} of the "
            "probability that bringing {x} to {to} would by itself have brought {y} to {asked}?",
            "What is the {bound} of the probability that {x} being {to} would be sufficient for "
            "{y} being {asked}, given that {x} was {away} and {y} was {other_state}?",
            "Suppose {x} was {away} and {y} stayed {other_state}; what is the {bound} of the "
            "probability that introducing the cause, with {x} at {to}, would have turned {y} "
            "{asked}?",
        ),
    },
    bounds={
        "lower": (
            "lower bound",
            "smallest possible value",
            "minimum value",
        ),
        "upper": (
            "upper bound",
            "largest possible value",
            "maximum value",
        ),
    },
    formats=(
        "Answer in JSON, as in {form}, with yes or no and the number to four decimal places:",
        "Your answer is a JSON object such as {form}, with the number to four decimal places:",
        "Reply with a verdict and a number of four decimal places in JSON, for example {form}:",
        "Write the verdict and the effect, rounded to four decimal places, as JSON like {form}:",
    ),
    bound_formats=(
        "Answer in JSON, as in {form}, with the number to four decimal places:",
        "Your answer is a JSON object such as {form}, its number having four decimal places:",
        "Reply with a number of four decimal places in JSON, for example {form}:",
        "Write the bound, rounded to four decimal places, as JSON like {form}:",
    ),
)
