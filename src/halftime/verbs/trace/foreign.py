"""Recordings that are not torch.profiler traces, by their first bytes, with the way out."""

from __future__ import annotations

import zipfile
from pathlib import Path

from halftime.base.errors import BadFile

SQLITE = b"SQLite format 3\x00"
# first bytes -> what packed the file, and how to unpack it
_PACKED = (
    (b"BZh", "bzip2", "bunzip2"),
    (b"\xfd7zXZ\x00", "xz", "unxz"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
    (b"\x04\x22\x4d\x18", "lz4", "unlz4"),
    (b"7z\xbc\xaf", "7-Zip", "7z x"),
)
# text of two bytes a letter, with a mark of their order or without
_WIDE = (b"\xff\xfe", b"\xfe\xff", b"{\x00", b"\x00{", b"[\x00", b"\x00[")
_ROCPROF = (b'"rocprofiler-sdk-tool"', b'"rocprofiler-sdk-json-tool"')


def refuse_foreign(path: Path | str, data: bytes) -> None:
    """Raises BadFile for a known other format, naming it and how to get a trace from it."""
    advice = _advice(Path(path), data)
    if advice:
        raise BadFile(f"{path} {advice}")


def _advice(path: Path, data: bytes) -> str | None:
    name, start = path.name.lower(), data[:4096]
    if name.endswith((".nsys-rep", ".qdrep")):
        return (
            "is an Nsight Systems report. Export it with `nsys export --type sqlite "
            f"{path.name}` and trace the .sqlite file."
        )
    if name.endswith((".ncu-rep", ".ncu-repz")):
        return (
            "is a Nsight Compute report, of single kernels. Record the call with torch.profiler "
            "or Nsight Systems."
        )
    if start[:4] == b"PK\x03\x04":
        inside = _zip_names(path)
        return (
            f"is a .zip file{f' with {inside[0]} in it' if inside else ''}. Unpack it and trace "
            "the .json file."
        )
    packed = next(((tool, way) for mark, tool, way in _PACKED if start.startswith(mark)), None)
    if packed is not None:
        return f"is packed by {packed[0]}. Unpack it with `{packed[1]} {path.name}`, or use gzip."
    if start[257:262] == b"ustar":
        return "is a tar archive. Unpack it, and trace the .json files in it together."
    if start.startswith(_WIDE):
        return "is text in UTF-16. Save it as UTF-8, as JSON is, or copy the file without a shell."
    if name.endswith((".pftrace", ".perfetto-trace")) or (start[:1] == b"\n" and b"\x00" in start):
        return (
            "is a Perfetto trace in protobuf, as rocprofv3 and Android write it. Convert it with "
            f"`traceconv json {path.name} trace.json`, or record with torch.profiler."
        )
    if any(mark in start for mark in _ROCPROF):
        return (
            "is rocprofv3's own JSON. Write `--output-format pftrace` and convert it with "
            "`traceconv json`, or record with torch.profiler."
        )
    if start[:2] == b"\x80\x04" or b"device_traces" in start:
        return (
            "is a memory snapshot of torch.cuda.memory, without times of kernels. Look at it at "
            "pytorch.org/memory_viz, and record a trace with torch.profiler."
        )
    if start.startswith(b"{") and b'"nodes"' in start and b'"pytorch_version"' in start:
        return "is a .pt execution trace without times. Record with export_chrome_trace()."
    return None


def _zip_names(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return [name for name in archive.namelist() if ".json" in name][:1]
    except (OSError, zipfile.BadZipFile):
        return []
