"""`halftime serve` with two workers that have no model: the server itself, for what does not depend
on pictures.

    python -m benchmarks.serve.stand_in FAULT_FILE

A worker whose process id stands in FAULT_FILE fails in every call. The workers are those of the
tests (tests/verbs/serve/fake_worker.py); a picture takes them 0.2 s.
"""

from __future__ import annotations

import sys
from pathlib import Path

from halftime.base.listening import address_of, listening_socket
from halftime.http.server import STALLED_SECONDS
from halftime.verbs.serve.engine import Engine
from halftime.verbs.serve.messages import EngineSettings
from halftime.verbs.serve.run import hosts_for, run
from halftime.verbs.serve.service import HttpSettings

TESTS = Path(__file__).parents[2] / "tests"
STEP_SECONDS = 0.05


def main() -> int:
    sys.path.insert(0, str(TESTS))
    from serve_fake import WorkerScript

    settings = EngineSettings(model="sticky", recipe=sys.argv[1], workers=2, queue_limit=16)
    listener = listening_socket("127.0.0.1", 0, stalled_seconds=STALLED_SECONDS)
    print(f"halftime serve on {address_of(listener)} with fake", flush=True)
    engine = Engine(settings, command=WorkerScript(step_seconds=STEP_SECONDS).command)
    return run(engine, HttpSettings(model="fake", hosts=hosts_for("127.0.0.1")), listener)


if __name__ == "__main__":
    sys.exit(main())
