"""Evaluations: a model measured on the rows of a file, a tuned one beside its base.

schema              what a request says, and how an evaluation is told
examine             what is wrong with the rows, before anything is loaded
service, router     what the routes do
states, beat        the states with every allowed step between them, and the lock while somebody works
work, reports       the measuring, and what it leaves: numbers, the report, what was used
chores              what goes by itself

The dispatcher's process has threads for it, and each starts a worker in a process of its own, so that a model that
takes all memory takes neither the dispatcher nor the API along. It measures on the dispatcher's machine also where jobs
train on a cluster: an evaluation loads one model once, which an executor would not make any faster, and the model and
the file come out of the storage, which every machine reaches. Give the dispatcher's machine the memory for it.
"""
