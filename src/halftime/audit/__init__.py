"""`audit`: where would the CPU and GPU wait for each other, and can the loop be captured? No GPU needed."""

from halftime.audit.run import audit
from halftime.verbs import callable_package

__all__ = ["audit"]

callable_package(__name__, audit)
