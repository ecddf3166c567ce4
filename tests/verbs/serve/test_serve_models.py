"""Several models behind one address: a request's `model` chooses the engine, and everything else is
shared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest
from openai import OpenAI
from serve_app import DrawingLink, certificate_for
from starlette.testclient import TestClient

from halftime.base.errors import BadInput
from halftime.cli import _run
from halftime.records.serve import Certificate, EngineStatus
from halftime.verbs.serve.app import application
from halftime.verbs.serve.engine import Engine
from halftime.verbs.serve.messages import EngineSettings
from halftime.verbs.serve.models import ModelEngines, read_models
from halftime.verbs.serve.service import HttpSettings
from halftime.verbs.serve.wire import ModelLoaded, Ready
from serve_fake import wait_until

SMALL = certificate_for((64, 64), previews=False)
LARGE = certificate_for((128, 128), previews=False, img2img=False)


class Two:
    """A server with two models; `held` ones are never ready."""

    def __init__(self, held: tuple[str, ...] = ()) -> None:
        self.links: dict[str, DrawingLink] = {}
        self.engines = {
            name: self._engine(name, certificate, ready=name not in held)
            for name, certificate in {"small": SMALL, "large": LARGE}.items()
        }
        several = ModelEngines(self.engines, {"gpt-image-1": "large"})
        self.app = application(
            several, HttpSettings(model="small", aliases=("large", "gpt-image-1"))
        )

    def _engine(self, name: str, certificate: Certificate, ready: bool) -> Engine:
        async def spawn(_: EngineSettings, number: int) -> DrawingLink:
            self.links[name] = link = DrawingLink(number)
            if ready:
                link.say(ModelLoaded(), Ready(certificate=certificate, resident_bytes=2**20))
            return link

        return Engine(EngineSettings(max_batch=1), spawn=spawn)

    def drawn(self, name: str) -> int:
        return len(self.links[name].tasks)


@contextmanager
def running(two: Two) -> Iterator[TestClient]:
    with TestClient(two.app, base_url="http://127.0.0.1:8000") as http:
        wait_until(lambda: any(engine.status.state == "ready" for engine in two.engines.values()))
        yield http


def openai_of(http: TestClient) -> OpenAI:
    return OpenAI(
        base_url="http://127.0.0.1:8000/v1", api_key="any", http_client=http, max_retries=0
    )


def test_a_requests_model_chooses_the_engine() -> None:
    two = Two()
    with running(two) as http:
        client = openai_of(http)
        assert client.images.generate(model="small", prompt="a").size == "64x64"
        assert client.images.generate(model="large", prompt="a").size == "128x128"
        assert client.images.generate(model="gpt-image-1", prompt="a").size == "128x128"
        assert client.images.generate(prompt="a").size == "64x64"  # the first is the default
        assert (two.drawn("small"), two.drawn("large")) == (2, 2)
        names = [model.id for model in client.models.list()]
        assert names == ["small", "large", "gpt-image-1"]
        with pytest.raises(openai.NotFoundError, match="'small', 'large', 'gpt-image-1'"):
            client.images.generate(model="medium", prompt="a")
        with pytest.raises(openai.BadRequestError, match="128x128"):
            client.images.generate(model="large", prompt="a", size="64x64")
        offers = http.get("/readyz").json()["offers"]
        assert [(offer["model"], offer["edits"]) for offer in offers] == [
            ("small", True),
            ("large", False),
        ]
        assert "halftime_pictures_total 4.0" in http.get("/metrics").text


def test_a_stream_comes_from_the_model_that_was_named() -> None:
    two = Two()
    with running(two) as http:
        stream = openai_of(http).images.generate(model="large", prompt="a", stream=True)
        assert [event.size for event in stream] == ["128x128"]


def test_the_server_is_ready_once_every_model_is() -> None:
    with running(Two(held=("large",))) as http:
        answer = http.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["why"].endswith("1 of 2 models are ready")
        client = openai_of(http)  # the one that is ready draws all the same
        assert client.images.generate(model="small", prompt="a").size == "64x64"
        with pytest.raises(openai.InternalServerError) as raised:
            client.images.generate(model="large", prompt="a")
        assert raised.value.status_code == 503


class Stopped:
    """An engine in one state."""

    def __init__(self, state: str) -> None:
        self.status = EngineStatus(state=state)  # type: ignore[arg-type]


def test_the_worst_model_is_the_servers_state() -> None:
    for states, state in (
        (("ready", "warming"), "warming"),
        (("ready", "failed"), "failed"),
        (("ready", "ready"), "ready"),
    ):
        engines = {str(number): Stopped(name) for number, name in enumerate(states)}
        assert ModelEngines(engines, {}).status.state == state  # type: ignore[arg-type]


# ---- the file


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "models.toml"
    path.write_text(text)
    return path


def test_a_table_for_each_model(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        [sdxl]
        model = "./my-sdxl"
        sizes = [[1024, 1024]]
        aliases = ["gpt-image-1"]
        [emoji-xl]
        """,
    )
    sdxl, emoji = read_models(path, EngineSettings(steps=(4,), model="ignored"))
    assert (sdxl.name, sdxl.aliases, sdxl.engine.sizes) == (
        "sdxl",
        ("gpt-image-1",),
        ((1024, 1024),),
    )
    assert sdxl.engine.steps == emoji.engine.steps == (4,)
    assert emoji.engine.model is None  # the bundled one


def test_a_table_says_how_its_model_is_loaded(tmp_path: Path) -> None:
    text = "[a]\nlora = ['x.safetensors:0.5']\nvariant = 'fp16'\n[b]\n"
    first, second = read_models(written(tmp_path, text), EngineSettings(variant="bf16"))
    assert (first.engine.lora, first.engine.variant) == (("x.safetensors:0.5",), "fp16")
    assert (second.engine.lora, second.engine.variant) == ((), "bf16")


def test_the_file_of_the_page_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "serve.md").read_text()
    text = page.split("```toml\n# models.toml")[1].split("```")[0]
    sdxl, emoji = read_models(written(tmp_path, f"#{text}"), EngineSettings())
    assert (sdxl.engine.device, sdxl.aliases) == ("cuda:0", ("gpt-image-1",))
    assert (emoji.name, emoji.engine.model) == ("emoji-xl", "bundled")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no model"),
        ("a = 1", "a is no table"),
        ("[a", "is no TOML"),
        ("[a]\nstep = [1]", "'step', which is none of"),
        ("[a]\nsteps = 4", "Expected `array`"),
        ("[a]\ndtype = 'int7'", "int7"),
        ("[a]\naliases = ['b']\n[b]", "the name 'b' to two models"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        read_models(written(tmp_path, text), EngineSettings())


@pytest.mark.parametrize("words", [["bundled"], ["--ray"]])
def test_what_does_not_go_with_it(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, "[a]")
    assert _run(["serve", "--models", str(path), *words], debug=False) == 2
    assert "--models" in capsys.readouterr().err
