"""/v1/videos: as OpenAI's own client uses it, in-process; and a real pipeline that makes videos."""

from __future__ import annotations

import io
import re
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import msgspec
import openai
import pytest
from PIL import Image
from serve_app import InProcess, certificate_for, in_process
from serve_helpers import certificate, job

from halftime.base.errors import BadInput, MissingExtra
from halftime.testing import FakeClock
from halftime.verbs.serve import films, studio
from halftime.verbs.serve.film_shelf import Film, FilmShelf
from halftime.verbs.serve.messages import EngineSettings, Refused
from halftime.verbs.serve.queue import ServiceTime, fitted, kind_of
from halftime.verbs.serve.schema import VideoObject
from halftime.verbs.serve.stepping import Watch
from halftime.verbs.serve.studio import Studio, open_studio
from halftime.verbs.serve.videos import seconds_of
from halftime.verbs.serve.warmup import certify
from serve_fake import wait_until

OFFERED = certificate_for(
    (64, 64), (96, 64), frames=(17, 33), fps=16.0, previews=False, img2img=False
)


@pytest.fixture(autouse=True)
def encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes the file belongs to an extra; a test below looks at real ones."""
    monkeypatch.setattr(films, "mp4", lambda pixels, width, height, fps: b"mp4" + pixels[:3])


@pytest.fixture(scope="module")
def server() -> Iterator[InProcess]:
    # OpenAI's own service ends; the shape of its API does not
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    with in_process(OFFERED) as running:
        yield running


def finished(server: InProcess, name: str) -> openai.types.Video:
    wait_until(lambda: server.openai.videos.retrieve(name).status in ("completed", "failed"))
    return server.openai.videos.retrieve(name)


def test_a_video_from_asking_to_deleting(server: InProcess) -> None:
    videos = server.openai.videos
    begun = videos.create(
        prompt="waves", seconds="1", size="96x64", extra_body={"seed": 7, "steps": 4}
    )
    assert (begun.object, begun.status, begun.seconds, begun.size) == (
        "video",
        "queued",
        "1.06",
        "96x64",
    )
    video = finished(server, begun.id)
    assert (video.status, video.progress, video.error) == ("completed", 100, None)
    assert video.completed_at is not None
    assert video.expires_at == video.completed_at + 3600
    asked = server.jobs[-1]
    assert (asked.prompt, asked.frames, asked.seed, asked.steps) == ("waves", 17, 7, 4)
    file = videos.download_content(video.id)
    assert file.response.headers["content-type"] == "video/mp4"
    assert file.read() == b"mp4" + bytes([8, 2, 3])
    thumbnail = videos.download_content(video.id, variant="thumbnail").read()
    assert Image.open(io.BytesIO(thumbnail)).size == (96, 64)
    assert videos.delete(video.id).deleted
    with pytest.raises(openai.NotFoundError):
        videos.retrieve(video.id)


def test_the_official_client_waits_for_one(server: InProcess) -> None:
    video = server.openai.videos.create_and_poll(prompt="waves", poll_interval_ms=5)
    assert video.status == "completed"
    assert video.seconds == "1.06"  # the first offered


def test_a_video_longer_than_a_pictures_deadline_is_made(server: InProcess) -> None:
    server.openai.videos.create_and_poll(prompt="waves", poll_interval_ms=5)
    deadline = server.jobs[-1].deadline
    assert deadline is not None
    assert deadline - time.monotonic() > 3000


def test_its_progress_is_the_steps_that_are_done(server: InProcess) -> None:
    videos = server.openai.videos
    begun = videos.create(prompt="endless", extra_body={"steps": 8})
    wait_until(lambda: videos.retrieve(begun.id).progress == 50)
    assert videos.retrieve(begun.id).status == "in_progress"
    with pytest.raises(openai.ConflictError, match="in_progress"):
        videos.download_content(begun.id)
    assert videos.delete(begun.id).deleted
    wait_until(lambda: server.engine.status.cancelled == 1)
    # the worker that draws for nobody is free again with its batch: the next is made
    server.links[-1].end_batch()
    assert videos.create_and_poll(prompt="waves", poll_interval_ms=5).status == "completed"


def test_what_fails_says_why(server: InProcess) -> None:
    video = server.openai.videos.create_and_poll(prompt="broken", poll_interval_ms=5)
    assert video.status == "failed"
    assert video.error is not None
    assert (video.error.code, video.error.message) == ("bad_request", "the pipeline failed.")


def test_an_encoder_that_fails_is_a_failed_video(
    server: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> bytes:
        raise OSError("secret path")

    monkeypatch.setattr(films, "mp4", broken)
    video = server.openai.videos.create_and_poll(prompt="waves", poll_interval_ms=5)
    assert video.error is not None
    assert (video.error.code, video.error.message) == ("internal", "Internal error (OSError).")


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({"seconds": "12"}, "seconds", "1.06, 2.06 are"),
        ({"frames": 20}, "seconds", "17, 33 are"),
        ({"size": "32x32"}, "size", "64x64, 96x64"),
        ({"model": "sora-2"}, "model", "sora-2"),
        ({"seconds": "long"}, "seconds", "seconds"),
        ({"fps": 3}, "fps", "Unknown parameter"),
        ({"prompt": ""}, "prompt", "prompt"),
    ],
)
def test_what_is_not_offered_is_refused(
    server: InProcess, body: dict, param: str, said: str
) -> None:
    answer = server.http.post("/v1/videos", json={"prompt": "waves", **body})
    error = answer.json()["error"]
    assert answer.status_code in (400, 404)
    assert error["param"] == param
    assert said in error["message"]


def test_a_path_says_all_that_it_allows(server: InProcess) -> None:
    for path, methods in (("/v1/videos", "GET, HEAD, POST"), ("/v1/videos/x", "DELETE, GET, HEAD")):
        answer = server.http.patch(path)
        assert answer.status_code == 405
        assert sorted(answer.headers["allow"].split(", ")) == methods.split(", ")


def test_snapping_takes_the_nearest(server: InProcess) -> None:
    body = {"prompt": "waves", "seconds": "12", "off_list": "snap"}
    answer = server.http.post("/v1/videos", json=body)
    assert answer.json()["frames"] == 33


def test_pictures_are_refused_here_and_videos_elsewhere(server: InProcess) -> None:
    with pytest.raises(openai.BadRequestError, match="/v1/videos"):
        server.openai.images.generate(prompt="waves")
    with in_process() as pictures, pytest.raises(openai.BadRequestError, match="/v1/images"):
        pictures.openai.videos.create(prompt="waves")


def test_a_picture_to_start_from_where_the_pipeline_takes_one(server: InProcess) -> None:
    file = io.BytesIO()
    Image.new("RGB", (300, 200), "red").save(file, "PNG")
    picture = ("a.png", file.getvalue(), "image/png")
    with pytest.raises(openai.BadRequestError, match="does not start from a picture"):
        server.openai.videos.create(prompt="waves", input_reference=picture)
    offered = msgspec.structs.replace(OFFERED, img2img=True, needs_picture=True)
    with in_process(offered) as from_pictures:
        with pytest.raises(openai.BadRequestError, match="input_reference"):
            from_pictures.openai.videos.create(prompt="waves")
        from_pictures.openai.videos.create_and_poll(
            prompt="waves", input_reference=picture, size="96x64", poll_interval_ms=5
        )
        image = from_pictures.jobs[-1].image
        assert image is not None
        assert Image.open(io.BytesIO(image)).size == (96, 64)


def test_videos_are_listed_in_pages_and_only_ones_own() -> None:
    with in_process(OFFERED, api_keys=("one", "two")) as server:
        one, two = (server.openai.with_options(api_key=key) for key in ("one", "two"))
        names = [one.videos.create(prompt="waves").id for _ in range(3)]
        listed = one.videos.list(limit=2)
        assert [video.id for video in listed.data] == names[:0:-1]
        assert listed.has_more
        assert [video.id for video in listed.get_next_page().data] == names[:1]
        assert [video.id for video in one.videos.list(order="asc").data] == names
        assert two.videos.list().data == []
        for call in (two.videos.retrieve, two.videos.delete, two.videos.download_content):
            with pytest.raises(openai.NotFoundError):
                call(names[0])
        for query in ("limit=0", "limit=x", "order=up", "after=nothing"):
            answer = server.http.get(f"/v1/videos?{query}", headers={"authorization": "Bearer one"})
            assert answer.json()["error"]["param"] == query.partition("=")[0]


# ---- what is kept


def film(name: str, size: int = 0, client: str = "a") -> Film:
    about = VideoObject(
        id=name, created_at=0, model="m", seconds="1", size="1x1", seed=0, frames=1, fps=1.0
    )
    return Film(client, about, file=bytes(size))


def test_videos_expire_and_the_oldest_make_room() -> None:
    clock = FakeClock()
    shelf = FilmShelf(capacity=100, lifetime=10.0, clock=lambda: clock.now)
    running, first, second = film("running"), film("first", 60), film("second", 60)
    for each in (running, first, second):
        shelf.add(each)
    shelf.ended(first)
    clock.now += 1.0
    shelf.ended(second)
    assert shelf.get("first", "a") is None  # 120 bytes are too many
    assert shelf.get("second", "a") is second
    assert shelf.get("second", "b") is None
    clock.now += 10.0
    assert shelf.of("a") == [running]


# ---- one of them, in the engine


def test_what_shapes_a_video_decides_who_shares_a_call_and_what_it_takes() -> None:
    assert kind_of(job(frames=17)) != kind_of(job(frames=33))
    times = ServiceTime()
    times.learn(job(frames=10, steps=10), 1, 5.0)
    assert times.of(job(frames=20, steps=10)) == pytest.approx(10.0)


def test_frames_are_snapped_or_refused() -> None:
    offered = certificate(frames=(17, 33))
    assert fitted(job(frames=20), offered, "snap").frames == 17
    with pytest.raises(Refused, match="17, 33 are"):
        fitted(job(frames=20), offered, "refuse")
    with pytest.raises(Refused, match="makes videos"):
        fitted(job(), offered, "snap")
    with pytest.raises(Refused, match="makes pictures"):
        fitted(job(frames=17), certificate(), "snap")


def test_lengths_in_words() -> None:
    assert [seconds_of(frames, 16.0) for frames in (81, 64, 17)] == ["5.06", "4", "1.06"]


# ---- a real pipeline

WAN = EngineSettings(
    model="serve_models:wan", sizes=((32, 16),), steps=(2,), frames=(5,), tiny_vae=None
)


@pytest.fixture(scope="module")
def wan() -> Studio:
    patch = pytest.MonkeyPatch()
    patch.setattr(studio, "optional", lambda *_: None)  # the encoder is the HTTP side's
    opened = open_studio(WAN)
    patch.undo()
    return opened


def test_a_pipeline_that_makes_videos_is_certified_for_them(wan: Studio) -> None:
    stands = certify(wan, WAN, None, lambda *_: None)
    assert (stands.frames, stands.fps, stands.batch_sizes) == ((5,), 16.0, (1,))
    assert (stands.img2img, stands.needs_picture) == (False, False)
    assert {entry.frames for entry in stands.entries} == {5}


def test_it_makes_the_frames_that_were_asked_for_and_tells_of_each_step(wan: Studio) -> None:
    asked = [job(width=32, height=16, steps=2, frames=5)]
    steps: list[tuple[int, int]] = []
    watch = Watch(asked, lambda: asked, progress=lambda step, of: steps.append((step, of)))
    drawing = wan.draw(asked, watch)
    assert drawing.pictures.shape == (1, 5, 16, 32, 3)
    assert steps == [(1, 2), (2, 2)]
    again = wan.draw(asked, Watch(asked, lambda: asked))
    assert (again.pictures == drawing.pictures).all()


def test_a_number_of_frames_that_the_vae_does_not_allow_is_said(wan: Studio) -> None:
    asked = [job(width=32, height=16, steps=2, frames=6)]
    with pytest.raises(BadInput, match="asked for 6 frames the pipeline gave 5"):
        wan.draw(asked, Watch(asked, lambda: asked))


def test_without_an_encoder_it_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    with pytest.raises(MissingExtra, match=re.escape("halftime[video]")):
        open_studio(WAN)


def test_a_real_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    monkeypatch.undo()
    pixels = b"".join(bytes([shade]) * (48 * 32 * 3) for shade in range(0, 250, 50))
    path = tmp_path / "video.mp4"
    path.write_bytes(films.mp4(pixels, 48, 32, 10.0))
    frames, seconds = ffmpeg.count_frames_and_secs(str(path))
    assert (frames, seconds) == (5, pytest.approx(0.5, abs=0.05))
    reader = ffmpeg.read_frames(str(path))
    about = next(reader)
    assert (about["size"], about["codec"]) == ((48, 32), "h264")
    shades = [frame[0] for frame in reader]
    assert shades == pytest.approx([0, 50, 100, 150, 200], abs=6)
