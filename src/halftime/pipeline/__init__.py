"""One room for a pipeline: load it, what it holds, where it runs, what its call takes.

Each of these is a module; the names of the former module `halftime.pipeline` are kept for a while.
"""

from typing import TYPE_CHECKING

from halftime._renamed import attributes_of

if not TYPE_CHECKING:  # this package was a module
    __getattr__ = attributes_of(__name__)
