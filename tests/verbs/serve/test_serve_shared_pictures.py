"""Pictures by URL where there are several replicas."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from halftime.base.errors import BadInput
from halftime.verbs.serve.shared_pictures import SharedPictures, pictures_in
from serve_fake import http, serving

DRAW = "/v1/images/generations"
BY_URL = {"prompt": "p", "response_format": "url"}


def test_any_replica_answers_what_another_one_gave(tmp_path: Path) -> None:
    with serving(pictures=str(tmp_path)) as one, serving(pictures=str(tmp_path)) as two:
        for drawn_by, asked in ((one, two), (two, one)):
            answer = http.post(drawn_by.address + DRAW, json=BY_URL)
            path = answer.json()["data"][0]["url"].removeprefix(drawn_by.address)
            pictures = [http.get(server.address + path) for server in (drawn_by, asked)]
            assert [picture.status_code for picture in pictures] == [200, 200]
            assert pictures[0].content == pictures[1].content
            assert pictures[1].headers["content-type"] == "image/png"


def test_where_they_are_off_a_request_is_refused_before_it_is_drawn() -> None:
    with serving(pictures="off") as running:
        answer = http.post(running.address + DRAW, json=BY_URL)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "response_format")
        assert not running.engine.jobs
        assert http.get(running.address + "/pictures/x").status_code == 404


@pytest.mark.parametrize("where", ["{folder}", "memory://halftime-pictures"])
def test_a_shared_picture_lives_for_its_time(tmp_path: Path, where: str) -> None:
    wall = [time.time()]
    store = SharedPictures(where.format(folder=tmp_path), 100.0, lambda: wall[0])
    name = store.put(b"data", "image/webp")
    stored = store.get(name)
    assert stored is not None
    assert (stored.data, stored.media_type) == (b"data", "image/webp")
    wall[0] += 101.0
    assert store.get(name) is None
    store.put(b"more", "image/png")  # sweeps
    wall[0] -= 101.0
    assert store.get(name) is None


def test_a_name_is_no_path(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "pictures").mkdir()
    store = SharedPictures(str(tmp_path / "pictures"), 100.0)
    for name in ("../secret.png", "..%2fsecret.png", "x" * 40 + "/a.png", "", ".", "x" * 43):
        assert store.get(name) is None
    foreign = tmp_path / "pictures" / "notes.txt"
    foreign.write_text("not ours")
    os.utime(foreign, (0, 0))
    store.put(b"data", "image/png")
    assert foreign.exists()


def test_what_cannot_be_written_to_is_said_at_the_start(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for url in (str(file / "folder"), "no-such-driver://bucket"):
        with pytest.raises(BadInput, match=r"cannot write there.*'off'"):
            pictures_in(url, 1, 1.0)
