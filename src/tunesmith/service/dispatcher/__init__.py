"""The process that brings jobs to their end: it gives them their turn, follows them, and keeps what comes of them.

claims              whose turn it is, and the locks by which one dispatcher works for a job
loop                the turns of the process
tending             one look at a job, and what follows from it
holding             the lock by which this dispatcher works for a job, and what is written while it holds
following, reading  a job's run: sent out, told what people wish, its events as events of the job
ending              what a run's end means for its job
keeping, finishing  checkpoints, and results
chores              what else is done again and again, of all rooms
"""
