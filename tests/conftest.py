"""What every test may rely on: one thread, no network, no leftovers of ours in the environment,
Ctrl-C that works."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: a second thread only costs
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# With an empty cache, Inductor compiles and loads a library to see that the compiler knows what the
# processor can do: 9 s, in every process whose compiled code is kept.
os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")

import pytest
import torch
from hypothesis import HealthCheck, settings

from collecting import freeze
from scheduling import WAY

settings.register_profile("halftime", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("halftime")

# A shell's background job ignores Ctrl-C, and so would the processes that tests interrupt: they
# inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)


# Whole files go to one process or another (`--dist loadfile`): those that take longest are begun
# first, so that none of them is left when the other processes have ended.
LONGEST = (
    "tests/test_docs.py",
    "tests/cli/test_cli_profile.py",
    "tests/cli/test_cli_serve.py",
    "tests/fix/test_fix_guard.py",
    "tests/verbs/tune/test_tune_end_to_end.py",
    "tests/verbs/audit/test_audit_run.py",
    "tests/fix/test_fix_states.py",
    "tests/verbs/serve/test_serve_artefacts.py",
    "tests/verbs/serve/test_serve_worker.py",
    "tests/fix/test_fix_artefacts.py",
    "tests/verbs/tune/test_tune_certify.py",
    "tests/fix/test_fix_undo.py",
    "tests/test_examples.py",
    "tests/test_packaging.py",
    "tests/verbs/profile/test_profile_run.py",
    "tests/verbs/serve/test_serve_step_drawing.py",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--scheduling",
        choices=["call", "step"],
        default="call",
        help="how the servers under test schedule (make test-serve-step)",
    )


def pytest_configure(config: pytest.Config) -> None:
    WAY.scheduling = config.getoption("--scheduling")


@pytest.fixture
def each_scheduling(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test runs by the call and at the step."""
    monkeypatch.setattr(WAY, "scheduling", request.param)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "each_scheduling" not in metafunc.fixturenames:
        return
    by_call = metafunc.definition.get_closest_marker("only_by_call") is not None
    ways = ["call"] if by_call else ["call", "step"]
    metafunc.parametrize("each_scheduling", ways, indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = {name: position for position, name in enumerate(LONGEST)}
        items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(place)))
    for item in items:
        by_call = item.get_closest_marker("only_by_call")
        if by_call and WAY.scheduling == "step":
            item.add_marker(pytest.mark.skip(reason=by_call.args[0]))
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(
                pytest.mark.skip(
                    reason="no CUDA device here; run make gpu-check on a machine that has one"
                )
            )


def pytest_collection_finish() -> None:
    freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """At the end of a file, whose fixtures are gone: its tests imported a lot, too."""
    yield
    if nextitem is None or nextitem.path != item.path:
        freeze()


CHROMIUM = "/usr/bin/chromium"


@pytest.fixture(scope="module")
def chromium():
    """A headless Chromium, Debian's own. Its absence is a failure in CI and a skip elsewhere.

    For one file: while it is open, Playwright keeps an event loop running, in which asyncio.run()
    refuses to work.
    """
    if not os.path.exists(CHROMIUM):
        if os.environ.get("CI"):
            pytest.fail("Chromium is missing in CI: apt-get install chromium")
        pytest.skip("no Chromium; on Debian: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser
        browser.close()
