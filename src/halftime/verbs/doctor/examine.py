"""`halftime doctor`: what is installed, which extras and devices can be used, and what would be
faster."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from typing import NamedTuple

import psutil
from packaging.requirements import Requirement

from halftime.base.extras import install
from halftime.base.version import version
from halftime.pipeline.device import devices, this_environment, torch_build
from halftime.records import Environment
from halftime.records.doctor import Advice, Device, Doctor, Extra

GIB = 1024**3
LEAST_FREE = 4 * GIB  # an SDXL in bf16 needs more than this
# What an extra is for; one that is not named here is still checked.
PURPOSES = {
    "serve": "halftime serve",
    "gateway": "halftime gateway",
    "captions": "halftime captions",
    "verify": "FLIP where it has no wheel: Linux on Arm",
    "judge": "LPIPS, for halftime verify --lpips-weights",
    "openvino": (
        "the fix openvino: fastest on Intel and AMD processors where measured (docs/fix.md)"
    ),
    "onnx": "the fix onnxruntime",
    "torchao": "the fix int8-dynamic by torchao",
    "ray": "halftime serve --ray",
    "docs": "make docs",
    "test": "make test",
}


def examine() -> Doctor:
    """Look at this machine and this environment. Imports torch and the extras' packages, which
    takes seconds."""
    problems = list(base_problems())
    place, devices, build = _torch_side(problems)
    extras = tuple(extra(name) for name in extra_names())
    seen = _Seen(place, devices, build, _compiler(), psutil.virtual_memory().available, extras)
    return Doctor(
        halftime=version(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        healthy=not problems,
        problems=tuple(problems),
        environment=place,
        torch_build=build,
        compiler=seen.compiler,
        free_bytes=seen.free_bytes,
        devices=devices,
        extras=extras,
        advice=tuple(advice(seen)),
    )


def _torch_side(problems: list[str]) -> tuple[Environment | None, tuple[Device, ...], str]:
    """What only torch can say; a torch that does not import is a problem to report, not to fail
    with."""
    try:
        found = devices()
        return this_environment(found[-1].name), found, torch_build()
    except Exception as error:  # a broken wheel raises anything: OSError, ImportError, RuntimeError
        problems.append(f"torch does not work: {type(error).__name__}: {error}")
        return None, (), ""


def base_problems() -> Iterator[str]:
    """One sentence for each package that halftime itself needs and that is missing or too old."""
    for requirement in _requirements():
        if requirement.marker is None or requirement.marker.evaluate():
            lack = _lack(requirement)
            if lack:
                yield lack


def extra_names() -> list[str]:
    """The extras that the installed package declares."""
    return sorted(metadata.metadata("halftime").get_all("Provides-Extra") or [])


def extra(name: str) -> Extra:
    """Whether an extra can be used: every requirement installed, new enough, and importable."""
    missing = tuple(
        lack for requirement in _of_extra(name) if (lack := _lack(requirement, try_import=True))
    )
    return Extra(
        name=name,
        usable=not missing,
        purpose=PURPOSES.get(name, ""),
        missing=missing,
        install=install(name),
    )


def _requirements() -> list[Requirement]:
    return [Requirement(text) for text in metadata.requires("halftime") or []]


def _of_extra(name: str) -> Iterator[Requirement]:
    for requirement in _requirements():
        if requirement.marker is not None and requirement.marker.evaluate({"extra": name}):
            if requirement.name == "halftime":  # an extra that stands for others
                for other in requirement.extras:
                    yield from _of_extra(other)
            else:
                yield requirement


def _lack(requirement: Requirement, *, try_import: bool = False) -> str:
    """What is wrong with a requirement, or ''."""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{requirement.name} {version} is installed, {requirement.specifier} is needed"
    return _import_error(requirement.name) if try_import else ""


def _import_error(distribution: str) -> str:
    module = module_of(distribution)
    try:
        if module:
            import_module(module)
    except Exception as error:  # a package for another torch raises anything
        return (
            f"{distribution} is installed and does not import: {type(error).__name__}: "
            f"{str(error)[:200]}"
        )
    return ""


def module_of(distribution: str) -> str | None:
    """The module to import for a distribution: its own name, else the first that it brings; None
    for tools."""
    plain = re.sub(r"[-.]+", "_", distribution).lower()
    brings = [
        name
        for name, owners in _owners().items()
        if any(re.sub(r"[-.]+", "_", owner).lower() == plain for owner in owners)
    ]
    same = [name for name in brings if name.lower() == plain]
    public = sorted(name for name in brings if not name.startswith("_"))
    return next(iter(same or public), None)


@cache
def _owners() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()  # reads every installed package: a second


def _compiler() -> str | None:
    wanted = os.environ.get("CXX")
    return next(
        (path for name in (wanted, "g++", "clang++") if name and (path := shutil.which(name))), None
    )


class _Seen(NamedTuple):
    place: Environment | None
    devices: tuple[Device, ...]
    build: str
    compiler: str | None
    free_bytes: int
    extras: tuple[Extra, ...]

    @property
    def on_cpu(self) -> bool:
        return not any(device.name.startswith("cuda") for device in self.devices)

    @property
    def busy(self) -> bool:
        """Other work keeps half of the cores or more."""
        return self.place is not None and (self.place.load_average or 0.0) > 0.5 * self.place.cores

    def setting(self, name: str) -> str:
        return self.place.settings.get(name, "") if self.place else ""

    def lacks(self, name: str) -> bool:
        return any(extra.name == name and not extra.usable for extra in self.extras)


def advice(seen: _Seen) -> Iterator[Advice]:
    """What would be faster here, or would work at all, the weightiest first."""
    for rule in RULES:
        yield from rule(seen)


def _gpu_unused(seen: _Seen) -> Iterator[Advice]:
    if seen.on_cpu and (Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi")):
        yield Advice(
            id="gpu-unused",
            why="this machine has an NVIDIA GPU, and torch cannot use it (its build: "
            f"{seen.build or 'broken'})",
            command="pip install --force-reinstall torch",
        )


def _blocking_settings(seen: _Seen) -> Iterator[Advice]:
    for name, why in (
        ("CUDA_LAUNCH_BLOCKING", "every kernel launch waits for the device"),
        (
            "TORCH_COMPILE_DISABLE",
            "torch.compile does nothing, so the fixes that compile bring nothing",
        ),
    ):
        if seen.setting(name) not in ("", "0"):
            yield Advice(
                id="blocking-setting", why=f"{name} is set: {why}", command=f"unset {name}"
            )


def _openmp(seen: _Seen) -> Iterator[Advice]:
    if seen.place is None or not seen.on_cpu:
        return
    passive = seen.setting("OMP_WAIT_POLICY").upper() == "PASSIVE"
    if seen.busy and not passive:
        yield Advice(
            id="openmp-spins",
            why="other work is running and idle OpenMP threads spin: beside it a call was 2 to 30 "
            "times slower where "
            "measured (fewer threads than cores, by OMP_NUM_THREADS, help more)",
            command="export OMP_WAIT_POLICY=PASSIVE",
        )
    if not seen.busy and passive and seen.place.threads > 1:
        yield Advice(
            id="openmp-sleeps",
            why="OpenMP threads sleep while they wait: on a quiet machine waking them made a call "
            "of small operations "
            "2.2 times slower where measured; unset it only where nothing else will run",
            command="unset OMP_WAIT_POLICY",
        )
    if seen.place.threads < seen.place.cores:
        yield Advice(
            id="threads",
            why=f"torch uses {seen.place.threads} of {seen.place.cores} cores",
            command=f"export OMP_NUM_THREADS={seen.place.cores}",
        )


def _bfloat16(seen: _Seen) -> Iterator[Advice]:
    if seen.devices and "bfloat16" in seen.devices[-1].fast_dtypes:
        name = seen.devices[-1].name
        yield Advice(
            id="bfloat16",
            why=f"{name} computes in bfloat16 by itself; pixel art and hard edges may still need "
            "fp32, so verify after",
            command=f"halftime profile --dtype bfloat16 --device {name}",
        )


def _openvino(seen: _Seen) -> Iterator[Advice]:
    if seen.on_cpu and seen.lacks("openvino"):
        yield Advice(
            id="openvino",
            why="on a processor OpenVINO was the fastest way to run denoiser and VAE where "
            "measured (docs/fix.md)",
            command=install("openvino"),
        )


def _no_compiler(seen: _Seen) -> Iterator[Advice]:
    if seen.on_cpu and seen.compiler is None:
        yield Advice(
            id="no-compiler",
            why="torch.compile needs a C++ compiler on a processor: denoiser-compile and "
            "vae-compile cannot work",
            command="apt-get install g++",
        )


def _busy(seen: _Seen) -> Iterator[Advice]:
    if seen.place and seen.busy:
        yield Advice(
            id="busy",
            why=f"other work is running (load average {seen.place.load_average or 0.0:.1f} on "
            f"{seen.place.cores} "
            "cores): timings taken now are shaky",
            command="uptime",
        )


def _little_memory(seen: _Seen) -> Iterator[Advice]:
    if seen.free_bytes < LEAST_FREE:
        yield Advice(
            id="little-memory",
            why=f"only {seen.free_bytes / GIB:.1f} GiB of memory can be had; a large pipeline "
            "will not load",
            command="ps aux --sort=-rss",
        )


RULES: tuple[Callable[[_Seen], Iterator[Advice]], ...] = (
    _gpu_unused,
    _blocking_settings,
    _openmp,
    _bfloat16,
    _openvino,
    _no_compiler,
    _busy,
    _little_memory,
)
