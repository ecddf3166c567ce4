"""What clients send: names of models, sizes, fields of their own, and the very bodies of the known
ones."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import openai
import pytest
from PIL import Image
from serve_app import InProcess, certificate_for, in_process

from halftime.verbs.serve.messages import EngineSettings

BODIES = json.loads((Path(__file__).parent / "client_bodies.json").read_text())
SQUARE = certificate_for((1024, 1024), (1536, 1024), (512, 512), inpaint=True)
SMALL = EngineSettings(max_batch=1, off_list="snap")


@pytest.fixture(scope="module")
def server() -> Iterator[InProcess]:
    with in_process(aliases=("gpt-image-1", "gpt-image-1-mini")) as running:
        yield running


# ---- names of the model


def test_a_model_answers_to_its_aliases(server: InProcess) -> None:
    for name in ("fake", "gpt-image-1", "gpt-image-1-mini"):
        assert server.openai.images.generate(model=name, prompt="p").data
        assert server.openai.models.retrieve(name).id == name
    assert [model.id for model in server.openai.models.list()] == [
        "fake",
        "gpt-image-1",
        "gpt-image-1-mini",
    ]


def test_another_model_is_refused_with_the_names_and_what_to_do(server: InProcess) -> None:
    with pytest.raises(openai.NotFoundError, match="--alias dall-e-3") as caught:
        server.openai.images.generate(model="dall-e-3", prompt="p")
    assert "'gpt-image-1-mini'" in caught.value.message
    with pytest.raises(openai.NotFoundError):
        server.openai.models.retrieve("dall-e-3")


# ---- sizes and steps that are not offered


def test_a_size_that_is_not_offered_is_refused_by_default(server: InProcess) -> None:
    drawn = len(server.jobs)
    with pytest.raises(openai.BadRequestError, match="64x64, 96x64") as caught:
        server.openai.images.generate(model="fake", prompt="p", size="1024x1024")
    assert caught.value.param == "size"
    with pytest.raises(openai.BadRequestError, match="4, 8, 12") as caught:
        server.openai.images.generate(model="fake", prompt="p", extra_body={"steps": 7})
    assert caught.value.param == "steps"
    assert len(server.jobs) == drawn


def test_what_is_snapped_on_request_says_both(server: InProcess) -> None:
    body = {"prompt": "p", "size": "1024x1024", "steps": 30, "off_list": "snap"}
    answer = server.http.post("/v1/images/generations", json=body).json()
    assert answer["size"] == "64x64"
    assert answer["snapped"] == {
        "requested_size": "1024x1024",
        "size": "64x64",
        "requested_steps": 30,
        "steps": 12,
    }
    as_asked = server.http.post("/v1/images/generations", json={"prompt": "p", "size": "96x64"})
    assert as_asked.json()["snapped"] is None
    streamed = server.openai.images.generate(
        model="fake", prompt="p", size="1024x1024", stream=True, extra_body={"off_list": "snap"}
    )
    assert list(streamed)[-1].snapped["requested_size"] == "1024x1024"


def test_a_server_may_snap_and_a_client_may_refuse_that() -> None:
    with in_process(engine=SMALL) as server:
        answer = server.openai.images.generate(model="fake", prompt="p", size="1024x1024")
        assert (answer.size, answer.snapped["requested_size"]) == ("64x64", "1024x1024")
        with pytest.raises(openai.BadRequestError, match="sizes are"):
            server.openai.images.generate(
                model="fake", prompt="p", size="1024x1024", extra_body={"off_list": "refuse"}
            )


# ---- fields


def test_the_fields_mean_what_their_names_say(server: InProcess) -> None:
    server.openai.images.generate(
        model="fake",
        prompt="p",
        background="opaque",
        output_format="png",
        output_compression=50,
        extra_body={
            "num_inference_steps": 12,
            "guidance_scale": 3.5,
            "negative_prompt": "blur",
            "seed": 5,
        },
    )
    job = server.jobs[-1]
    assert (job.steps, job.guidance, job.negative_prompt, job.seed) == (12, 3.5, "blur", 5)


def test_two_names_of_one_thing_must_agree(server: InProcess) -> None:
    same = {"steps": 8, "num_inference_steps": 8, "guidance": 2, "guidance_scale": 2.0}
    server.openai.images.generate(model="fake", prompt="p", extra_body=same)
    assert (server.jobs[-1].steps, server.jobs[-1].guidance) == (8, 2.0)
    for differing in (
        {"steps": 8, "num_inference_steps": 12},
        {"guidance": 2, "guidance_scale": 2.5},
    ):
        with pytest.raises(openai.BadRequestError, match="two names of one thing") as caught:
            server.openai.images.generate(model="fake", prompt="p", extra_body=differing)
        assert caught.value.param in differing


def test_seed_minus_one_is_any_seed_and_the_answer_names_it(server: InProcess) -> None:
    seeds = {
        server.openai.images.generate(model="fake", prompt="p", extra_body={"seed": -1})
        .data[0]
        .seed
        for _ in range(3)
    }
    assert len(seeds) == 3
    assert min(seeds) >= 0
    with pytest.raises(openai.BadRequestError):
        server.openai.images.generate(model="fake", prompt="p", extra_body={"seed": -2})


def test_a_transparent_background_is_refused_by_name(server: InProcess) -> None:
    with pytest.raises(openai.BadRequestError, match="opaque") as caught:
        server.openai.images.generate(model="fake", prompt="p", background="transparent")
    assert (caught.value.code, caught.value.param) == ("unsupported_value", "background")


# ---- streams of several pictures


def test_a_stream_of_several_pictures_completes_each_once(server: InProcess) -> None:
    events = list(
        server.openai.images.generate(
            model="fake", prompt="p", n=3, stream=True, partial_images=2, extra_body={"seed": 7}
        )
    )
    completed = [event for event in events if event.type == "image_generation.completed"]
    assert sorted((event.image_index, event.seed) for event in completed) == [
        (0, 7),
        (1, 8),
        (2, 9),
    ]
    plain = server.openai.images.generate(model="fake", prompt="p", n=3, extra_body={"seed": 7})
    by_index = sorted(completed, key=lambda event: event.image_index)
    assert [event.b64_json for event in by_index] == [image.b64_json for image in plain.data]
    for index in range(3):
        partials = [
            event.partial_image_index
            for event in events
            if event.type == "image_generation.partial_image" and event.image_index == index
        ]
        assert partials == [0, 1]
    assert events[-1].type == "image_generation.completed"


def test_a_stream_of_several_ends_with_the_error_of_one(server: InProcess) -> None:
    with pytest.raises(openai.APIError, match="the pipeline failed"):
        list(server.openai.images.generate(model="fake", prompt="broken", n=2, stream=True))
    assert server.openai.images.generate(model="fake", prompt="p").data  # nothing is stuck


# ---- known clients


@pytest.fixture(scope="module")
def square() -> Iterator[InProcess]:
    names = ("gpt-image-1", "gpt-image-1-mini", "dall-e-2", "dall-e-3")
    with in_process(SQUARE, aliases=names) as running:
        yield running


GENERATIONS = [body for body in BODIES if body["path"] == "/v1/images/generations"]
FORMS = [body for body in BODIES if body["path"] != "/v1/images/generations"]


@pytest.mark.parametrize("recorded", GENERATIONS, ids=lambda recorded: recorded["client"])
def test_generation_bodies_of_known_clients(square: InProcess, recorded: dict) -> None:
    answer = square.http.post(recorded["path"], json=recorded["body"])
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["data"]) == recorded["body"].get("n", 1)
    assert answer.json()["size"] == size_of(recorded)


@pytest.mark.parametrize("recorded", FORMS, ids=lambda recorded: recorded["client"])
def test_forms_of_known_clients(square: InProcess, recorded: dict) -> None:
    answer = sent_as_form(square, recorded)
    if recorded["files"].count("image[]") > 1:  # this pipeline draws from one
        assert answer.status_code == 400
        assert "one picture" in answer.json()["error"]["message"]
        return
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["data"]) == int(recorded["body"].get("n", 1))
    job = square.jobs[-1]
    assert f"{job.width}x{job.height}" == size_of(recorded)
    assert job.image is not None
    assert (job.mask is not None) == ("mask" in recorded["files"])


def size_of(recorded: dict) -> str:
    """'auto' is the first size that is offered."""
    size = recorded["body"].get("size", "auto")
    return "1024x1024" if size == "auto" else size


def sent_as_form(server: InProcess, recorded: dict) -> httpx2.Response:
    parts = [(name, (None, value)) for name, value in recorded["body"].items()]
    for name in recorded["files"]:
        file = ("a.png", png(mask=name == "mask"), "image/png")
        parts.append((name, file))
    return server.http.post(recorded["path"], files=parts)


# ---- pictures to draw from


def png(*, mask: bool = False, size: tuple[int, int] = (32, 32)) -> bytes:
    """A red picture; as a mask with a transparent square in its middle half."""
    file = io.BytesIO()
    image = Image.new("RGBA", size, (255, 0, 0, 255))
    if mask:
        width, height = size
        image.paste((0, 0, 0, 0), (width // 4, height // 4, 3 * width // 4, 3 * height // 4))
    image.save(file, "PNG")
    return file.getvalue()


def test_a_mask_is_white_where_it_was_transparent(square: InProcess) -> None:
    square.openai.images.edit(
        model="fake", prompt="p", image=png(), mask=png(mask=True), size="512x512"
    )
    job = square.jobs[-1]
    mask = Image.open(io.BytesIO(job.mask))
    assert (mask.mode, mask.size) == ("L", (512, 512))
    assert mask.getpixel((256, 256)) == 255
    assert mask.getpixel((10, 10)) == 0
    assert mask.histogram()[255] == 256 * 256


BAD_MASKS = [
    (png(mask=True, size=(32, 16)), "must be equal", "mask"),
    (png(), "nothing would be drawn anew", "mask"),
    (b"no picture", "The mask cannot be read", "mask"),
]


@pytest.mark.parametrize(("mask", "words", "param"), BAD_MASKS, ids=["size", "opaque", "broken"])
def test_a_mask_that_says_nothing_is_refused(
    square: InProcess, mask: bytes, words: str, param: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=words) as caught:
        square.openai.images.edit(model="fake", prompt="p", image=png(), mask=mask)
    assert caught.value.param == param


def test_a_mask_fits_a_photograph_as_it_is_seen(square: InProcess) -> None:
    """A camera's picture lies on its side and says so; a client draws the mask over what it
    shows."""
    photo, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (32, 16), "red").save(photo, "JPEG", exif=exif)
    square.openai.images.edit(
        model="fake", prompt="p", image=photo.getvalue(), mask=png(mask=True, size=(16, 32))
    )
    assert square.jobs[-1].mask is not None


def test_no_mask_where_the_pipeline_does_not_inpaint(server: InProcess) -> None:
    with pytest.raises(openai.BadRequestError, match="takes no mask") as caught:
        server.openai.images.edit(model="fake", prompt="p", image=png(), mask=png(mask=True))
    assert caught.value.param == "mask"
    files = {"image": png(), "sketch": png()}
    answer = server.http.post("/v1/images/edits", data={"prompt": "p"}, files=files)
    assert answer.json()["error"]["param"] == "sketch"


def test_several_references_where_the_pipeline_takes_them() -> None:
    certificate = certificate_for((64, 64), references=3)
    with in_process(certificate) as server:
        server.openai.images.edit(model="fake", prompt="p", image=[png(), png()])
        job = server.jobs[-1]
        assert (len(job.references), job.image) == (2, None)
        with pytest.raises(openai.BadRequestError, match="3 pictures at most"):
            server.openai.images.edit(model="fake", prompt="p", image=[png()] * 4)


def test_variations_are_edits_without_a_prompt(square: InProcess) -> None:
    answer = square.openai.images.create_variation(
        model="fake", image=png(), n=2, size="512x512", response_format="b64_json"
    )
    assert len(answer.data) == 2
    job = square.jobs[-1]
    assert (job.prompt, job.strength, job.width) == ("", 0.6, 512)
    assert job.image is not None


def test_no_variations_without_a_picture_to_start_from() -> None:
    with (
        in_process(certificate_for((64, 64), img2img=False)) as server,
        pytest.raises(openai.BadRequestError, match="cannot draw from a picture"),
    ):
        server.openai.images.create_variation(model="fake", image=png())


# ---- deadlines and weights


@pytest.mark.parametrize(("asked", "seconds"), [(None, 60.0), (30.0, 30.0), (600.0, 60.0)])
def test_a_requests_own_deadline_is_never_later_than_the_servers(
    asked: float | None, seconds: float
) -> None:
    with in_process(certificate_for((64, 64))) as server:
        begun = time.monotonic()
        body = {} if asked is None else {"deadline_seconds": asked}
        server.openai.images.generate(model="fake", prompt="p", extra_body=body)
        left = server.jobs[-1].deadline - begun
        assert seconds <= left <= seconds + time.monotonic() - begun
        with pytest.raises(openai.BadRequestError) as caught:
            server.openai.images.generate(
                model="fake", prompt="p", extra_body={"deadline_seconds": 0}
            )
        assert caught.value.param == "deadline_seconds"


# ---- LoRA


def test_a_lora_is_asked_for_by_name() -> None:
    with in_process(certificate_for((64, 64), loras=("paper", "ink"))) as server:
        body = {"lora": "ink", "lora_scale": 0.5}
        server.openai.images.generate(model="fake", prompt="p", extra_body=body)
        assert (server.jobs[-1].lora, server.jobs[-1].lora_scale) == ("ink", 0.5)
        with pytest.raises(openai.BadRequestError, match="paper, ink") as caught:
            server.openai.images.generate(model="fake", prompt="p", extra_body={"lora": "../ink"})
        assert caught.value.param == "lora"
        assert server.http.get("/readyz").json()["offer"]["loras"] == ["paper", "ink"]


def test_a_server_without_loras_says_so(server: InProcess) -> None:
    with pytest.raises(openai.BadRequestError, match="--loras"):
        server.openai.images.generate(model="fake", prompt="p", extra_body={"lora": "ink"})
