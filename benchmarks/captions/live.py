"""Which model answers a caption request, by the pass-through and by LiteLLM with the hook?

Regime: two OpenAI-shaped upstreams on 127.0.0.1 that answer with their own name; the router
calibrated on benchmarks/captions/log.jsonl.gz (alpha 5 %, route); one picture that the router
calls easy, the same partly hidden, pure noise, and a request without a picture; sent by the
official openai client. LiteLLM runs in its own environment (benchmarks/gateway/install.sh)
with halftime beside it, installed without its dependencies.

    python -m benchmarks.captions.live [--home build/gateways]
        --out benchmarks/results/captions_live.json

Prints which model answered each, beside what the router says by itself.
"""

from __future__ import annotations

import base64
import io
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import openai
from PIL import Image

from benchmarks.frame import Frame
from halftime import bundled
from halftime.base.store import write_json
from halftime.records.captions import Router
from halftime.verbs.captions.calibrate import CalibrationSettings, calibrate
from halftime.verbs.captions.log import read_log
from halftime.verbs.captions.request import choose

LOG = Path(__file__).parent / "log.jsonl.gz"
CONFIG = """
model_list:
  - model_name: small-model
    litellm_params: {{model: openai/small-model, api_base: "{small}", api_key: sk-none}}
  - model_name: large-model
    litellm_params: {{model: openai/large-model, api_base: "{large}", api_key: sk-none}}
  - model_name: captions
    litellm_params: {{model: openai/large-model, api_base: "{large}", api_key: sk-none}}
litellm_settings:
  callbacks: halftime.verbs.captions.litellm_hook.router
general_settings:
  master_key: os.environ/LITELLM_MASTER_KEY
"""


class Upstream(BaseHTTPRequestHandler):
    """Answers every chat request with the name of the model that was asked for."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        message = {"role": "assistant", "content": f"answered by {request['model']}"}
        usage = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
        body = json.dumps(
            {
                "id": "c",
                "object": "chat.completion",
                "created": 0,
                "model": request["model"],
                "usage": usage,
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            }
        ).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        pass


@contextmanager
def upstream() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()


@contextmanager
def running(command: list[str], variables: dict[str, str], url: str | None) -> Iterator[str]:
    """A server; its address is `url`, or stands on its first line."""
    process = subprocess.Popen(
        command,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE if url is None else None,
        text=True,
    )
    try:
        if url is None:
            assert process.stdout
            url = next(
                word for word in process.stdout.readline().split() if word.startswith("http")
            ).rstrip(",")
        yield url
    finally:
        process.terminate()
        process.wait(30)


def requests(router: Router) -> dict[str, dict]:
    """A drawn picture that the router calls easy, the same partly hidden, pure noise, and no
    picture at all."""
    pipe = bundled.load()
    pipe.set_progress_bar_config(disable=True)
    for prompt in bundled.prompts()[:60]:
        image = pipe(prompt.text, num_inference_steps=20, guidance_scale=bundled.GUIDANCE).images[0]
        easy = image.resize((256, 256), Image.Resampling.BICUBIC)
        if choose(router, chat(easy), most_seconds=5).small:
            break
    else:
        raise SystemExit(
            "The router calls none of 60 drawn pictures easy, so this would show nothing."
        )
    hidden = easy.copy()
    hidden.paste((40, 120, 60), (60, 70, 210, 200))
    noisy = Image.fromarray(
        np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)
    )
    return {
        "easy": chat(easy),
        "hidden": chat(hidden),
        "pure noise": chat(noisy),
        "no picture": chat(None),
    }


def chat(image: Image.Image | None) -> dict:
    content: list[dict] = [{"type": "text", "text": "What is in this picture?"}]
    if image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=85)
        url = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
        content.append({"type": "image_url", "image_url": {"url": url}})
    return {"model": "captions", "messages": [{"role": "user", "content": content}]}


def answers(url: str, key: str, bodies: dict[str, dict], patience: float) -> dict[str, str]:
    client = openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=30)
    deadline = time.monotonic() + patience
    while True:
        try:
            client.models.list()
            break
        except openai.APIError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
    return {
        name: str(client.chat.completions.create(**data).choices[0].message.content)
        for name, data in bodies.items()
    }


def through_pass_through(router: Path, small: str, large: str, bodies: dict) -> dict[str, str]:
    models = f"--small {small} --small-model small-model --large {large} --large-model large-model"
    options = [str(router), *models.split(), "--port", "0"]
    command = [sys.executable, "-m", "halftime", "captions", "serve", *options]
    with running(command, {}, None) as url:
        return answers(url, "sk-none", bodies, 60)


def through_litellm(
    home: Path, router: Path, small: str, large: str, bodies: dict
) -> dict[str, str]:
    key = "sk-" + secrets.token_hex(16)
    config = router.with_name("litellm.yaml")
    config.write_text(CONFIG.format(small=small, large=large))
    variables = {
        "LITELLM_MASTER_KEY": key,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "NO_DOCS": "True",
        "LITELLM_MODE": "PRODUCTION",
        "HALFTIME_CAPTIONS_ROUTER": str(router),
        "HALFTIME_CAPTIONS_SMALL": "small-model",
        "HALFTIME_CAPTIONS_LARGE": "large-model",
    }
    options = f"--config {config} --host 127.0.0.1 --port 4017 --num_workers 1 --telemetry False"
    command = [str(home / "litellm" / "bin" / "litellm"), *options.split()]
    with running(command, variables, "http://127.0.0.1:4017/v1") as url:
        return answers(url, key, bodies, 180)


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parser.add_argument("--home", type=Path, default=Path("build/gateways"))
    options = frame.parse()
    router = calibrate(read_log(LOG), CalibrationSettings(alpha=0.05, mode="route")).router
    bodies = requests(router)
    decisions = {name: choose(router, body, most_seconds=5) for name, body in bodies.items()}
    sizes = {name: "small" if choice.small else "large" for name, choice in decisions.items()}
    with tempfile.TemporaryDirectory() as folder, upstream() as small, upstream() as large:
        file = Path(folder) / "router.json"
        write_json(file, router)
        ways = {
            "pass-through": through_pass_through(file, small, large, bodies),
            "LiteLLM with the hook": through_litellm(options.home, file, small, large, bodies),
        }
    expected = {name: f"answered by {size}-model" for name, size in sizes.items()}
    result = {
        "router says": {
            name: [sizes[name], choice.reason, choice.probability]
            for name, choice in decisions.items()
        },
        **ways,
        "as the router says": {way: models == expected for way, models in ways.items()},
    }
    frame.write(result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
