"""Real gateways, run for real: nginx (floor), Portkey, LiteLLM, and a naive Python proxy (ceiling).

Regime: the mock upstream with 20 ms delay, one worker of each gateway, its main process pinned to
one core (of nginx the master, so that its worker floats); through and direct interleaved in one
run; what else ran on the machine stands in each record (background_cores). Install them first with
benchmarks/gateway/install.sh. Ceiling: the direct floor (what nginx nearly reaches).

    python -m benchmarks.gateway.real nginx portkey litellm naive [--home build/gateways]
        [--only chat,stream,image-in,rates] --out benchmarks/results/gateway_real

Here `--out` is a folder: one record of `halftime gateway` a gateway and part, NAME.PART.json.
benchmarks.gateway.page writes the table of docs/gateway.md from them.
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from benchmarks.frame import OUT, Frame
from halftime.base.store import write_json
from halftime.records.gateway import GatewayResult
from halftime.verbs.gateway.endpoint import Payload
from halftime.verbs.gateway.mock import Behaviour
from halftime.verbs.gateway.run import GatewaySettings, gateway
from halftime.verbs.gateway.upstream import spawned

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Gateway:
    """How one is started. Command, variables and headers may hold {home}, {here}, {port}, {mock}
    and {work}."""

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
            "{here}/litellm.yaml",
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
            "{here}",
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
def running(name: str, home: Path, mock: int) -> Iterator[tuple[str, dict[str, str]]]:
    """The gateway, its URL and the headers it needs; its output goes to a temporary folder, and it
    ends with the block."""
    proxy = GATEWAYS[name]
    with tempfile.TemporaryDirectory() as work:
        words = {"home": home, "here": HERE, "port": proxy.port, "mock": mock, "work": work}
        config = (HERE / "nginx.conf").read_text().replace("MOCK_PORT", str(mock))
        Path(work, "nginx.conf").write_text(config.replace("PORT", str(proxy.port)))
        command = [word.format(**words) for word in proxy.command]
        variables, headers = (
            {key: value.format(**words) for key, value in mapping.items()}
            for mapping in (proxy.variables, proxy.headers)
        )
        with Path(work, "log").open("wb") as log:
            process = subprocess.Popen(command, env=os.environ | variables, stdout=log, stderr=log)
            try:
                wait_for(proxy, process, Path(work, "log"))
                os.sched_setaffinity(process.pid, {max(os.sched_getaffinity(0) | {0})})
                yield f"http://127.0.0.1:{proxy.port}/v1", headers
            finally:
                process.terminate()
                process.wait(20)


def wait_for(proxy: Gateway, process: subprocess.Popen, log: Path) -> None:
    """Until the port answers."""
    deadline = time.monotonic() + proxy.patience
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", proxy.port)) == 0:
                return
        time.sleep(0.2)
    raise SystemExit(f"the gateway did not start: {log.read_text()[-2000:]}")


def measure(name: str, home: Path, parts: list[str], out: Path) -> None:
    """All parts of one gateway; each result is written at once, without its curves."""
    with spawned(Behaviour(delay=0.02)) as (base, _):
        mock = int(base.split(":")[2].split("/")[0])
        with running(name, home, mock) as (url, headers):
            for part in parts:
                settings = GatewaySettings(
                    direct=base,
                    through=url,
                    through_headers=headers,
                    timeout=20.0,
                    through_key_env="LITELLM_MASTER_KEY" if name == "litellm" else None,
                    **PARTS[part],
                )
                result = gateway(settings)
                write_json(out / f"{name}.{part}.json", trimmed(result))
                added = result.rates[0].added
                findings = [finding.id for finding in result.findings]
                print(name, part, "added p50", added and added.p50, findings)


def trimmed(result: GatewayResult) -> GatewayResult:
    """Without the curves, which would be most of the file."""
    rates = tuple(
        msgspec.structs.replace(load, curve_direct=None, curve_through=None)
        for load in result.rates
    )
    return msgspec.structs.replace(result, rates=rates)


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parser.set_defaults(out=OUT / "gateway_real")
    frame.parser.add_argument("names", nargs="+", choices=list(GATEWAYS))
    frame.parser.add_argument("--home", type=Path, default=Path("build/gateways"))
    frame.parser.add_argument("--only", default=",".join(PARTS))
    options = frame.parse()
    options.out.mkdir(parents=True, exist_ok=True)
    # A key of no value, for a gateway that lives for a minute: LiteLLM refuses to start with a weak
    # one.
    os.environ.setdefault("LITELLM_MASTER_KEY", "sk-" + os.urandom(16).hex())
    for name in options.names:
        measure(name, options.home.resolve(), options.only.split(","), options.out)


if __name__ == "__main__":
    main()
