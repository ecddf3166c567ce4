"""The worker process, `python -m halftime.verbs.serve.worker`.

The engine starts it, and talks to it over standard input and output.
"""

from __future__ import annotations

import sys

from halftime.base.errors import HalftimeError
from halftime.base.source import in_a_sentence
from halftime.verbs.serve.wire import CannotServe, Channel


def main() -> int:
    """Serve until the engine closes the pipe. 0, or 1 where this pipeline cannot be loaded or
    warmed up."""
    channel = Channel.over_standard_streams()
    begin = channel.begin()
    if begin is None:
        return 0
    channel.listen()
    try:
        # Torch is imported after the pipe is set up: what libraries print must not get into it.
        from halftime.verbs.serve.batches import Worker

        Worker(channel, begin).run()
    # within a batch errors become answers: this one comes from loading or from the warm-up
    except Exception as error:
        text = str(error) if isinstance(error, HalftimeError) else in_a_sentence(error)
        channel.send(CannotServe(message=text))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
