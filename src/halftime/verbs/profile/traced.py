"""A separate, traced run: the stages as ranges of torch.profiler, and on CUDA of NVTX too."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.profiler import ProfilerActivity, profile

from halftime.base.errors import BadFile
from halftime.pipeline.device import device_of
from halftime.records import Workload
from halftime.records.stages import Place
from halftime.verbs.profile.call import observed_call
from halftime.verbs.profile.clock import HostClock
from halftime.verbs.profile.recorder import Recorder

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

PREFIX = "halftime/"


def range_name(home: Place, name: str, step: int) -> str:
    """'halftime/encode_prompt' for a stage; 'halftime/denoise/denoiser#3' for a part in step 3."""
    if not home.part:
        return f"{PREFIX}{home.stage}"
    return f"{PREFIX}{home.stage}/{home.part}" + (f"#{step}" if home.stage == "denoise" else "")


def ranges(nvtx: bool = False) -> Callable[[Place, str, int], Callable[[], None]]:
    """What a Recorder calls to open a range around a span; it gets back what closes the range."""

    def annotate(home: Place, name: str, step: int) -> Callable[[], None]:
        label = range_name(home, name, step)
        record = torch.profiler.record_function(label)
        record.__enter__()
        if nvtx:
            torch.cuda.nvtx.range_push(label)

        def close() -> None:
            if nvtx:
                torch.cuda.nvtx.range_pop()
            record.__exit__(None, None, None)

        return close

    return annotate


def trace_call(pipeline: DiffusionPipeline, workload: Workload, folder: Path) -> Path:
    """Trace one call into `folder`/halftime.trace.json.gz and return that path. Raises BadFile."""
    on_cuda = device_of(pipeline).type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    target = folder / "halftime.trace.json.gz"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadFile(
            f"cannot make the folder {folder} for the trace: {error.strerror}."
        ) from error
    with profile(activities=activities, record_shapes=False, with_stack=True) as profiler:
        observed_call(pipeline, workload, Recorder(HostClock(), annotate=ranges(nvtx=on_cuda)))
    plain, part = folder / ".halftime.trace.json", folder / ".halftime.trace.json.gz.part"
    try:
        profiler.export_chrome_trace(str(plain))
        with plain.open("rb") as source, gzip.open(part, "wb", compresslevel=5) as packed:
            shutil.copyfileobj(source, packed)
        part.replace(target)
    except OSError as error:
        raise BadFile(f"cannot write the trace {target}: {error.strerror or error}.") from error
    finally:
        plain.unlink(missing_ok=True)
        part.unlink(missing_ok=True)
    return target
