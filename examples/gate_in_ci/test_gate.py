"""Fail where the pipeline waits more, or needs more operations or memory, than on main. Runs on any
CPU runner: counters have no noise.

`halftime_gate` comes with halftime's pytest plugin. Both versions run in processes of their own, so
the pipeline comes from a function that they can import.
"""

import pytest


@pytest.mark.halftime_gate("mypackage.pipelines:make_tiny", against="main", steps=4)
def test_no_worse_than_main(halftime_gate):
    halftime_gate()
