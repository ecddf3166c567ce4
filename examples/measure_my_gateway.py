"""What does the proxy in front of my model cost, and does it hold my rate?

python examples/measure_my_gateway.py http://127.0.0.1:9000/v1 http://127.0.0.1:4000/v1 50
"""

import sys

from halftime.base import units
from halftime.verbs.gateway.run import GatewaySettings, gateway


def main(
    direct: str, through: str, rate: str = "20", seconds: str = "6", requests: str = "200"
) -> None:
    settings = GatewaySettings(
        direct, through, rates=(float(rate),), seconds=float(seconds), requests=int(requests)
    )
    result = gateway(settings)
    for load in result.rates:
        if load.added is None:
            print(f"{load.mode}: nothing to compare")
            continue
        added = load.added
        interval = f"{units.seconds(added.low)} to {units.seconds(added.high)}"
        verdict = ", saturated" if load.saturated else ""
        p50, p99 = units.seconds(added.p50), units.seconds(added.p99)
        print(f"{load.mode}: adds {p50} at p50 ({interval}), {p99} at p99{verdict}")
    for finding in result.findings:
        print(f"- {finding.message}")


if __name__ == "__main__":
    main(*sys.argv[1:])
