"""What a routing decision costs, in the process and as a request through the pass-through.

Regime: a 512x512 JPEG of a rendered object as a base64 data URL in an OpenAI-shaped request, and a
text request; the decision alone (JSON parsing, base64, thumbnail, features, logit) over 2,000
turns, then `halftime gateway` between the mock upstream (no delay) and the pass-through, sequential
and at 300 requests/s. Ceiling: the direct floor. What LiteLLM and Portkey add by the same
instrument stands in benchmarks/results/gateway_real/.

    python -m benchmarks.captions.decision --out benchmarks/results/captions_decision.json

Bars: picture <= 2.5 ms p50; text <= 1.2 ms p50 and <= 4 ms p99 at 300 requests/s, added.
"""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import msgspec
from PIL import Image

from benchmarks.frame import Frame
from halftime import bundled
from halftime.base.stats import quantile
from halftime.base.store import write_json
from halftime.records.captions import Router
from halftime.verbs.captions.calibrate import CalibrationSettings, calibrate
from halftime.verbs.captions.log import read_log
from halftime.verbs.captions.request import choose, warm_up
from halftime.verbs.gateway.endpoint import Payload
from halftime.verbs.gateway.mock import Behaviour
from halftime.verbs.gateway.run import GatewaySettings, gateway
from halftime.verbs.gateway.upstream import spawned

LOG = Path(__file__).parent / "log.jsonl.gz"


def picture() -> bytes:
    pipe = bundled.load()
    pipe.set_progress_bar_config(disable=True)
    prompt = bundled.prompts()[0].text
    image = pipe(prompt, num_inference_steps=8, guidance_scale=bundled.GUIDANCE).images[0]
    buffer = io.BytesIO()
    image.resize((512, 512), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def body(image: bytes | None) -> bytes:
    content: list[dict] = [{"type": "text", "text": "What is in this picture? {id}"}]
    if image:
        url = "data:image/jpeg;base64," + base64.b64encode(image).decode()
        content.append({"type": "image_url", "image_url": {"url": url}})
    return msgspec.json.encode(
        {"model": "captions", "messages": [{"role": "user", "content": content}]}
    )


def decisions(router: Router, data: bytes, turns: int = 2000) -> dict[str, float]:
    times = []
    for _ in range(turns):
        begun = time.perf_counter()
        choose(router, msgspec.json.decode(data), most_seconds=1)
        times.append(time.perf_counter() - begun)
    return {name: quantile(times, q) for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))}


def through(router: Router, data: bytes, rates: tuple[float, ...]) -> dict[str, object]:
    """Added by the pass-through, by `halftime gateway`, in seconds."""
    with tempfile.TemporaryDirectory() as folder, spawned(Behaviour(delay=0.0)) as mock:
        up = mock[0]
        write_json(Path(folder) / "router.json", router)
        (Path(folder) / "body.json").write_bytes(data)
        models = f"--small {up} --small-model mock-model --large {up} --large-model mock-model"
        options = [f"{folder}/router.json", *models.split(), "--port", "0", "--shadow", "0"]
        command = [sys.executable, "-m", "halftime", "captions", "serve", *options]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout
            url = next(
                word for word in server.stdout.readline().split() if word.startswith("http")
            ).rstrip(",")
            settings = GatewaySettings(
                direct=f"{up}/chat/completions",
                through=f"{url}/chat/completions",
                payload=Payload(kind=f"{folder}/body.json"),
                requests=300,
                concurrency=0,
                rates=rates,
                arrivals=("constant",),
                seconds=5.0,
                pid=server.pid,
            )
            result = gateway(settings)
            reasons = routed(url)
        finally:
            server.terminate()
            server.wait(10)
    return {"routed": reasons} | {
        f"{load.rate:g}/s" if load.rate else "one at a time": {
            "p50": load.added.p50,
            "p95": load.added.p95,
            "p99": load.added.p99,
            "errors": load.errors,
            "low": load.added.low,
            "high": load.added.high,
            "background_cores": load.background_cores,
            "saturated": load.saturated,
        }
        for load in result.rates
        if load.added
    }


def routed(url: str) -> list[str]:
    """The decisions as the pass-through counted them: proof that it decided, and did not pass
    on."""
    with urllib.request.urlopen(url.removesuffix("/v1") + "/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return [line for line in lines if line.startswith("halftime_captions_decisions_total{")]


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parse()
    router = calibrate(read_log(LOG), CalibrationSettings(mode="route", alpha=0.05)).router
    warm_up()
    cases = {"picture": body(picture()), "text": body(None)}
    rates = {"picture": 50.0, "text": 300.0}
    result = {
        "bytes": {name: len(data) for name, data in cases.items()},
        "decision": {name: decisions(router, data) for name, data in cases.items()},
        "added": {name: through(router, data, (rates[name],)) for name, data in cases.items()},
    }
    frame.write(result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
