"""What a side's process is, as text that can be compared: versions, settings, the pipeline."""

from __future__ import annotations

from collections import Counter
from importlib import metadata
from typing import TYPE_CHECKING

from halftime.base.environment import PACKAGES
from halftime.pipeline.components import modules_of
from halftime.pipeline.device import device_of, this_environment
from halftime.upstream import pytorch

if TYPE_CHECKING:
    from halftime.pipeline.load import LoadedPipeline


def facts_of(loaded: LoadedPipeline) -> dict[str, str]:
    """Name -> value; equal values mean that nothing differs there."""
    pipeline = loaded.pipeline
    facts = {"pipeline": type(pipeline).__name__}
    scheduler = getattr(pipeline, "scheduler", None)
    if scheduler is not None:
        facts["scheduler"] = type(scheduler).__name__
        facts |= {
            f"scheduler.{name}": str(value)
            for name, value in sorted(dict(scheduler.config).items())
            if not name.startswith("_")
        }
    for name, module in modules_of(pipeline).items():
        facts[f"{name}.class"] = type(module).__name__
        facts[f"{name}.dtype"] = ", ".join(
            sorted({str(p.dtype).removeprefix("torch.") for p in module.parameters()})
        )
        facts[f"{name}.parameters"] = f"{sum(p.numel() for p in module.parameters()):,}"
        facts[f"{name}.compiled"] = str(pytorch.is_compiled(module))
        processors = getattr(module, "attn_processors", None)
        if isinstance(processors, dict):
            kinds = Counter(type(value).__name__ for value in processors.values())
            facts[f"{name}.attention"] = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
    environment = this_environment(str(device_of(pipeline)))
    return facts | environment.identity() | _packages()


def _packages() -> dict[str, str]:
    """Every other package that is installed; of one that is there twice, the first is imported."""
    rows = [
        (f"packages.{distribution.metadata['Name']}", distribution.version)
        for distribution in metadata.distributions()
    ]
    names = {f"packages.{name}" for name in (*PACKAGES, "halftime")}
    return {name: text for name, text in reversed(rows) if name not in names}
