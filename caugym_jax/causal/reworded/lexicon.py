"""The words that the reader of reworded texts knows.

Every line of SAME and AKIN is a class. Words of one class in SAME are one word to the reader. Words
of one class in AKIN are taken for each other only where a text leaves no other way: where a phrase
names no variable otherwise, or where a graph would fall to pieces.
"""

# They say which variable is meant no better than leaving them out.
FILLER = frozenset(
    """
    a an the of in on to for with by at from and or both their its his her your this that these
    those it level amount quantity degree state status overall general total individual person
    people subject one someone who whose which is are be being been was were value current
    currently same condition rate extent volume outcome observed given any also receive
    received get gets certain variable factor either each such as whether if how has have
    having had attainment content function functioning system student pattern reading
    measurement experiencing number count frequency they them he she we you our maintain
    sustain remain stay become generate bring carry take hold possess exhibit experience
    undertake produce happen sustaining maintaining particular specific own cumulative personal
    subjective individual's someone's there will can may might could does do did not no
    existence presence occurrence actual risk chance likelihood probability impact type kind
    resulting associated patient athlete player resident citizen farmer driver user member
    participant respondent adult
    """.split()  # noqa: SIM905
)

# Of these, the ones that name a variable where nothing else does.
LAST_RESORT = frozenset(
    """
    quality condition status outcome system function student patient athlete player resident
    citizen farmer driver user member participant adult
    """.split()  # noqa: SIM905
)

# They name no variable and say nothing of one, whatever the text is about.
COMMON = frozenset(
    """
    if when where while whereas given among amongst within under assuming suppose supposing
    provided conditional conditioned once cases case instance scenario situation circumstance
    group subset individuals probability likelihood chance odds joint combined simultaneous
    together both conversely however additionally similarly also further then thus hence
    therefore furthermore moreover finally specifically overall baseline marginal prior
    respectively who whose whom increase decrease rise drop fall climb decline reduce raise
    lower change alter shift set adjust modify reach become exhibit show display demonstrate
    achieve attain lead make cause would could should will might had been instead
    counterfactual actual determine calculate compute find assess evaluate examine consider
    considering estimate identify maximum minimum maximal highest greatest upper bound limit
    possible value more less likely probable mediator mediating intermediate intermediary hold
    held keep kept fix fixed constant unchanged same effect impact influence directly direct
    indirect causal treatment treated necessity sufficiency natural controlled average
    regarding concerning compare compared relative versus than does do did is are was were be
    being have has and or but with without not no yes what which how whether in of on for to at
    by from the a an this that these those it its their them they he she his her there here
    between during after before out about into through via due per each any all every some such
    only even just still yet currently initially previously otherwise rather occur occurring
    occurrence equal equals stand standing certain particular specific level state status
    result results question query instruction task answer following follow apply observe
    observing observed know known hypothetical intervention intervene altered changing reducing
    increasing lowering raising setting
    """.split()  # noqa: SIM905
)

SAME = """
income earnings earn earner earners salary wage wages pay
performance result outcome achievement attainment success accomplishment productivity
education schooling school
satisfaction contentment fulfillment fulfilment gratification satisfied contented
happiness happy
precipitation rainfall rain rainfull rainy
weather wheather meteorological climate climatic
appearance apearance
air atmospheric atmosphere barometric
availability accessibility access accessible obtainability supply
car vehicle vehicular automobile auto
transport transit transportation
forecast prediction
health wellbeing wellness
exercise workout exerciser exercising
diet dietary eating eat
habit habits behavior behaviour practice
heart cardiovascular cardiac
lung respiratory pulmonary breathing
mental psychological
physical bodily somatic
weight mass
parent parental parents
child kid offspring children
job occupation occupational work workplace vocational professional profession
title position rank
status standing
price cost pricing expense
fuel gasoline petrol gas
advertising ad ads advertisement advertisements
spending expenditure expenditures investment budget
revenue proceeds turnover
product goods item merchandise
customer client consumer shopper buyer
review feedback rating
crop harvest agricultural farm
yield output
number quantity count amount
illness disease disorder ailment sickness
severity seriousness intensity
policy regulation legislation
government governmental
teaching instruction instructional teach
decision decide choice choose opt
comprehension understanding grasp understand comprehend
preparation preparedness readiness prepared
exam examination test exams
study studying studied studies
machine machinery equipment
plant facility factory
profitability profit
efficiency efficient
immune immunity
calorie caloric calories
intake consumption consume
moisture wetness
river stream
beach seaside beachgoer
attendance visitor visitors attendee attendees visit visits people
demand desire
sales sale sell sold selling
stress stressful strain
talent aptitude gift giftedness talented
skill ability abilities
social interpersonal
site website web online
grade mark
course class
flooding flood
fitness fit
loan lending credit-granting
saving savings
employee worker staff workforce
company firm corporate corporation business
student pupil learner
credit creditworthiness
score rating-score
pollution contamination
speed velocity
accident crash collision
delay lateness
reservoir
congestion jam jams
sunscreen sunblock
balance equilibrium
fire wildfire blaze
passenger traveler traveller
flight airplane aircraft plane
college university
admission admittance enrollment
smoking tobacco cigarette
pest insect
fertilizer fertiliser manure
irrigation watering
injury wound
competitor rival competition
neighborhood neighbourhood community
teacher instructor educator
peer friend friends
longevity lifespan
manager supervisor
sunlight sunshine
cancer tumor tumour
medicine medication drug
treatment therapy
symptom symptoms
coffee caffeine
leisure recreation
tourist tourism
restaurant eatery
population inhabitants
water aquatic
noise sound
"""

AKIN = """
performance grade mark score sales
yield productivity production output
growth development
health happiness fitness
weather sky
rain wet storm
car traffic congestion road density
crop yield production plant agriculture growth
job employment career employ hire unemploy
exercise activity training gym fitness
revenue income profit money financial finance
review opinion rating satisfaction
teaching lesson
education academic
diet nutrition food meal
weight obesity slim heavy size
water drinking supply
advertising marketing promotion campaign
visit traffic attendance
loan approval borrowing lender
transport bus train commute
moisture humidity
temperature heat thermal
sleep rest
study exam preparation
material content comprehension
umbrella
dry wet
parent family household
child youngster son daughter
decision umbrella carrying
policy government
talent skill ability
appearance attractiveness beauty
stress anxiety tension
"""
