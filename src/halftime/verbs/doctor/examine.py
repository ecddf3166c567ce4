"""`halftime doctor`: what is installed, which extras and devices can be used, what is faster."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import psutil
from packaging.requirements import Requirement

from halftime.base.environment import versions
from halftime.base.extras import import_quietly, install
from halftime.base.progress import Progress, silent
from halftime.base.version import version
from halftime.pipeline.device import devices, this_environment, torch_build
from halftime.records import Environment
from halftime.records.doctor import Advice, Device, Doctor, Extra
from halftime.verbs.doctor.tested import beside_tested

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
    "lora": "pipelines with LoRA files",
    "onnx": "the fix onnxruntime",
    "torchao": "the fixes denoiser-quantize and text-quantize",
    "ray": "halftime serve --ray",
    "docs": "make docs",
    "test": "make test",
}


def examine(progress: Progress = silent) -> Doctor:
    """Look at this machine and this environment. Imports torch and the extras' packages, which
    takes seconds."""
    names = extra_names()
    progress("importing torch", 0, 1)
    problems = list(base_problems())
    environment, devices, build = _what_torch_says(problems)
    extras = []
    for number, name in enumerate(names):
        progress(f"trying the extra {name}", number, len(names))
        extras.append(extra(name))
    facts = MachineFacts(
        environment=environment,
        devices=devices,
        torch_build=build,
        compiler=_compiler(),
        free_bytes=psutil.virtual_memory().available,
        extras=tuple(extras),
    )
    return Doctor(
        halftime=version(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        healthy=not problems,
        problems=tuple(problems),
        environment=environment,
        torch_build=build,
        compiler=facts.compiler,
        free_bytes=facts.free_bytes,
        devices=devices,
        extras=facts.extras,
        tested=tuple(beside_tested(versions())),
        advice=tuple(advice(facts)),
    )


def _what_torch_says(problems: list[str]) -> tuple[Environment | None, tuple[Device, ...], str]:
    """Environment, devices and build; a torch that does not import is added to the problems."""
    try:
        usable = devices()
        return this_environment(usable[-1].name), usable, torch_build()
    except Exception as error:  # a broken wheel raises anything: OSError, ImportError, RuntimeError
        problems.append(f"torch does not work: {type(error).__name__}: {error}")
        return None, (), ""


def base_problems() -> Iterator[str]:
    """One sentence for each package that halftime itself needs and that is missing or too old."""
    for requirement in _requirements():
        if requirement.marker is None or requirement.marker.evaluate():
            problem = _problem(requirement)
            if problem:
                yield problem


def extra_names() -> list[str]:
    """The extras that the installed package declares."""
    return sorted(metadata.metadata("halftime").get_all("Provides-Extra") or [])


def extra(name: str) -> Extra:
    """Whether an extra can be used: every requirement installed, new enough, and importable."""
    problems = (_problem(requirement, try_import=True) for requirement in _of_extra(name))
    missing = tuple(problem for problem in problems if problem)
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
            if requirement.name == "halftime":  # an extra that includes others
                for included in requirement.extras:
                    yield from _of_extra(included)
            else:
                yield requirement


def _problem(requirement: Requirement, *, try_import: bool = False) -> str:
    """What is wrong with a requirement, or ''."""
    try:
        installed = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed"
    if not requirement.specifier.contains(installed, prereleases=True):
        return f"{requirement.name} {installed} is installed, {requirement.specifier} is needed"
    return _import_error(requirement.name) if try_import else ""


def _import_error(distribution: str) -> str:
    module = module_of(distribution)
    try:
        if module:
            import_quietly(module)
    except Exception as error:  # a package for another torch raises anything
        return (
            f"{distribution} is installed and does not import: {type(error).__name__}: "
            f"{str(error)[:200]}"
        )
    return ""


def module_of(distribution: str) -> str | None:
    """The module to import for a distribution: of the same name, else the first public one; None
    for tools."""
    plain = re.sub(r"[-.]+", "_", distribution).lower()
    modules = [
        module
        for module, owners in _owners().items()
        if any(re.sub(r"[-.]+", "_", owner).lower() == plain for owner in owners)
    ]
    namesakes = [module for module in modules if module.lower() == plain]
    public = sorted(module for module in modules if not module.startswith("_"))
    return next(iter(namesakes or public), None)


@cache
def _owners() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()  # reads every installed package: a second


def _compiler() -> str | None:
    for name in (os.environ.get("CXX"), "g++", "clang++"):
        path = shutil.which(name) if name else None
        if path:
            return path
    return None


class MachineFacts(NamedTuple):
    """What the rules look at."""

    environment: Environment | None  # None where torch does not import
    devices: tuple[Device, ...]
    torch_build: str
    compiler: str | None
    free_bytes: int
    extras: tuple[Extra, ...]

    @property
    def on_cpu(self) -> bool:
        """Whether torch has no GPU here."""
        return not any(device.name.startswith("cuda") for device in self.devices)

    @property
    def busy(self) -> bool:
        """Whether other work keeps more than half of the cores."""
        if self.environment is None:
            return False
        return (self.environment.load_average or 0.0) > 0.5 * self.environment.cores

    def setting(self, name: str) -> str:
        """An environment variable that is known to change speed, or ''."""
        return self.environment.settings.get(name, "") if self.environment else ""

    def lacks(self, name: str) -> bool:
        """Whether this extra cannot be used."""
        return any(extra.name == name and not extra.usable for extra in self.extras)


def advice(facts: MachineFacts) -> Iterator[Advice]:
    """What would be faster here, or would work at all, the weightiest first."""
    for rule in RULES:
        yield from rule(facts)


def _gpu_unused(facts: MachineFacts) -> Iterator[Advice]:
    if facts.on_cpu and (Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi")):
        yield Advice(
            id="gpu-unused",
            why="this machine has an NVIDIA GPU, and torch cannot use it (its build: "
            f"{facts.torch_build or 'broken'})",
            command="pip install --force-reinstall torch",
        )


def _blocking_settings(facts: MachineFacts) -> Iterator[Advice]:
    for name, why in (
        ("CUDA_LAUNCH_BLOCKING", "every kernel launch waits for the device"),
        (
            "TORCH_COMPILE_DISABLE",
            "torch.compile does nothing, so the fixes that compile save nothing",
        ),
    ):
        if facts.setting(name) not in ("", "0"):
            yield Advice(
                id="blocking-setting", why=f"{name} is set: {why}", command=f"unset {name}"
            )


def _openmp(facts: MachineFacts) -> Iterator[Advice]:
    environment = facts.environment
    if environment is None or not facts.on_cpu:
        return
    passive = facts.setting("OMP_WAIT_POLICY").upper() == "PASSIVE"
    if facts.busy and not passive:
        yield Advice(
            id="openmp-spins",
            why="other work is running, and idle OpenMP threads spin: that made a call 2 to 30 "
            "times slower where measured (fewer threads than cores, by OMP_NUM_THREADS, help more)",
            command="export OMP_WAIT_POLICY=PASSIVE",
        )
    if not facts.busy and passive and environment.threads > 1:
        yield Advice(
            id="openmp-sleeps",
            why="OpenMP threads sleep while they wait: on a quiet machine waking them made a call "
            "of small operations 2.2 times slower where measured; unset it only where nothing "
            "else will run",
            command="unset OMP_WAIT_POLICY",
        )
    if environment.threads < environment.cores:
        yield Advice(
            id="threads",
            why=f"torch uses {environment.threads} of {environment.cores} cores",
            command=f"export OMP_NUM_THREADS={environment.cores}",
        )


def _half_precision(facts: MachineFacts) -> Iterator[Advice]:
    """The 16-bit dtype in which the last device is fast."""
    if not facts.devices:
        return
    device = facts.devices[-1]
    if "bfloat16" in device.fast_dtypes:
        yield Advice(
            id="bfloat16",
            why=f"{device.name} computes in bfloat16 natively; pixel art and hard edges may still "
            "need fp32, so verify after",
            command=f"halftime profile --dtype bfloat16 --device {device.name}",
        )
    elif "float16" in device.fast_dtypes:
        yield Advice(
            id="float16",
            why=f"{device.name} is fast in float16 and not in bfloat16; a VAE that overflows in "
            "float16 (SDXL's own) gives black pictures, so verify after",
            command=f"halftime profile --dtype float16 --device {device.name}",
        )


def _openvino(facts: MachineFacts) -> Iterator[Advice]:
    if facts.on_cpu and facts.lacks("openvino"):
        yield Advice(
            id="openvino",
            why="on a processor OpenVINO was the fastest way to run denoiser and VAE where "
            "measured (docs/fix.md)",
            command=install("openvino"),
        )


def _no_compiler(facts: MachineFacts) -> Iterator[Advice]:
    if facts.on_cpu and facts.compiler is None:
        yield Advice(
            id="no-compiler",
            why="torch.compile needs a C++ compiler on a processor: denoiser-compile and "
            "vae-compile cannot work",
            command="apt-get install g++",
        )


def _busy(facts: MachineFacts) -> Iterator[Advice]:
    if facts.environment and facts.busy:
        yield Advice(
            id="busy",
            why="other work is running (load average "
            f"{facts.environment.load_average or 0.0:.1f} on {facts.environment.cores} cores): "
            "timings taken now are shaky",
            command="uptime",
        )


def _little_memory(facts: MachineFacts) -> Iterator[Advice]:
    if facts.free_bytes < LEAST_FREE:
        yield Advice(
            id="little-memory",
            why=f"only {facts.free_bytes / GIB:.1f} GiB of memory is available; a large pipeline "
            "will not load",
            command="ps aux --sort=-rss",
        )


RULES: tuple[Callable[[MachineFacts], Iterator[Advice]], ...] = (
    _gpu_unused,
    _blocking_settings,
    _openmp,
    _half_precision,
    _openvino,
    _no_compiler,
    _busy,
    _little_memory,
)
