"""The official client, unchanged, against a real server."""

from __future__ import annotations

import base64
import contextlib
import io
import time
from collections.abc import Iterator

import msgspec
import openai
import pytest
from openai import OpenAI
from PIL import Image

from serve_fake import CERTIFICATE, ENDLESS, Running, http, serving, wait_until


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving() as server:
        yield server


@pytest.fixture
def client(running: Running) -> OpenAI:
    return client_of(running)


def client_of(running: Running, **settings: object) -> OpenAI:
    return OpenAI(base_url=f"{running.address}/v1", api_key="any", **{"max_retries": 0, **settings})


def opened(base64_text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(base64_text)))


def test_a_picture_of_the_size_asked_for(client: OpenAI) -> None:
    answer = client.images.generate(model="fake", prompt="a red apple", size="96x64")
    assert answer.size == "96x64"
    assert opened(answer.data[0].b64_json).size == (96, 64)
    assert abs(answer.created - time.time()) < 60


def test_n_pictures_count_seeds_up_and_each_is_the_one_drawn_alone(client: OpenAI) -> None:
    together = client.images.generate(model="fake", prompt="p", n=3, extra_body={"seed": 7})
    alone = client.images.generate(model="fake", prompt="p", extra_body={"seed": 9})
    assert [image.seed for image in together.data] == [7, 8, 9]
    assert together.data[2].b64_json == alone.data[0].b64_json
    assert together.data[0].b64_json != alone.data[0].b64_json


def test_a_seed_not_given_is_told_and_draws_the_same_again(client: OpenAI) -> None:
    first = client.images.generate(model="fake", prompt="p").data[0]
    again = client.images.generate(model="fake", prompt="p", extra_body={"seed": first.seed}).data[
        0
    ]
    assert first.b64_json == again.b64_json


@pytest.mark.parametrize(
    ("output_format", "compression"), [("png", None), ("jpeg", 80), ("webp", 50)]
)
def test_formats(client: OpenAI, output_format: str, compression: int | None) -> None:
    extra = {} if compression is None else {"output_compression": compression}
    answer = client.images.generate(model="fake", prompt="p", output_format=output_format, **extra)
    assert opened(answer.data[0].b64_json).format == output_format.upper()
    assert answer.output_format == output_format


def test_what_was_asked_for_reaches_the_engine(running: Running, client: OpenAI) -> None:
    extra = {"seed": 1, "steps": 12, "guidance": 3.5, "negative_prompt": "blur"}
    client.images.generate(model="fake", prompt="the prompt", extra_body=extra)
    job = running.engine.jobs[-1]
    assert (job.prompt, job.seed, job.steps, job.guidance, job.negative_prompt) == (
        "the prompt",
        1,
        12,
        3.5,
        "blur",
    )
    assert job.previews == 0
    assert 0 < job.deadline - time.monotonic() <= running.service.settings.deadline


@pytest.mark.parametrize(
    ("quality", "steps"), [("low", 4), ("medium", 8), ("auto", 8), ("high", 12), ("hd", 12)]
)
def test_quality_is_steps(running: Running, client: OpenAI, quality: str, steps: int) -> None:
    client.images.generate(model="fake", prompt="p", quality=quality)
    assert running.engine.jobs[-1].steps == steps


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_a_stream_previews_and_completes(client: OpenAI, count: int) -> None:
    events = list(
        client.images.generate(model="fake", prompt="p", stream=True, partial_images=count)
    )
    assert [event.type for event in events] == ["image_generation.partial_image"] * count + [
        "image_generation.completed"
    ]
    assert [event.partial_image_index for event in events[:-1]] == list(range(count))
    assert all(opened(event.b64_json).size == (64, 64) for event in events)
    assert events[-1].usage.halftime["pictures"][0]["steps"] == 8


def test_the_streamed_final_is_the_picture_of_the_plain_request(client: OpenAI) -> None:
    plain = (
        client.images.generate(model="fake", prompt="p", extra_body={"seed": 5}).data[0].b64_json
    )
    stream = client.images.generate(
        model="fake", prompt="p", stream=True, partial_images=2, extra_body={"seed": 5}
    )
    assert list(stream)[-1].b64_json == plain


def test_timings_in_the_body_and_the_header(client: OpenAI) -> None:
    raw = client.images.with_raw_response.generate(model="fake", prompt="p")
    timings = raw.parse().usage.halftime
    picture = timings["pictures"][0]
    assert set(picture["stages"]) == {"encode_prompt", "denoise", "vae_decode"}
    assert picture["queue_seconds"] + picture["compute_seconds"] <= timings["seconds"]
    header = dict(part.split(";dur=") for part in raw.headers["server-timing"].split(", "))
    names = {"receive", "upload", "queue", *picture["stages"], "file", "rest", "total"}
    assert set(header) == names
    assert float(header["total"]) == pytest.approx(1000 * timings["seconds"], abs=0.01)


def test_edit_starts_from_the_clients_picture(running: Running, client: OpenAI) -> None:
    file = io.BytesIO()
    Image.new("RGBA", (10, 20), "red").save(file, "WEBP", lossless=True)
    answer = client.images.edit(
        image=("in.webp", file.getvalue()),
        prompt="p",
        model="fake",
        n=2,
        extra_body={"strength": 0.4, "seed": 3},
    )
    job = running.engine.jobs[-1]
    assert (len(answer.data), job.strength, job.seed) == (2, 0.4, 4)
    handed_on = Image.open(io.BytesIO(job.image))
    assert (handed_on.format, handed_on.mode, handed_on.size) == ("PNG", "RGB", (64, 64))
    assert handed_on.getpixel((0, 0)) == (255, 0, 0)


def test_edit_streams_under_its_own_names(client: OpenAI) -> None:
    image = base64.b64decode(client.images.generate(model="fake", prompt="p").data[0].b64_json)
    events = list(
        client.images.edit(image=[image], prompt="p", model="fake", stream=True, partial_images=1)
    )
    assert [event.type for event in events] == ["image_edit.partial_image", "image_edit.completed"]


def test_a_url_is_fetched_without_a_key_until_it_expires(running: Running, client: OpenAI) -> None:
    url = (
        client.images.generate(
            model="fake", prompt="p", response_format="url", output_format="jpeg"
        )
        .data[0]
        .url
    )
    answer = http.get(url)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    assert Image.open(io.BytesIO(answer.content)).size == (64, 64)
    running.service.pictures._pictures.clear()
    assert http.get(url).status_code == 404


def test_models(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["fake"]
    assert client.models.retrieve("fake").owned_by == "halftime"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt/other")


REFUSED = [
    ({"model": "other"}, openai.NotFoundError, "model_not_found", "model"),
    ({"n": 11}, openai.BadRequestError, "invalid_value", "n"),
    ({"size": "big"}, openai.BadRequestError, "invalid_value", "size"),
    ({"prompt": ""}, openai.BadRequestError, "invalid_value", "prompt"),
    ({"prompt": "x" * 5000}, openai.BadRequestError, "invalid_value", "prompt"),
    (
        {"extra_body": {"sampler": "euler"}},
        openai.BadRequestError,
        "unknown_parameter",
        "sampler",
    ),
    ({"extra_body": {"seed": -2}}, openai.BadRequestError, "invalid_value", "seed"),
    ({"background": "transparent"}, openai.BadRequestError, "unsupported_value", "background"),
    (
        {"stream": True, "response_format": "url"},
        openai.BadRequestError,
        "unsupported_value",
        "response_format",
    ),
    ({"prompt": "refuse"}, openai.BadRequestError, "refused", None),
    ({"prompt": "fail bad_request"}, openai.BadRequestError, "refused", None),
    ({"prompt": "fail crashed"}, openai.InternalServerError, "crashed", None),
    ({"prompt": "fail deadline"}, openai.InternalServerError, "deadline_exceeded", None),
    ({"prompt": "fail internal"}, openai.InternalServerError, "internal", None),
]


@pytest.mark.parametrize(
    ("arguments", "error", "code", "param"), REFUSED, ids=lambda value: str(value)[:40]
)
def test_errors_are_those_of_the_client(
    client: OpenAI, arguments: dict, error: type, code: str, param: str | None
) -> None:
    with pytest.raises(error) as caught:
        client.images.generate(**{"model": "fake", "prompt": "p", **arguments})
    assert (caught.value.code, caught.value.param) == (code, param)
    assert caught.value.type == (
        "server_error" if caught.value.status_code >= 500 else "invalid_request_error"
    )
    assert caught.value.request_id


def test_a_failure_in_a_stream_is_raised_by_the_client(client: OpenAI) -> None:
    with pytest.raises(openai.APIError, match="The worker died"):
        list(client.images.generate(model="fake", prompt="fail crashed", stream=True))


def test_a_missed_deadline_is_not_sent_again_but_a_crash_is(running: Running) -> None:
    client, jobs = client_of(running, max_retries=1), running.engine.jobs
    for prompt, sent in (("fail deadline", 1), ("fail crashed", 2)):
        before = len(jobs)
        with pytest.raises(openai.InternalServerError):
            client.images.generate(model="fake", prompt=prompt)
        assert len(jobs) - before == sent


def test_more_pictures_than_may_wait_are_no_matter_of_trying_again() -> None:
    with serving(most_pictures=3) as running:
        with pytest.raises(openai.BadRequestError) as caught:
            client_of(running).images.generate(model="fake", prompt="p", n=4)
        assert (caught.value.code, caught.value.param) == ("unsupported_value", "n")
        assert "at most" in str(caught.value)
        assert (
            len(client_of(running).images.generate(model="fake", prompt="p", n=3).data or ()) == 3
        )


def test_what_is_refused_is_counted_by_its_code() -> None:
    with serving() as running:
        assert http.get(f"{running.address}/v1/nothing").status_code == 404
        assert http.get(f"{running.address}/v1/images/generations").status_code == 405
        counted = http.get(f"{running.address}/metrics").text
    for code in ("not_found", "method_not_allowed"):
        assert f'halftime_requests_rejected_total{{code="{code}"}} 1.0' in counted


def test_more_pictures_than_ever_fit_are_400_and_a_full_queue_tells_the_whole_wait() -> None:
    # two of 8 steps wait and one is drawn: 4.2 s, and a quarter more at most
    slow = msgspec.structs.replace(CERTIFICATE.entries[0], second_seconds=4 * 1.4 / 8)
    certificate = msgspec.structs.replace(CERTIFICATE, entries=(slow,))
    with serving(queue_limit=2, certificate=certificate) as running:
        with pytest.raises(openai.BadRequestError) as refused:
            client_of(running).images.generate(model="fake", prompt="p", n=5)
        assert refused.value.param == "n"
        assert "Ask for 2 at most" in refused.value.message
        assert not running.engine.jobs
        with contextlib.ExitStack() as stack:  # at its end all three leave
            body = {"prompt": ENDLESS, "stream": True}
            for _ in range(3):
                url = f"{running.address}/v1/images/generations"
                stack.enter_context(http.stream("POST", url, json=body))
            assert running.engine.status.queue_depth == 2
            with pytest.raises(openai.RateLimitError) as caught:
                client_of(running).images.generate(model="fake", prompt="p")
        assert int(caught.value.response.headers["retry-after"]) in (5, 6)


def test_before_ready_503_and_then_a_picture() -> None:
    with serving(ready=False) as running:
        assert http.get(f"{running.address}/healthz").status_code == 200
        not_yet = http.get(f"{running.address}/readyz")
        assert (not_yet.status_code, not_yet.json()["state"]) == (503, "starting")
        with pytest.raises(openai.InternalServerError) as caught:
            client_of(running).images.generate(model="fake", prompt="p")
        assert (caught.value.status_code, caught.value.code) == (503, "not_ready")
        assert int(caught.value.response.headers["retry-after"]) >= 1
        running.release()
        wait_until(lambda: http.get(f"{running.address}/readyz").status_code == 200)
        assert client_of(running).images.generate(model="fake", prompt="p").data


def test_a_key_is_asked_for_where_one_is_set() -> None:
    with serving(api_keys=("secret", "other")) as running:
        for key in ("wrong", "secre", "secrets"):
            with pytest.raises(openai.AuthenticationError) as caught:
                client_of(running).with_options(api_key=key).models.list()
            assert caught.value.code == "invalid_api_key"
        for key in ("secret", "other"):
            assert client_of(running).with_options(api_key=key).models.list().data
        assert http.get(f"{running.address}/readyz").status_code == 200
