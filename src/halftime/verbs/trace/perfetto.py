"""A trace annotated with stages, idle gaps and findings, to open in Perfetto."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import msgspec

from halftime.base.errors import BadFile
from halftime.base.store import read_bytes, write_bytes
from halftime.verbs.trace.device import CAUSES
from halftime.verbs.trace.nsight import is_export
from halftime.verbs.trace.run import TraceReading
from halftime.verbs.trace.text import MARK

PROCESS = "halftime"
_TRACKS = ("stages", "device idle, by cause", "findings")


def annotate(path: Path | str, reading: TraceReading, out: Path | str) -> None:
    """Write the original trace with three more tracks to `out`, gzipped if that ends in .gz.

    Raises BadFile.
    """
    if is_export(path):
        raise BadFile(
            f"{path} is an export of Nsight Systems; only a Chrome trace can be annotated."
        )
    data = read_bytes(path)
    try:
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        data = data.removeprefix(MARK)
        original = msgspec.json.decode(data, type=dict[str, msgspec.Raw] | list[msgspec.Raw])
        if isinstance(original, list):  # the array form of the format
            original = {"traceEvents": msgspec.Raw(data)}
        events = msgspec.json.decode(original["traceEvents"], type=list[msgspec.Raw])
    except (EOFError, OSError, zlib.error, msgspec.DecodeError, KeyError, ValueError) as error:
        raise BadFile(
            f"{path} is damaged ({error}); only a whole trace can be annotated. Export it again."
        ) from error
    original["traceEvents"] = msgspec.Raw(msgspec.json.encode([*events, *_added(reading)]))
    text = msgspec.json.encode(original)
    write_bytes(out, gzip.compress(text, 5) if str(out).endswith(".gz") else text)


def _added(reading: TraceReading) -> list[dict[str, object]]:
    def event(
        name: str, track: int, start: int, end: int, args: dict[str, object]
    ) -> dict[str, object]:
        return {
            "ph": "X",
            "cat": PROCESS,
            "name": name,
            "pid": PROCESS,
            "tid": _TRACKS[track],
            "ts": reading.trace.origin + start / 1000,
            "dur": (end - start) / 1000,
            "args": args,
        }

    added = [event(stage, 0, start, end, {}) for stage, start, end in reading.intervals]
    for at, begin in enumerate(reading.gaps.start.tolist()):
        moment = begin
        for cause in CAUSES:
            length = int(reading.gaps.cause(cause)[at])
            if length:
                added.append(event(cause, 1, moment, moment + length, {}))
                moment += length
    intervals = {stage: (start, end) for stage, start, end in reversed(reading.intervals)}
    bounds = reading.calls[0].start, reading.calls[-1].end
    for finding in reading.session.findings:
        start, end = intervals.get(finding.stage, bounds)
        added.append(
            event(finding.id, 2, start, end, {"message": finding.message, "fix": finding.fix})
        )
    return added
