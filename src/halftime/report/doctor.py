"""What `doctor` saw, as a Report: devices, extras, and what would be faster."""

from __future__ import annotations

from collections.abc import Iterator

from halftime.base import units
from halftime.records import Environment
from halftime.records.doctor import Device, Doctor, Extra, TestedVersion
from halftime.report.model import (
    Bullets,
    Cell,
    Column,
    Entries,
    Entry,
    Report,
    Section,
    Table,
    Text,
    rows_of,
)

BROWSER = "No browser is needed: reports are plain files. Only the test suite drives Chromium."


def report_of(doctor: Doctor) -> Report:
    """The whole report; problems come first."""
    return Report(
        title=f"halftime {doctor.halftime}: {'ready' if doctor.healthy else 'not ready'}",
        summary=_summary(doctor),
        sections=tuple(_sections(doctor)),
    )


def _summary(doctor: Doctor) -> str:
    usable = [extra.name for extra in doctor.extras if extra.usable]
    places = ", ".join(device.name for device in doctor.devices) or "nothing"
    return (
        f"torch ({doctor.torch_build or 'broken'}) computes on {places}; extras in use: "
        f"{', '.join(usable) or 'none'}."
    )


def _sections(doctor: Doctor) -> Iterator[Section]:
    if doctor.problems:
        yield Section(
            "Problems", (Bullets(tuple(Text(problem, "bad") for problem in doctor.problems)),)
        )
    entries = tuple(Entry(advice.command, "", advice.why) for advice in doctor.advice)
    yield Section(
        "What would be faster",
        (Entries(entries) if entries else Text("Nothing to mend was seen.", "good"),),
    )
    if doctor.devices:
        yield Section("Devices", (_devices(doctor.devices),))
    if doctor.environment:
        yield Section("Software and settings", (_software(doctor, doctor.environment),))
    if doctor.tested:
        yield Section("Versions beside those that were tested", (_tested(doctor.tested),))
    yield Section("Extras", (_extras(doctor.extras), Text(BROWSER)))


def _devices(devices: tuple[Device, ...]) -> Table:
    columns = (
        Column("device"),
        Column("what"),
        Column("fast in"),
        Column("memory", "bytes"),
        Column("free", "bytes"),
        Column("capability", wide=True),
    )
    cells = [
        (
            d.name,
            d.description,
            ", ".join(d.fast_dtypes),
            d.memory_bytes,
            d.free_bytes,
            d.capability,
        )
        for d in devices
    ]
    return Table(columns, rows_of(*cells))


def _software(doctor: Doctor, environment: Environment) -> Table:
    settings = {
        name: value
        for name, value in environment.settings.items()
        if name != "float32_matmul_precision"
    }
    rows: list[tuple[Cell, ...]] = [
        (
            "versions",
            ", ".join(f"{name} {version}" for name, version in environment.versions.items()),
        ),
        (
            "torch",
            f"{doctor.torch_build}, {environment.threads} threads on {environment.cores} cores",
        ),
        (
            "OpenMP wait policy",
            environment.settings.get("OMP_WAIT_POLICY", "not set: idle threads spin"),
        ),
        ("settings", ", ".join(f"{name}={value}" for name, value in settings.items()) or "none"),
        ("C++ compiler", doctor.compiler or "none, so no torch.compile on the processor"),
        ("free memory", units.size(doctor.free_bytes)),
        (
            "load average",
            f"{environment.load_average:.1f}"
            if environment.load_average is not None
            else units.NOTHING,
        ),
    ]
    return Table((Column(""), Column("")), tuple(rows))


def _tested(versions: tuple[TestedVersion, ...]) -> Table:
    rows = [(row.package, row.version, row.says) for row in versions]
    return Table((Column("package"), Column("here"), Column("")), rows_of(*rows))


def _extras(extras: tuple[Extra, ...]) -> Table:
    rows = [
        (e.name, "yes" if e.usable else f"no: {'; '.join(e.missing)}", e.purpose, e.install)
        for e in extras
    ]
    return Table(
        (Column("extra"), Column("usable"), Column("for"), Column("install", wide=True)),
        rows_of(*rows),
    )
