"""Words that mean the same, and words that are akin, in names of variables.

Every line is a class. Words of one class in SAME are one word to the reader. Words of one class in
AKIN are taken for each other only where a text leaves no other way: where a phrase names no
variable otherwise, or where a graph would fall to pieces.
"""

SAME = """
income earnings earn earner earners salary wage wages pay
performance result outcome achievement attainment success accomplishment productivity
education schooling school
satisfaction contentment fulfillment fulfilment gratification
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
"""

AKIN = """
performance grade mark score sales
yield productivity production output
health happiness fitness
weather sky
rain wet storm
car traffic congestion road
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
