"""`profile`: where does the time of one call go? A ledger of stages that adds up to the wall clock."""

from halftime.profile.run import profile
from halftime.verbs import callable_package

__all__ = ["profile"]

callable_package(__name__, profile)
