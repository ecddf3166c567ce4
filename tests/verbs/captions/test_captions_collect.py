"""`halftime captions collect` with models and judges that fail: nothing paid for is lost."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from captions_synthetic import chat, jpeg
from captions_upstreams import Model, rude, serving
from halftime.base.errors import BadFile
from halftime.cli import main
from halftime.verbs.captions import collect as collecting
from halftime.verbs.captions.collect import _retry_seconds
from halftime.verbs.captions.log import logged_lines, read_log
from halftime.verbs.captions.request import caption_request


@dataclass
class Moody:
    """A model that answers `statuses` first, one a request, and `always` from then on."""

    statuses: list[int] = field(default_factory=list)
    always: int = 200
    retry_after: bytes = b""
    requests: int = 0
    received: list[tuple[str, dict]] = field(default_factory=list)  # paths and bodies
    gathers: int = 0  # from its second request on it answers so many at a time
    under_way: int = 0
    most: int = 0

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.received.append((scope["path"], json.loads(body)))
        self.requests += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        if self.gathers and self.requests > 1:
            await self.gathered()
        self.under_way -= 1
        status = self.statuses.pop(0) if self.statuses else self.always
        headers = [(b"content-type", b"application/json")]
        headers += [(b"retry-after", self.retry_after)] if self.retry_after else []
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send(
            {
                "type": "http.response.body",
                "body": Model("m").completion() if status == 200 else b"no such luck",
            }
        )

    async def gathered(self) -> None:
        """Wait for the others of this request's group."""
        number = (self.requests - 2) // self.gathers
        while self.requests < 1 + self.gathers * (number + 1):
            await asyncio.sleep(0.001)


def run(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["captions", *arguments])
    return int(caught.value.code or 0)


@dataclass
class Desk:
    """A folder with requests, two models, and the judge of this module that has its turn."""

    folder: Path
    small: Moody
    large: Moody
    urls: list[str]
    concurrency: int = 1  # the order of lines and of statuses is then that of the requests
    prices: tuple[str, ...] = ("--small-price", "0.1", "--large-price", "1")

    @property
    def log(self) -> Path:
        return self.folder / "log.jsonl"

    def requests(self, count: int, *more: dict) -> Path:
        for number in range(count):
            (self.folder / f"{number}.jpg").write_bytes(jpeg(number, 64, noise=60.0))
        lines = [{"image": f"{number}.jpg", "prompt": "what?"} for number in range(count)]
        path = self.folder / "requests.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in (*lines, *more)))
        return path

    def collect(self, requests: Path, judge: str = "fine", out: Path | str | None = None) -> int:
        small, large = self.urls
        models = [
            "--small",
            small,
            "--small-model",
            "s",
            "--large",
            large,
            "--large-model",
            "l",
            *self.prices,
        ]
        return run(
            [
                "collect",
                str(requests),
                *models,
                "--judge",
                f"{__name__}:{judge}",
                "--out",
                str(out or self.log),
                "--concurrency",
                str(self.concurrency),
            ]
        )

    def images(self) -> list[str]:
        return [json.loads(line)["image"] for line in self.log.read_text().splitlines()]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr(collecting, "PAUSES", (0.01, 0.01))
    monkeypatch.setattr(sys.modules[__name__], "turns", 0)
    small, large = Moody(), Moody()
    with serving(small) as small_url, serving(large) as large_url:
        yield Desk(tmp_path, small, large, [small_url, large_url])


turns = 0


def fine(picture: bytes, prompt: str, answer: str) -> float:
    return 0.5


def fails_once(picture: bytes, prompt: str, answer: str) -> float:
    global turns
    turns += 1
    if turns == 3:
        raise RuntimeError("a hiccup")
    return 0.5


def interrupts(picture: bytes, prompt: str, answer: str) -> float:
    global turns
    turns += 1
    if turns == 4:
        press_ctrl_c()
    return 0.5


def press_ctrl_c() -> None:
    """What Python does on SIGINT, without the signal: one that comes too late ends the tests."""
    handler = signal.getsignal(signal.SIGINT)
    assert callable(handler)
    handler(signal.SIGINT, None)


def says_words(picture: bytes, prompt: str, answer: str) -> object:
    return "good"


def says_nan(picture: bytes, prompt: str, answer: str) -> object:
    return float("nan")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_may_pass_is_tried_again(desk: Desk, status: int) -> None:
    desk.large.statuses = [status, status]
    assert desk.collect(desk.requests(2)) == 0
    assert desk.images() == ["0.jpg", "1.jpg"]
    assert (desk.small.requests, desk.large.requests) == (2, 4)


def test_a_request_that_fails_costs_that_request_alone(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.large.statuses = [200, 500, 500, 500, 200, 400]
    assert desk.collect(desk.requests(5, {"image": "none.jpg"})) == 0
    assert desk.images() == ["0.jpg", "2.jpg", "4.jpg"]
    output = capsys.readouterr()
    assert "3 of 6 requests" in output.out
    for words in (
        "left out 3: ",
        "1 x l answered 500 (1.jpg: no such luck)",
        "1 x l answered 400",
        "1 x the picture",
    ):
        assert words in output.err


def test_a_judge_that_raises_costs_one_request(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    assert desk.collect(desk.requests(3), "fails_once") == 0
    assert desk.images() == ["0.jpg", "2.jpg"]
    assert (
        f"--judge {__name__}:fails_once raised RuntimeError (1.jpg: a hiccup)"
        in capsys.readouterr().err
    )


def test_a_second_run_takes_up_what_is_there(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    requests = desk.requests(4)
    desk.large.statuses = [200, 400]
    assert desk.collect(requests) == 0
    desk.log.write_bytes(desk.log.read_bytes()[:-30])  # and half a line of a run that was killed
    assert desk.collect(requests) == 0
    assert desk.images() == ["0.jpg", "2.jpg", "1.jpg", "3.jpg"]
    assert desk.small.requests == 4 + 2
    assert "4 of 4 requests, 2 of them from an earlier run" in capsys.readouterr().out
    assert desk.collect(requests) == 0  # nothing is left
    assert desk.small.requests == 6


def test_ctrl_c_keeps_what_was_paid_for(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    requests = desk.requests(3)
    assert desk.collect(requests, "interrupts") == 130
    assert desk.images() == ["0.jpg", "1.jpg"]  # while the second one's judge looked
    output = capsys.readouterr().err
    assert "interrupted" in output
    assert "holds 2 of 3 requests; run the same command again to go on" in output
    assert desk.collect(requests) == 0
    assert desk.images() == ["0.jpg", "1.jpg", "2.jpg"]


def test_a_model_that_is_down_stops_the_run_and_not_the_wallet(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.large.statuses, desk.large.always = [200], 503
    assert desk.collect(desk.requests(30)) == 2
    assert desk.images() == ["0.jpg"]
    assert desk.small.requests == 1 + collecting.MOST_IN_A_ROW
    output = capsys.readouterr().err
    assert "stopped after 10 failures in a row. Left out: 10 x l answered 503" in output
    assert "holds 1 of 30 requests; run the same command again" in output


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (
            '{"image": "none.jpg"}\n',
            "1 x the picture cannot be used (none.jpg: the picture is neither a file here",
        ),
        ("", "has no request. Write one a line"),
        ("\n\n", "has no request"),
    ],
)
def test_nothing_written_is_reported_and_is_not_a_success(
    desk: Desk, lines: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    requests = desk.folder / "requests.jsonl"
    requests.write_text(lines)
    assert desk.collect(requests) == 2
    output = capsys.readouterr()
    assert words in output.err
    assert output.out == ""
    assert not desk.log.exists()


def test_paths_are_beside_the_log_so_that_it_can_be_calibrated(desk: Desk, tmp_path: Path) -> None:
    requests = desk.requests(2, {"image": str(tmp_path / "0.jpg"), "prompt": "why?"})
    out = tmp_path / "sub" / "log.jsonl"
    assert desk.collect(requests, out=out) == 0
    assert [row.image for row in logged_lines(out)] == [
        "../0.jpg",
        "../1.jpg",
        str(tmp_path / "0.jpg"),
    ]
    assert len(read_log(out).rows) == 3
    assert desk.collect(requests, out=out) == 0
    assert desk.small.requests == 3


def test_a_log_behind_a_link_names_its_pictures_too(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "sub").symlink_to(tmp_path / "far" / "away")
    assert desk.collect(desk.requests(1), out=tmp_path / "sub" / "log.jsonl") == 0
    assert len(read_log(tmp_path / "sub" / "log.jsonl").rows) == 1


def test_calibrate_reads_what_collect_wrote_elsewhere(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    out = desk.folder / "sub" / "log.jsonl"
    assert desk.collect(desk.requests(60), out=out) == 0
    assert run(["calibrate", str(out)]) != 2, capsys.readouterr().err


def test_a_log_without_prices_cannot_be_calibrated(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.prices = ()
    assert desk.collect(desk.requests(40)) == 0
    assert run(["calibrate", str(desk.log)]) == 2
    assert "cost nothing in this log" in capsys.readouterr().err


def test_the_requests_are_not_written_over(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    requests = desk.requests(1)
    before = requests.read_bytes()
    assert desk.collect(requests, out=desk.folder / "." / "requests.jsonl") == 2
    assert "is the file of the requests itself" in capsys.readouterr().err
    assert (requests.read_bytes(), desk.small.requests) == (before, 0)


@pytest.mark.parametrize(("judge", "value"), [("says_words", "'good'"), ("says_nan", "nan")])
def test_a_judge_that_gives_no_number_is_refused_at_once_by_name(
    desk: Desk, judge: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert desk.collect(desk.requests(3), judge) == 2
    assert f"--judge '{__name__}:{judge}' returned {value}" in capsys.readouterr().err
    assert (desk.small.requests, desk.large.requests) == (1, 0)


@pytest.mark.parametrize("which", [0, 1])
def test_a_model_that_is_not_there_is_one_sentence(
    desk: Desk, which: int, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.urls[which] = "http://127.0.0.1:9/v1"
    assert desk.collect(desk.requests(2)) == 2
    output = capsys.readouterr().err
    name, option = (("s", "--small"), ("l", "--large"))[which]
    assert f"the model {name} cannot be reached at http://127.0.0.1:9/v1: " in output
    assert f"Check {option} and whether it runs." in output
    assert "aiohttp" not in output
    assert "ClientConnectorError" not in output


def test_a_connection_that_breaks_is_tried_again(desk: Desk) -> None:
    with rude([], [], []) as (server, url):
        desk.urls[1] = url
        assert desk.collect(desk.requests(1)) == 2
        assert len(server.requests) == 3


@pytest.mark.parametrize("text", ["a diary, not a log", '{"small": 3}\n', "\x1f\x8bgzip"])
def test_a_file_that_is_no_log_is_left_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(BadFile, match="Name another --out"):
        logged_lines(path)
    assert path.read_bytes() == text.encode("latin-1")


def test_retry_after_in_seconds_as_a_date_and_as_nonsense() -> None:
    assert _retry_seconds("7") == 7.0
    assert (
        8
        < (
            _retry_seconds(format_datetime(datetime.now(UTC) + timedelta(seconds=10), usegmt=True))
            or 0
        )
        <= 10
    )
    assert (
        _retry_seconds(format_datetime(datetime.now(UTC) - timedelta(seconds=10), usegmt=True))
        == 0.0
    )
    assert _retry_seconds("soon") is _retry_seconds(None) is None


def test_retry_after_is_honoured_up_to_a_minute(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    real_sleep = asyncio.sleep

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await real_sleep(0)  # the model's server sleeps in the same way, and must let others run

    monkeypatch.setattr(collecting.asyncio, "sleep", sleep)
    monkeypatch.setattr(collecting, "PAUSES", (0.5, 0.5))
    desk.small.statuses, desk.small.retry_after = [429], b"7"
    desk.large.statuses, desk.large.retry_after = [503], b"999"
    assert desk.collect(desk.requests(1)) == 0
    assert [seconds for seconds in slept if seconds >= 1] == [7.0, collecting.LONGEST_PAUSE]


def body(**fields: object) -> dict:
    """A live request with a system prompt, as a client sends it."""
    request = chat(jpeg(3, 64, noise=60.0), "What is on the sign?", **fields)
    system = {"role": "system", "content": "Answer in Welsh."}
    return request | {"messages": [system, *request["messages"]]}


def test_whole_requests_go_to_both_models_as_they_are(desk: Desk) -> None:
    live = body(model="captions", stream=True, stream_options={}, max_tokens=7, n=1)
    assert desk.collect(desk.requests(0, {"body": live, "id": "a", "slice": "signs"})) == 0
    for model, name in ((desk.small, "s"), (desk.large, "l")):
        ((path, received),) = model.received
        assert path == "/v1/chat/completions"
        assert received == {
            "model": name,
            "messages": live["messages"],
            "max_tokens": 7,
            "n": 1,
        }  # the log needs an answer in one piece
    (row,) = logged_lines(desk.log)
    assert (row.id, row.slice, row.prompt) == ("a", "signs", "What is on the sign?")
    assert row.shape == caption_request(live).shape != ""
    assert row.image.startswith("data:image/jpeg;base64,")
    assert len(read_log(desk.log).rows) == 1


def test_a_whole_request_is_not_asked_again(desk: Desk) -> None:
    requests = desk.requests(0, {"body": body()}, {"body": body()}, {"body": body(n=2)})
    assert desk.collect(requests) == 0
    assert desk.small.requests == 3
    assert desk.collect(requests) == 0
    assert desk.small.requests == 3


def test_requests_of_the_responses_api_go_to_it(desk: Desk) -> None:
    url = chat(jpeg(3, 64))["messages"][0]["content"][1]["image_url"]["url"]
    parts = [{"type": "input_text", "text": "what?"}, {"type": "input_image", "image_url": url}]
    live = {"model": "captions", "input": [{"role": "user", "content": parts}]}
    assert desk.collect(desk.requests(0, {"body": live})) == 0
    ((path, received),) = desk.large.received
    assert (path, received) == ("/v1/responses", live | {"model": "l"})
    (row,) = logged_lines(desk.log)
    assert (row.prompt, row.shape) == ("what?", "")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"body": chat(None)}, "line 1: its 'body' is no request that could be routed: no picture"),
        ({"prompt": "what?"}, "line 1: it has neither 'image' nor 'body'"),
    ],
)
def test_a_request_that_cannot_be_collected_is_named_before_any_is_sent(
    desk: Desk, line: dict, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert desk.collect(desk.requests(0, line, {"body": body()})) == 2
    assert words in capsys.readouterr().err
    assert desk.small.requests == 0


def test_so_many_requests_are_under_way_at_once_after_the_first(desk: Desk) -> None:
    """The first one shows whether models and judge are there."""
    desk.concurrency = desk.large.gathers = 3
    requests = desk.requests(7)
    assert desk.collect(requests) == 0
    assert desk.large.most == 3
    assert sorted(desk.images()) == [f"{number}.jpg" for number in range(7)]
    assert desk.images()[0] == "0.jpg"
    assert desk.collect(requests) == 0  # in whichever order its lines stand
    assert desk.small.requests == 7


def test_of_requests_under_way_each_fails_alone(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.concurrency = desk.large.gathers = 3
    desk.large.statuses = [200, 400, 400, 200, 200, 200, 200]
    assert desk.collect(desk.requests(7)) == 0
    assert len(desk.images()) == 5
    assert "left out 2: 2 x l answered 400" in capsys.readouterr().err


def test_a_third_model_is_asked_and_judged_between_the_two(desk: Desk) -> None:
    middle = Moody()
    with serving(middle) as url:
        desk.prices = (
            *desk.prices,
            "--middle",
            url,
            "--middle-model",
            "m",
            "--middle-price",
            "0.4",
        )
        assert desk.collect(desk.requests(2)) == 0
    assert [received["model"] for _, received in middle.received] == ["m", "m"]
    row = logged_lines(desk.log)[0]
    (between,) = row.between
    assert (between.answer.cost, between.answer.quality) == (pytest.approx(0.4), 0.5)
    assert between.check.score == row.check.score == 0.5


def test_half_of_a_third_model_is_refused(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.prices = ("--middle", "http://127.0.0.1:9/v1")
    assert desk.collect(desk.requests(1)) == 2
    assert "needs both: --middle URL and --middle-model NAME" in capsys.readouterr().err


def test_pictures_by_url_are_looked_at_and_the_models_get_the_url(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    fetched: list[str] = []

    async def host(scope, receive, send) -> None:
        if scope["type"] == "http":
            fetched.append(scope["path"])
            status = 200 if scope["path"].endswith("a.jpg") else 404
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": jpeg(3, 64)})

    with serving(host) as url:
        named = url.removeprefix("http://").removesuffix("/v1")
        live = chat(None)
        part = {"type": "image_url", "image_url": {"url": f"{url}/a.jpg"}}
        live["messages"][0]["content"].append(part)
        requests = desk.requests(
            0, {"body": live}, {"image": f"{url}/a.jpg", "prompt": "x"}, {"image": f"{url}/gone"}
        )
        assert desk.collect(requests) == 2  # nobody named the host
        assert f"line 1: its picture is at {named}, which was not named: give --fetch-from" in (
            capsys.readouterr().err
        )
        assert (fetched, desk.small.requests) == ([], 0)
        desk.prices = (*desk.prices, "--fetch-from", named)
        assert desk.collect(requests) == 0
        assert desk.collect(requests) == 0  # the two are there
    assert "1 x the picture cannot be fetched" in capsys.readouterr().err
    assert desk.small.requests == 2
    for _, received in desk.large.received:
        assert received["messages"][0]["content"][1] == part
    rows = logged_lines(desk.log)
    assert [row.url for row in rows] == [f"{url}/a.jpg"] * 2
    assert len(read_log(desk.log).rows) == 2  # calibrated without the host
