"""The official npm client, and LiteLLM's proxy with the official Python client in front of it,
against a real `halftime serve`: does each get what it asks for, and the errors it can read?

Regime: the bundled model, 4 steps, one thread. The bar: every case.

    npm install --prefix NODE openai
    python -m venv LITELLM && LITELLM/bin/pip install 'litellm[proxy]'
    python -m benchmarks.serve.clients --node NODE --litellm LITELLM \\
        --out benchmarks/results/serve_clients.json
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import secrets
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
from PIL import Image

from benchmarks.frame import Frame
from benchmarks.serve.process import end, serving

SCRIPT = Path(__file__).with_suffix(".mjs")
OPTIONS = ("--steps", "4", "--threads", "1", "--max-batch", "1", "--deadline", "300s")
PROMPT = "a flat icon of a kite"
PNG = b"\x89PNG"
NAME = "drawn-here"  # of the model, for LiteLLM's clients
KEY = f"sk-{secrets.token_hex(16)}"  # LiteLLM starts with none but a real one


def row(client: str, case: str, right: bool, got: object) -> dict:
    return {"client": client, "case": case, "right": bool(right), "got": got}


# ---- npm


def npm(folder: Path, address: str, picture: Path) -> list[dict]:
    """What the script beside this file says, a row a case."""
    package = json.loads((folder / "node_modules" / "openai" / "package.json").read_text())
    words = ["node", str(SCRIPT), str(folder.resolve()), address, str(picture)]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    name = f"npm openai {package['version']}"
    return [
        row(name, case["case"], case["right"], case["got"])
        for case in map(json.loads, said.splitlines())
    ]


# ---- LiteLLM


@contextlib.contextmanager
def litellm(folder: Path, address: str) -> Iterator[str]:
    """LiteLLM's proxy with one model, which the server at `address` draws with; its address."""
    port = free_port()
    config = {
        "model_list": [
            {
                "model_name": NAME,
                "litellm_params": {
                    "model": "openai/emoji-xl",
                    "api_base": f"{address}/v1",
                    "api_key": "any",
                },
            }
        ]
    }
    environment = {
        **os.environ,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_TELEMETRY": "False",
        "LITELLM_MASTER_KEY": KEY,
        "PYTHONPATH": "",
    }
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "config.yaml")
        path.write_text(json.dumps(config))  # JSON is YAML
        command = [folder / "bin" / "litellm", "--config", path, "--host", "127.0.0.1"]
        with Path(place, "log").open("wb") as log:
            process = subprocess.Popen(
                [*map(str, command), "--port", str(port)],
                stdout=log,
                stderr=log,
                env=environment,
                cwd=place,
            )
            try:
                wait_for(f"http://127.0.0.1:{port}/health/liveliness", process)
                yield f"http://127.0.0.1:{port}"
            finally:
                end(process)


def free_port() -> int:
    """One that nobody listens on now; LiteLLM takes no 0."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_for(address: str, process: subprocess.Popen, seconds: float = 300.0) -> None:
    """Until it answers."""
    begun = time.monotonic()
    while process.poll() is None and time.monotonic() - begun < seconds:
        try:
            urllib.request.urlopen(address, timeout=5)
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise RuntimeError(f"{address} does not answer")


def through_litellm(folder: Path, address: str, picture: Path) -> list[dict]:
    """A row a case."""
    listing = [folder / "bin" / "python", "-c", "from importlib.metadata import version as v"]
    listing[-1] = f"{listing[-1]}; print(v('litellm'))"
    words = [str(word) for word in listing]
    version = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    name = f"LiteLLM {version}, openai {openai.__version__}"
    rows = []
    with litellm(folder, address) as proxy:
        client = openai.OpenAI(base_url=f"{proxy}/v1", api_key=KEY, max_retries=0, timeout=300)
        for case, run in CASES.items():
            try:
                right, got = run(client, picture)
            except Exception as error:
                right, got = False, f"{type(error).__name__}: {error}"[:300]
            rows.append(row(name, case, right, got))
    return rows


def generated(client: openai.OpenAI, _: Path) -> tuple[bool, object]:
    answer = client.images.generate(model=NAME, prompt=PROMPT, n=2)
    files = [base64.b64decode(picture.b64_json or "") for picture in answer.data or []]
    sizes = [Image.open(io.BytesIO(file)).size for file in files]
    return sizes == [(128, 128)] * 2, sizes


def with_our_own_fields(client: openai.OpenAI, _: Path) -> tuple[bool, object]:
    answers = [
        client.images.generate(model=NAME, prompt=PROMPT, extra_body={"seed": 7, "steps": 4})
        for _ in range(2)
    ]
    files = {(answer.data or [])[0].b64_json for answer in answers}
    return len(files) == 1, f"{len(files)} different pictures of one seed"


def edited(client: openai.OpenAI, picture: Path) -> tuple[bool, object]:
    answer = client.images.edit(model=NAME, prompt=PROMPT, image=picture.open("rb"))
    file = base64.b64decode((answer.data or [])[0].b64_json or "")
    return file.startswith(PNG), f"{len(file)} bytes"


def refused(client: openai.OpenAI, _: Path) -> tuple[bool, object]:
    try:
        client.images.generate(model=NAME, prompt=PROMPT, size="1024x1024")
    except openai.BadRequestError as error:
        return "128x128" in str(error), error.status_code
    return False, "no error"


CASES: dict[str, Callable[[openai.OpenAI, Path], tuple[bool, object]]] = {
    "images.generate": generated,
    "images.generate, seed and steps": with_our_own_fields,
    "images.edit": edited,
    "a size that is not offered": refused,
}


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parser.add_argument("--node", type=Path, required=True)
    frame.parser.add_argument("--litellm", type=Path, required=True)
    options = frame.parse()
    with tempfile.TemporaryDirectory() as place, serving(*OPTIONS, seconds=600) as server:
        picture = Path(place, "picture.png")
        Image.radial_gradient("L").convert("RGB").save(picture)
        rows = npm(options.node, server.address, picture)
        rows += through_litellm(options.litellm, server.address, picture)
    frame.write({"rows": rows, "reached": all(row["right"] for row in rows)})
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
