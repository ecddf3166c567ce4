"""What `doctor` saw: what is installed, what can be used, and what would be faster."""

from __future__ import annotations

from typing import Literal

from halftime.records.base import Record
from halftime.records.environment import Environment


class Device(Record, frozen=True, kw_only=True):
    """A device that torch can compute on; its hardware computes in `fast_dtypes` directly."""

    name: str  # 'cpu', 'cuda:0'
    description: str
    capability: str = ""  # instruction sets, or CUDA's compute capability
    fast_dtypes: tuple[str, ...] = ()
    memory_bytes: int | None = None
    free_bytes: int | None = None


class Extra(Record, frozen=True, kw_only=True):
    """An extra of the package; `missing` says, for each requirement, why it cannot be used."""

    name: str
    usable: bool
    purpose: str = ""
    missing: tuple[str, ...] = ()
    install: str


class TestedVersion(Record, frozen=True, kw_only=True):
    """A package that is installed here, and whether `make matrix` ran with this very version."""

    package: str
    version: str
    tested: bool
    says: str  # 'tested', or the nearest versions that were


class Advice(Record, frozen=True, kw_only=True):
    """Something that would be faster or would work, why, and the command."""

    id: str
    why: str
    command: str


# Schema history
# 1  2026-11  first; since then with `tested`
class Doctor(Record, frozen=True, kw_only=True):
    """`healthy` where everything that `pip install halftime` needs is there and torch computes."""

    schema: Literal[1] = 1
    halftime: str
    created: str
    healthy: bool
    problems: tuple[str, ...] = ()  # what keeps it from being healthy
    environment: Environment | None = None  # None where torch does not import
    torch_build: str = ""  # 'CPU only', 'CUDA 12.8', 'ROCm 6.4'
    compiler: str | None = None  # the C++ compiler that torch.compile would use on a CPU
    free_bytes: int = 0  # main memory that can be had now
    devices: tuple[Device, ...] = ()
    extras: tuple[Extra, ...] = ()
    tested: tuple[TestedVersion, ...] = ()
    advice: tuple[Advice, ...] = ()
