"""Recordings that are odd and not damaged: the same run in other words gives the same numbers.

The truth is that of the synthetic run, which no oddity changes.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from halftime.base.errors import BadFile
from halftime.verbs.trace.perfetto import annotate
from halftime.verbs.trace.run import explain, explain_files, trace
from trace_synthetic import EPOCH, Synthetic, diffusion, framed

Event = dict[str, object]
CAPITALS = {
    "kernel": "Kernel",
    "gpu_memcpy": "Memcpy",
    "cuda_runtime": "Runtime",
    "cpu_op": "Operator",
}


def run() -> Synthetic:
    return diffusion(Synthetic(), steps=4, kernels=6)


def edited(program: Synthetic, edit: Callable[[int, Event], object]) -> list[Event]:
    """The program's events, each changed in place."""
    events: list[Event] = json.loads(json.dumps(program.events))
    for number, event in enumerate(events):
        edit(number, event)
    return events


def written(path: Path, events: list[Event], **head: object) -> Path:
    path.write_text(json.dumps({**head, "traceEvents": events}))
    return path


def text_times(_: int, event: Event) -> None:
    event["ts"], event["dur"] = f"{event['ts']:.3f}", str(event["dur"])


def text_arguments(_: int, event: Event) -> None:
    arguments = event["args"]
    assert isinstance(arguments, dict)
    event["args"] = {name: hex(value) for name, value in arguments.items()}


def unsigned(_: int, event: Event) -> None:
    arguments = event["args"]
    assert isinstance(arguments, dict)
    if "correlation" in arguments:
        arguments["correlation"] += 2**63


def unsigned_text(number: int, event: Event) -> None:
    unsigned(number, event)
    text_arguments(number, event)


def capitals(_: int, event: Event) -> None:
    event["cat"] = CAPITALS.get(str(event["cat"]), event["cat"])


def nobody(_: int, event: Event) -> None:
    del event["pid"], event["tid"]


def unnamed(number: int, event: Event) -> None:
    if event["cat"] == "kernel" and number % 3:
        event["name"] = None if number % 2 else number


@pytest.mark.parametrize(
    "edit",
    [text_times, text_arguments, unsigned, unsigned_text, capitals, nobody, unnamed],
    ids=lambda f: f.__name__,
)
def test_the_same_run_in_other_words(tmp_path: Path, edit: Callable[[int, Event], None]) -> None:
    program = run()
    events = edited(program, edit)
    random.Random(0).shuffle(events)  # no writer promises an order
    session = trace(written(tmp_path / "odd.json", events))
    device = session.device
    assert device is not None
    assert device.busy_seconds == pytest.approx(program.busy * 1e-6)
    assert {k: round(v * 1e6, 3) for k, v in device.idle_by_cause.items()} == program.idle
    assert [(row.stage, round(row.seconds * 1e6, 3)) for row in session.ledger[:3]] == [
        ("encode_prompt", 126.0),  # four kernels of 30, six until the first
        ("denoise", 1638.0),
        ("vae_decode", 2407.0),
    ]
    assert session.notes == ()


def test_beginnings_and_ends_apart_are_ranges(tmp_path: Path) -> None:
    """As Chrome's own writers have them: ph B and E, of which E says only where it is."""
    halves: list[Event] = []
    for event in run().events:
        if event["cat"] != "user_annotation":
            halves.append(event)
            continue
        end = float(str(event["ts"])) + float(str(event["dur"]))
        halves.append({**{k: v for k, v in event.items() if k != "dur"}, "ph": "B"})
        halves.append({"ph": "E", "pid": event["pid"], "tid": event["tid"], "ts": end})
    session = trace(written(tmp_path / "halves.json", halves))
    whole = trace(run().write(tmp_path / "whole.json"))
    assert session.ledger == whole.ledger


def test_a_range_that_never_ended_does_not_take_anothers_end(tmp_path: Path) -> None:
    """Ends that have names are those of their events, whatever began in between."""
    halves: list[Event] = []
    for event in run().events:
        if event["cat"] != "user_annotation":
            halves.append(event)
            continue
        begin = float(str(event["ts"]))
        end = {**event, "ph": "E", "ts": begin + float(str(event["dur"]))}
        cut_off = {**event, "ph": "B", "name": "cut off", "ts": begin + 1.0}
        halves += [{**event, "ph": "B"}, cut_off, end]
    session = trace(written(tmp_path / "halves.json", halves))
    assert session.ledger == trace(run().write(tmp_path / "whole.json")).ledger


def test_correlation_ids_that_are_used_again(tmp_path: Path) -> None:
    """Two processes, or two recordings in one file, count their calls from one."""
    program = run()
    again = 10_000.0
    later = [{**event, "ts": float(str(event["ts"])) + again} for event in program.events]
    session = trace(written(tmp_path / "twice.json", [*program.events, *later]))
    once = trace(program.write(tmp_path / "once.json"))
    assert len(session.runs) == 2
    assert [(row.stage, pytest.approx(row.seconds)) for row in session.ledger] == [
        (row.stage, row.seconds) for row in once.ledger
    ]


def test_a_drivers_call_inside_of_the_runtimes_is_one_launch(tmp_path: Path) -> None:
    program = run()
    inner = [
        {**event, "cat": "cuda_driver", "name": "cuLaunchKernel", "dur": 1.0,
         "ts": float(str(event["ts"])) + at}
        for event in program.events
        if event["name"] == "cudaLaunchKernel"
        for at in (0.5, 2.0)
    ]  # fmt: skip
    session = trace(written(tmp_path / "driver.json", [*program.events, *inner]))
    assert session.device is not None
    assert session.device.idle_by_cause["other"] == pytest.approx(program.idle["other"] * 1e-6)


def test_faulty_times_are_said(tmp_path: Path) -> None:
    def edit(number: int, event: Event) -> None:
        if event["cat"] == "kernel" and number % 7 == 0:
            event["dur"] = -float(str(event["dur"]))
        if event["name"] == "cudaDeviceSynchronize":
            event["ts"] = 1e300

    events = edited(run(), edit)
    negative = sum(float(str(event["dur"])) < 0 for event in events)
    session = trace(written(tmp_path / "times.json", events))
    assert negative
    assert session.notes == (
        "1 events have no time that can be, and are left out",
        f"{negative} events have a negative duration, and count as moments",
    )


def test_kernels_without_a_duration_are_said(tmp_path: Path) -> None:
    def edit(_: int, event: Event) -> None:
        if event["cat"] == "kernel":
            del event["dur"]

    session = trace(written(tmp_path / "endless.json", edited(run(), edit)))
    kernels = sum(event["cat"] == "kernel" for event in run().events)
    assert session.notes == (f"{kernels} events have no duration, and count as moments",)


def test_operations_that_no_call_launched_are_a_doubt(tmp_path: Path) -> None:
    """Without the ids their stages and causes are those of the clock alone."""

    def edit(_: int, event: Event) -> None:
        arguments = event["args"]
        assert isinstance(arguments, dict)
        arguments.pop("correlation", None)

    doubts = trace(written(tmp_path / "alone.json", edited(run(), edit))).doubts
    operations = sum(event["cat"] in ("kernel", "gpu_memcpy") for event in run().events)
    assert any(f"{operations} of {operations} device operations do not say" in d for d in doubts)
    assert not any("do not say" in d for d in trace(run().write(tmp_path / "t.json")).doubts)


def test_a_gzip_file_of_many_members_is_read_whole(tmp_path: Path) -> None:
    """As parallel compressors and appending writers leave it, with padding at its end."""
    text = run().text().encode()
    third = len(text) // 3
    parts = (text[:third], text[third : 2 * third], text[2 * third :])
    path = tmp_path / "many.json.gz"
    path.write_bytes(b"".join(map(gzip.compress, parts)) + b"\0" * 512)
    session = trace(path)
    assert session.ledger == trace(run().write(tmp_path / "one.json")).ledger
    assert session.notes == ()


@pytest.mark.parametrize("end", [",\n ]\n}", "\n ],\n}", ',\n ],\n "traceName": "x",\n}'])
def test_a_mark_of_byte_order_and_a_last_comma_cost_nothing(tmp_path: Path, end: str) -> None:
    text = run().text()
    assert text.endswith("\n ]\n}")
    (tmp_path / "odd.json").write_bytes(b"\xef\xbb\xbf" + text.replace("\n ]\n}", end).encode())
    odd, plain = (trace(path) for path in (tmp_path / "odd.json", run().write(tmp_path / "p.json")))
    assert odd.ledger == plain.ledger
    assert odd.environment.device_name == "Synthetic"
    assert odd.notes == ()


def packed(name: str) -> bytes:
    text = run().text().encode()
    if name == "t.tar.gz":
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w:gz") as archive:
            header = tarfile.TarInfo("rank0.json")
            header.size = len(text)
            archive.addfile(header, io.BytesIO(text))
        return file.getvalue()
    return {
        "t.json.bz2": bz2.compress(text),
        "t.json.xz": lzma.compress(text),
        "t.json.zst": b"\x28\xb5\x2f\xfd" + text[:100],
        "t.json.gz": gzip.compress(gzip.compress(text)),
        "t.json": text.decode().encode("utf-16"),
    }[name]


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("t.json.bz2", "bunzip2 t.json.bz2"),
        ("t.json.xz", "unxz t.json.xz"),
        ("t.json.zst", "unzstd t.json.zst"),
        ("t.json.gz", "gunzip"),
        ("t.tar.gz", "tar archive"),
        ("t.json", "UTF-16"),
    ],
)
def test_what_is_packed_otherwise_is_named_with_the_way_out(
    tmp_path: Path, name: str, way: str
) -> None:
    (tmp_path / name).write_bytes(packed(name))
    with pytest.raises(BadFile, match=way):
        trace(tmp_path / name)


def test_ranks_that_are_written_as_text_are_ranks(tmp_path: Path) -> None:
    paths = []
    for rank, waited in (("0", 500.0), ("1", 0.0)):
        program = run()
        program.launch("ncclDevKernel_AllReduce_Sum_f16_RING_LL", 100.0 + waited)
        head = {"distributedInfo": {"rank": rank, "world_size": "2"}}
        paths.append(written(tmp_path / f"{rank}.json", program.events, **head))
    _, reading = explain_files(paths)
    assert [(row.rank, row.waited_seconds) for row in reading.session.ranks] == [
        (0, pytest.approx(500e-6)),
        (1, 0.0),
    ]


def test_frames_of_windows_are_read(tmp_path: Path) -> None:
    def backslashes(_: int, event: Event) -> None:
        event["name"] = str(event["name"]).replace("/", "\\")

    program = framed(Synthetic(), walk=500.0)
    session = trace(written(tmp_path / "w.json", edited(program, backslashes)))
    plain = trace(program.write(tmp_path / "p.json"))
    assert session.pipeline == "pipeline_flux"
    assert session.ledger == plain.ledger
    assert [gap.seconds for gap in session.host_gaps] == [gap.seconds for gap in plain.host_gaps]
    assert session.host_gaps[0].frame == r"diffusers\models\cache_utils.py(154): cache_context"


@pytest.mark.parametrize(
    ("frame", "module"),
    [
        ("vllm/distributed/pipeline_parallel.py(99): __call__", "LlamaForCausalLM_0"),
        ("megatron/core/pipeline_parallel.py(9): forward", "T5EncoderModel_0"),
        ("train.py(10): step", "UNet_0"),  # of segmentation
        ("train.py(10): step", "Autoencoder_0"),
        ("sglang/scheduling_policy.py(31): step_batch", "Qwen3ForCausalLM_0"),
    ],
)
def test_no_stage_is_named_for_networks_that_only_sound_like_diffusion(
    tmp_path: Path, frame: str, module: str
) -> None:
    program = Synthetic()
    for _ in range(6):
        with program.frame(frame), program.frame(f"nn.Module: {module}"):
            for kernel in range(8):
                program.launch(f"gemm_{kernel}", 50.0)
        program.copy_to_host(4)
    session = trace(program.write(tmp_path / "other.json"))
    assert {row.stage for row in session.ledger} == {"steps (a guess)", "unexplained"}


def test_a_path_with_signs_of_a_url_is_read(tmp_path: Path) -> None:
    path = run().write_nsight(tmp_path / "run #1 at 100%?.sqlite")
    assert trace(path).device is not None


def test_an_epoch_in_nanoseconds_loses_nothing(tmp_path: Path) -> None:
    """`displayTimeUnit` says how a viewer prints times, not in what unit they are."""
    program = run()

    def moved(_: int, event: Event) -> None:
        event["ts"] = float(str(event["ts"])) - EPOCH

    for unit in ("ns", "ms"):
        path = written(tmp_path / f"{unit}.json", edited(program, moved), displayTimeUnit=unit)
        device = trace(path).device
        assert device is not None
        assert device.busy_seconds == pytest.approx(program.busy * 1e-6)


@pytest.mark.parametrize("field", ["cat", "ph"])
@pytest.mark.parametrize("damaged", [False, True])
def test_words_that_no_profiler_wrote_before(tmp_path: Path, field: str, damaged: bool) -> None:
    program = diffusion(Synthetic(), steps=40, kernels=60)
    truth = trace(written(tmp_path / "usual.json", edited(program, lambda number, event: None)))
    events = edited(program, lambda number, event: None)
    events.insert(len(events) // 2, {**events[0], field: "of tomorrow"})
    path = written(tmp_path / "unusual.json", events)
    if damaged:
        path.write_text(path.read_text().replace('"dur": 4.0', '"dur": NaN', 1))
    session = trace(path)
    assert session.device == truth.device
    assert bool(session.notes) == damaged


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_letters_of_two_bytes_are_named_with_a_mark_or_without(
    tmp_path: Path, encoding: str
) -> None:
    (tmp_path / "t.json").write_bytes(run().text().encode(encoding))
    with pytest.raises(BadFile, match="is text in UTF-16"):
        trace(tmp_path / "t.json")


def test_an_empty_file_is_called_empty(tmp_path: Path) -> None:
    (tmp_path / "t.json").touch()
    with pytest.raises(BadFile, match="is empty"):
        trace(tmp_path / "t.json")


@pytest.mark.parametrize("form", ["array", "mark"])
def test_odd_forms_can_be_annotated_too(tmp_path: Path, form: str) -> None:
    text = json.dumps(run().events) if form == "array" else "\ufeff" + run().text()
    path, out = tmp_path / "t.json", tmp_path / "annotated.json"
    path.write_text(text)
    annotate(path, explain(path), out)
    events = json.loads(out.read_text())["traceEvents"]
    assert len(events) > len(run().events)
