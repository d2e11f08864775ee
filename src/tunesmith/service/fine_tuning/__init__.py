"""Fine-tuning jobs: OpenAI's routes for them, their states, and what a request becomes as a recipe.

schema, options     what requests say and what answers are made of
mapping, auto       a request as a recipe, and the values that ``auto`` stands for
states, telling     a job's states with every allowed step between them, and the events that tell of each
create, service     what the routes do
report, stream      what a job's run left and what it is doing, for pages
estimate            what a job would take, before it is made
"""
