"""This machine.

worker   a process that trains     queue, supervisor    runs that wait for their turn, and who starts them
deployer, keeper   a server that answers, and who keeps it alive
"""
