"""Pictures, films and tensors: read from files, told by their content, given to each call alike."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from halftime.base.errors import BadFile, BadWorkload, MissingExtra
from halftime.base.store import to_json
from halftime.pipeline.arguments import absorbed, call_arguments
from halftime.pipeline.inputs import again, content, described, is_json, picture, value_of, video
from halftime.records import Workload
from tiny_pipelines import PIPELINES

RED = Image.new("RGB", (32, 32), (200, 30, 30))


@pytest.fixture
def red(tmp_path: Path) -> str:
    RED.save(tmp_path / "red.png")
    return str(tmp_path / "red.png")


def test_a_picture_is_read_once_and_each_call_gets_its_own(red: str) -> None:
    first, second = picture(red), picture(red)
    first.putpixel((0, 0), (0, 0, 0))
    assert second.getpixel((0, 0)) == (200, 30, 30)
    Image.new("RGB", (8, 4)).save(red)  # another picture in its place
    assert picture(red).size == (8, 4)


def test_a_film_is_an_animation_or_a_folder_of_frames(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (16, 16), (80 * index, 0, 0)) for index in range(3)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    for index, frame in enumerate(frames):
        (tmp_path / "frames").mkdir(exist_ok=True)
        frame.save(tmp_path / "frames" / f"{index:03}.png")
    assert len(video(str(tmp_path / "film.gif"))) == 3
    assert [frame.getpixel((0, 0))[0] for frame in video(str(tmp_path / "frames"))] == [0, 80, 160]


def test_a_film_that_no_package_reads_names_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(path: str) -> None:
        raise ImportError("imageio")

    monkeypatch.setattr("halftime.pipeline.inputs.load_video", missing)
    (tmp_path / "film.mp4").write_bytes(b"x")
    with pytest.raises(MissingExtra, match=r"imageio.*install 'halftime\[video\]'"):
        video(str(tmp_path / "film.mp4"))


@pytest.mark.parametrize(
    ("name", "data", "complaint"),
    [
        ("gone.png", None, r"cannot read .*gone\.png: No such file"),
        ("text.png", b"no picture", "cannot be read as a picture"),
        ("tensor.npy", b"no array", "cannot read a tensor from"),
        ("tensor.safetensors", b"none", r"cannot read .*tensor\.safetensors"),
        ("table.csv", b"1,2", "is no file that an argument can come from. Allowed are pictures"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, name: str, data: bytes | None, complaint: str) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(BadFile, match=complaint):
        value_of(str(tmp_path / name), "image")


def test_tensors_of_a_file(tmp_path: Path) -> None:
    tensors = {"prompt_embeds": torch.ones(1, 2), "pooled": torch.zeros(1)}
    save_file(tensors, tmp_path / "two.safetensors")
    save_file({"x": torch.ones(3)}, tmp_path / "one.safetensors")
    np.save(tmp_path / "array.npy", np.ones(4))
    torch.save(torch.ones(5), tmp_path / "tensor.pt")
    shapes = {
        file: tuple(value_of(str(tmp_path / file), "prompt_embeds").shape)  # type: ignore[attr-defined]
        for file in ("two.safetensors", "one.safetensors", "array.npy", "tensor.pt")
    }
    assert [*shapes.values()] == [(1, 2), (3,), (4,), (5,)]
    with pytest.raises(
        BadFile, match=r"no tensor called 'latents'\. It has: pooled, prompt_embeds"
    ):
        value_of(str(tmp_path / "two.safetensors"), "latents")


VALUES = st.one_of(
    st.integers(0, 5).map(lambda seed: torch.full((2, 2), float(seed))),
    st.integers(0, 5).map(lambda seed: torch.full((2, 2), float(seed), dtype=torch.bfloat16)),
    st.integers(0, 5).map(lambda level: Image.new("RGB", (2, 2), (level, 0, 0))),
    st.integers(0, 5).map(lambda seed: np.full((2, 2), seed)),
    st.lists(st.integers(0, 5).map(lambda seed: torch.tensor(seed)), max_size=2),
)


def equal(left: object, right: object) -> bool:
    if type(left) is not type(right):
        return False
    if isinstance(left, list):
        assert isinstance(right, list)
        return len(left) == len(right) and all(map(equal, left, right))
    if isinstance(left, torch.Tensor):
        assert isinstance(right, torch.Tensor)
        return left.dtype == right.dtype and torch.equal(left, right)
    return np.array_equal(np.asarray(left), np.asarray(right))


@settings(max_examples=60)
@given(VALUES, VALUES)
def test_contents_are_equal_where_values_are(left: object, right: object) -> None:
    assert (content(left) == content(right)) == equal(left, right)


def test_a_content_says_kind_and_size() -> None:
    assert content(torch.zeros(1, 77, 4)).startswith("float32 1x77x4 ")
    assert content([RED, RED]).startswith("2 x picture RGB 32x32 ")
    assert content({"a": 1, "b": None}).startswith("{a: int, b: NoneType} ")
    assert content(torch.zeros(0, device="meta")).startswith("float32 0 ")
    assert content(test_a_content_says_kind_and_size).startswith("test_a_content_says_kind")


def test_what_a_file_can_hold_goes_into_the_workload_and_the_rest_by_content(red: str) -> None:
    work = described(
        Workload(image=(red,), arguments={"last_image": f"@{red}"}),
        {"strength": 0.5, "latents": torch.zeros(2), "sizes": [1, 2], "nested": [[1]]},
    )
    assert work.arguments == {"last_image": f"@{red}", "strength": 0.5, "sizes": [1, 2]}
    assert set(work.contents) == {"image", "last_image", "latents", "nested"}
    assert msgspec.json.decode(to_json(work), type=Workload) == work
    assert not is_json(float("nan"))


def test_a_workload_is_equal_wherever_its_pictures_lie(red: str, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    RED.save(tmp_path / "copy" / "other.webp", lossless=True)
    hashes = {
        described(Workload(image=(path,))).content_hash()
        for path in (red, str(tmp_path / "copy" / "other.webp"))
    }
    assert len(hashes) == 1
    assert described(Workload(mask=red)).content_hash() not in hashes


def test_each_call_starts_a_users_generator_where_it_stood() -> None:
    generator = torch.Generator().manual_seed(3)
    torch.rand(2, generator=generator)
    draws = [torch.rand(2, generator=again([generator])[0]) for _ in range(2)]  # type: ignore[index]
    assert torch.equal(*draws)
    pipeline = PIPELINES["sd15"].build()
    calls = [call_arguments(pipeline, Workload(), {"generator": generator}) for _ in range(2)]
    assert calls[0]["generator"] is not calls[1]["generator"] is not generator


def test_arguments_that_a_workload_has_a_field_for_are_its_own() -> None:
    work, rest = absorbed(
        Workload(),
        {"prompt": ["a", "b"], "num_inference_steps": 4, "guidance_scale": 2, "eta": 0.0},
    )
    assert (work.prompts, work.steps, work.guidance) == (("a", "b"), 4, 2.0)
    assert rest == {"eta": 0.0}
    assert absorbed(Workload(), {"prompt": None, "width": "x"})[1] == {"prompt": None, "width": "x"}
    with pytest.raises(BadWorkload, match="steps is 0"):
        absorbed(Workload(), {"num_inference_steps": 0})
