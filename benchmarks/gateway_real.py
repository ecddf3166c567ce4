"""Real gateways, run for real: nginx (floor), Portkey, LiteLLM, and a naive Python proxy (ceiling).

Regime: the mock upstream with 20 ms delay, one worker of each gateway, its main process pinned to
one core (of nginx the master, so that its worker floats); through and direct interleaved in one
run; what else ran on the machine stands in each record (background_cores). Install them first with
benchmarks/gateways/install.sh. Ceiling: the direct floor (what nginx nearly reaches).

    python benchmarks/gateway_real.py NAME... [--home build/gateways] [--only
    chat,stream,image-in,rates]

writes one record a gateway and part to benchmarks/results/gateway_real/NAME.PART.json;
benchmarks/gateway_table.py makes the table of docs/gateway.md from them.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from halftime.base.store import write_json
from halftime.records.gateway import GatewayResult
from halftime.verbs.gateway.endpoint import Payload
from halftime.verbs.gateway.mock import Behaviour
from halftime.verbs.gateway.run import GatewaySettings, gateway
from halftime.verbs.gateway.upstream import spawned

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "gateway_real"


@dataclass(frozen=True)
class Gateway:
    """How one is started: words and variables are filled with {home}, {here}, {port}, {mock} and
    {work}."""

    command: tuple[str, ...]
    port: int
    variables: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    patience: float = 120.0


GATEWAYS = {
    "nginx": Gateway(("nginx", "-e", "stderr", "-p", "{work}", "-c", "{work}/nginx.conf"), 4010),
    "portkey": Gateway(
        (
            "node",
            "{home}/portkey/node_modules/@portkey-ai/gateway/build/start-server.js",
            "--headless",
            "--port={port}",
        ),
        8787,
        {"NODE_ENV": "production"},
        {"x-portkey-provider": "openai", "x-portkey-custom-host": "http://127.0.0.1:{mock}/v1"},
    ),
    "litellm": Gateway(
        (
            "{home}/litellm/bin/litellm",
            "--config",
            "{here}/gateways/litellm.yaml",
            "--host",
            "127.0.0.1",
            "--port",
            "{port}",
            "--num_workers",
            "1",
            "--telemetry",
            "False",
        ),
        4000,
        {
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_LOG": "ERROR",
            "LITELLM_MODE": "PRODUCTION",
            "NO_DOCS": "True",
            "MOCK_BASE": "http://127.0.0.1:{mock}/v1",
        },
    ),
    "naive": Gateway(
        (
            "{home}/naive/bin/uvicorn",
            "--app-dir",
            "{here}/gateways",
            "naive_proxy:app",
            "--host",
            "127.0.0.1",
            "--port",
            "{port}",
            "--log-level",
            "warning",
        ),
        4020,
        {"UPSTREAM": "http://127.0.0.1:{mock}"},
    ),
}

PARTS: dict[str, dict] = {
    "chat": {"payload": Payload(), "requests": 200, "concurrency": 8, "seconds": 4.5},
    "stream": {"payload": Payload(stream=True), "requests": 100, "concurrency": 0},
    "image-in": {"payload": Payload("image-in", 1_000_000), "requests": 50, "concurrency": 0},
    "rates": {
        "payload": Payload(),
        "requests": 20,
        "concurrency": 0,
        "rates": (20.0, 100.0, 300.0),
        "seconds": 3.0,
    },
}


@contextmanager
def running(name: str, home: Path, mock: int) -> Iterator[tuple[str, Gateway]]:
    """The gateway on its port, stopped at the end; its own messages go to a temporary folder."""
    made = GATEWAYS[name]
    with tempfile.TemporaryDirectory() as work:
        words = {
            "home": str(home),
            "here": str(HERE),
            "port": made.port,
            "mock": mock,
            "work": work,
        }
        text = (HERE / "gateways" / "nginx.conf").read_text()
        Path(work, "nginx.conf").write_text(
            text.replace("MOCK_PORT", str(mock)).replace("PORT", str(made.port))
        )
        command = [word.format(**words) for word in made.command]
        variables = os.environ | {
            key: value.format(**words) for key, value in made.variables.items()
        }
        with Path(work, "log").open("wb") as log:
            process = subprocess.Popen(command, env=variables, stdout=log, stderr=log)
            try:
                wait_for(made, process, Path(work, "log"))
                os.sched_setaffinity(process.pid, {max(os.sched_getaffinity(0) | {0})})
                headers = {key: value.format(**words) for key, value in made.headers.items()}
                yield f"http://127.0.0.1:{made.port}/v1", replace(made, headers=headers)
            finally:
                process.terminate()
                process.wait(20)


def wait_for(made: Gateway, process: subprocess.Popen, log: Path) -> None:
    """Until the port answers."""
    deadline = time.monotonic() + made.patience
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", made.port)) == 0:
                return
        time.sleep(0.2)
    raise SystemExit(f"the gateway did not start: {log.read_text()[-2000:]}")


def measure(name: str, home: Path, parts: list[str]) -> None:
    """All parts of one gateway; each result is written at once, without its curves."""
    with spawned(Behaviour(delay=0.02)) as (base, _):
        mock = int(base.split(":")[2].split("/")[0])
        with running(name, home, mock) as (url, made):
            for part in parts:
                settings = GatewaySettings(
                    direct=base,
                    through=url,
                    through_headers=made.headers,
                    timeout=20.0,
                    through_key_env="LITELLM_MASTER_KEY" if name == "litellm" else None,
                    **PARTS[part],
                )
                result = gateway(settings)
                write_json(RESULTS / f"{name}.{part}.json", trimmed(result))
                first = result.rates[0]
                print(
                    name,
                    part,
                    "added p50",
                    first.added and first.added.p50,
                    [f.id for f in result.findings],
                )


def trimmed(result: GatewayResult) -> GatewayResult:
    """Without the curves, which would be most of the file."""
    rates = tuple(
        msgspec.structs.replace(load, curve_direct=None, curve_through=None)
        for load in result.rates
    )
    return msgspec.structs.replace(result, rates=rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", choices=list(GATEWAYS))
    parser.add_argument("--home", type=Path, default=HERE.parent / "build" / "gateways")
    parser.add_argument("--only", default=",".join(PARTS))
    given = parser.parse_args()
    # A key of no value, for a gateway that lives for a minute; LiteLLM refuses to start with a weak
    # one.
    os.environ.setdefault("LITELLM_MASTER_KEY", "sk-" + os.urandom(16).hex())
    for name in given.names:
        measure(name, given.home.resolve(), given.only.split(","))


if __name__ == "__main__":
    main()
