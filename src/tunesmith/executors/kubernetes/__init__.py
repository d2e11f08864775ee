"""A cluster of Kubernetes as a place where workers run, and models answer.

pod        names, labels, and the pod that a worker runs in     fitting    what a cluster cannot honour, refused
job, trainjob, rayjob   what is submitted, as plain data        states     what the platform says, as a job's state
cluster    the official client, its errors told as ours         executor, deployer   the two protocols
"""
