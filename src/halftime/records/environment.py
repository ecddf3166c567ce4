"""Where a measurement was made."""

from __future__ import annotations

from halftime.records.base import Record

NOT_RECORDED = "not recorded in the trace"


class Environment(Record, frozen=True, kw_only=True):
    """The machine and the software under a measurement; comparable where `identity()` is equal."""

    system: str  # e.g. 'Linux-6.1-x86_64'
    processor: str
    cores: int
    memory_bytes: int
    threads: int  # torch's intra-op threads
    device: str  # 'cpu', 'cuda:0', …
    device_name: str
    device_memory_bytes: int | None = None
    versions: dict[str, str] = {}  # python, torch, diffusers, transformers, halftime, cuda, cudnn
    settings: dict[str, str] = {}  # environment variables and torch flags that change speed
    # runnable processes over the last minute, before the measurement
    load_average: float | None = None

    def place(self) -> str:
        """The device as a user names it, and a GPU by its name: 'cuda:0 (NVIDIA H200)'."""
        if self.device == "cpu" or self.device_name in ("", NOT_RECORDED):
            return self.device
        return f"{self.device} ({self.device_name})"

    def identity(self) -> dict[str, str]:
        """What must agree before two sessions may be compared: field -> value."""
        return {
            "processor": self.processor,
            "cores": str(self.cores),
            "threads": str(self.threads),
            "device": self.device,
            "device_name": self.device_name,
            **{
                f"versions.{name}": value
                for name, value in sorted(self.versions.items())
                if name != "halftime"
            },
            **{
                f"settings.{name}": value
                for name, value in sorted(self.settings.items())
                if "set by halftime" not in value  # it depends on what else ran
            },
        }
