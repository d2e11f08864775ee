"""The process that brings jobs to their end: it gives them their turn, follows them, and keeps what comes of them.

claims              whose turn it is, and the locks by which one dispatcher works for a job
loop                the turns of the process
tending             one look at a job that runs, and what follows from it
reading             events of a run as events of a job
keeping, finishing  checkpoints, and results
chores              what else is done again and again, of all rooms
"""
