"""`replay`: the same workload as in a report, on this machine: what explains the difference?"""
