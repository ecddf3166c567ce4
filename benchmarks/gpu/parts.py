"""One part of the evidence from a GPU, in a process of its own.

Regime: `benchmarks.gpu.evidence` starts it; see there. Every part writes its record again after
each row, so that what was measured is kept wherever it ends. Ceiling: of a ladder, the forecast's
hard floor; of the overhead, a plain call; of the rules, torch's own answer.

    python -m benchmarks.gpu.parts PART --folder out/gpu [--rehearse] [--seconds 60]
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch
from diffusers import AutoencoderTiny

from benchmarks.frame import Frame
from benchmarks.gpu.models import MODELS, REHEARSES, GpuModel, rehearses
from benchmarks.serve.process import serving
from benchmarks.tables import ROOT
from halftime.base.errors import first_line
from halftime.base.stats import median
from halftime.base.store import read_json, write_json
from halftime.fix.apply import applied
from halftime.pipeline.arguments import call_arguments
from halftime.pipeline.device import default_device, device_of, this_environment
from halftime.records import Session, Workload
from halftime.records.benchmark import Benchmark
from halftime.records.forecast import Forecast
from halftime.records.recipe import Choice
from halftime.verbs.audit.cases import CASES
from halftime.verbs.audit.check import check_rules, shadow_answer
from halftime.verbs.audit.run import audit
from halftime.verbs.forecast.run import forecast
from halftime.verbs.profile.call import quiet_progress_bars, timed_call
from halftime.verbs.profile.clock import HostClock, clock_for
from halftime.verbs.profile.run import profile
from halftime.verbs.tune.run import tune

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

REHEARSED_CARD = "H200"  # whose forecast is written down where there is no card


@dataclass
class Evidence:
    """What a part writes: rows, one after another."""

    frame: Frame
    folder: Path
    seconds: float
    rows: list[dict[str, object]] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)

    def row(self, what: str, **values: object) -> None:
        self.rows.append({"what": what, **values})
        self.frame.write({"rehearsal": rehearses(), "rows": self.rows})

    def attempt(self, what: str, measure: Callable[[], dict[str, object]]) -> None:
        """A row, or why there is none; what comes after it is measured all the same."""
        try:
            self.row(what, **measure())
        except Exception as error:
            self.row(what, failed=f"{type(error).__name__}: {first_line(error)[:200]}")
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()

    @property
    def left(self) -> float:
        """Seconds until the part's share of the time is over."""
        return self.seconds - (time.monotonic() - self.begun)


def fitting(name: str) -> str | None:
    """Why a model cannot be built here, or None."""
    if rehearses() or not torch.cuda.is_available():
        return None
    free, _ = torch.cuda.mem_get_info()
    needed = MODELS[name].weights_bytes * 1.3
    return None if free > needed else f"{needed / 1e9:.0f} GB are needed, {free / 1e9:.0f} are free"


def card() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else REHEARSED_CARD


# ---- 1: the rules against torch's own sync mode, and the tests that need a device


def rules(evidence: Evidence) -> None:
    """Every rule of `audit` beside torch.cuda.set_sync_debug_mode, and the tests marked gpu."""
    answer = None if torch.cuda.is_available() else shadow_answer
    check = check_rules(answer)
    right = sum(case.rule == case.device for case in check.cases)
    evidence.row(
        "audit --check-rules",
        cases=len(check.cases),
        agree=right,
        differ=", ".join(case.name for case in check.cases if case.rule != case.device) or None,
        asked="torch" if answer is None else "the shadow itself (rehearsal)",
    )
    evidence.row("rules that torch does not warn of", cases=sum(not c.watched for c in CASES))
    evidence.attempt("tests marked gpu", _gpu_tests)


def _gpu_tests() -> dict[str, object]:
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if _needs_gpu(path)]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-n0", *map(str, files)]
    # in a rehearsal they are collected: they ask for CUDA itself
    command += ["--collect-only"] * rehearses() + ["-p", "no:cacheprovider"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = ended.stdout.strip().splitlines()
    return {"files": len(files), "status": ended.returncode, "summary": lines[-1] if lines else ""}


def _needs_gpu(path: Path) -> bool:
    return "@pytest.mark.gpu" in path.read_text(encoding="utf-8")


# ---- 2: the founding story


VAE = (
    Choice(name="vae-dtype"),
    Choice(name="vae-channels-last"),
    Choice(name="vae-compile", settings={"mode": "reduce-overhead"}),
)
WARM = (Choice(name="text-warmup"),)
TABLE = (Choice(name="schedule-table"),)
GRAPH = (Choice(name="loop-graph"),)
STEPS_24 = (Choice(name="solver-steps", settings={"steps": 24}),)
TINY_VAE = (Choice(name="tiny-vae"),)  # `story` says which one
BLOCKS = ("encoder_block_out_channels", "decoder_block_out_channels")
# what -> fixes; the first is the pipeline as it is: VAE in fp32, eager, text encoders cold
LADDER: dict[str, tuple[Choice, ...]] = {
    "before": (),
    "VAE: bf16, channels_last, compiled": VAE,
    "warm-up": WARM,
    "schedule table": TABLE,
    "loop graph": GRAPH,
    "24 steps of DPM++ 2M Karras": STEPS_24,
    "tiny VAE": TINY_VAE,
    "stacked: VAE and warm-up": (*VAE, *WARM),
    "stacked: and schedule table": (*VAE, *WARM, *TABLE),
    "stacked: and loop graph": (*VAE, *WARM, *GRAPH),
    "stacked: and 24 steps": (*VAE, *WARM, *STEPS_24, *GRAPH),
}
TOO_LONG_HERE = ("vae-compile", "denoiser-compile")  # they compile for minutes on the CPU
COMPILED = (*TOO_LONG_HERE, "loop-graph")


def story(evidence: Evidence) -> None:
    """SDXL before and after: each move alone, then stacked, with latents compared and waits
    counted."""
    model = MODELS["sdxl"]
    pipeline, workload = model.build(), model.workload()
    quiet_progress_bars(pipeline)
    source = str(evidence.folder / "tiny_vae")
    tiny_vae_for(pipeline).save_pretrained(source)
    tiny = (Choice(name="tiny-vae", settings={"source": source}),)
    ladder(evidence, pipeline, workload, LADDER | {"tiny VAE": tiny}, "sdxl")


def tiny_vae_for(pipeline: DiffusionPipeline) -> AutoencoderTiny:
    """One of TAESD's geometry, untrained: its time is right, its pictures are not."""
    blocks = {}
    if rehearses():
        blocks = dict.fromkeys(BLOCKS, (8, 8, 8, 8))
    return AutoencoderTiny(latent_channels=pipeline.vae.config.latent_channels, **blocks)


def ladder(
    evidence: Evidence,
    pipeline: DiffusionPipeline,
    workload: Workload,
    rungs: dict[str, tuple[Choice, ...]],
    name: str,
) -> None:
    """A row for each set of fixes, against the first."""
    first: dict[str, object] = {}
    reference: list[torch.Tensor] = []

    def rung(what: str, fixes: tuple[Choice, ...]) -> dict[str, object]:
        if rehearses() and any(choice.name in COMPILED for choice in fixes):
            # what only a device can show; here the fixes are put on and taken off
            fixes = tuple(map(_uncompiled, (c for c in fixes if c.name not in TOO_LONG_HERE)))
        _forget_peak()
        # unproved: the probe of a promise judges pictures, and these are of random weights
        with applied(pipeline, list(fixes), probe=False):
            session = _profiled(pipeline, workload, name, probes=_on_cuda() or not fixes)
            latents = _latents(pipeline, workload, name)
        if not reference:
            reference.append(latents)
            first["wall"] = session.wall_seconds
            write_json(evidence.folder / f"session_{name}.json", session)
        difference = _difference(latents, reference[0])
        return {
            "fixes": ", ".join(choice.name for choice in fixes),
            "wall_seconds": session.wall_seconds,
            "speedup": float(str(first["wall"])) / session.wall_seconds,
            "first_call_seconds": session.first_call_seconds,
            **{f"{row.stage}_seconds": row.seconds for row in session.ledger},
            "latents_difference": difference,
            "waits": sum(wait.count for wait in session.syncs) if session.syncs else None,
            "memory_bytes": _memory(),
        }

    for what, fixes in rungs.items():
        if evidence.left <= 0:
            evidence.row(what, failed="the time was up")
            continue
        evidence.attempt(what, lambda what=what, fixes=fixes: rung(what, fixes))


def _uncompiled(choice: Choice) -> Choice:
    is_loop = choice.name == "loop-graph"
    return Choice(name="loop-graph", settings={"backend": "eager"}) if is_loop else choice


def _runs() -> int:
    return 1 if rehearses() else 3


def _profiled(
    pipeline: DiffusionPipeline, workload: Workload, name: str, *, probes: bool
) -> Session:
    further = MODELS[name].further()
    return profile(pipeline, workload, runs=_runs(), warmup=1, probes=probes, **further)


def _latents(pipeline: DiffusionPipeline, workload: Workload, name: str) -> torch.Tensor:
    further = MODELS[name].further() | {"output_type": "latent"}
    arguments = call_arguments(pipeline, workload) | further
    output = pipeline(**arguments)
    return torch.as_tensor(output[0]).float().cpu()


def _difference(latents: torch.Tensor, reference: torch.Tensor) -> float | None:
    if latents.shape != reference.shape:
        return None
    return float((latents - reference).norm() / reference.norm())


def _on_cuda() -> bool:
    """Where each rung's waits are counted too."""
    return torch.cuda.is_available()


def _forget_peak() -> None:
    """So that a rung's peak is its own."""
    if _on_cuda():
        torch.cuda.reset_peak_memory_stats()


def _memory() -> int | None:
    return torch.cuda.max_memory_allocated() if _on_cuda() else None


# ---- 3: the forecast, written down before anything is measured


def predicted(evidence: Evidence) -> None:
    """What `forecast` says of this card, before the first measurement; `evidence` scores it."""
    for model in MODELS.values():
        if model.preset is None:
            continue

        def write(model=model) -> dict[str, object]:  # type: ignore[no-untyped-def]
            settings = model.forecast_settings()
            result = forecast(model.preset, card(), settings=settings, calibration=None)
            write_json(evidence.folder / f"forecast_{model.name}.json", result)
            return {
                "gpu": result.gpu,
                "forecast_seconds": result.total.seconds,
                "low_seconds": result.total.low,
                "high_seconds": result.total.high,
                "floor_seconds": result.total.floor_seconds,
                "memory_bytes": result.memory_bytes,
                "fits": result.fits,
            }

        evidence.attempt(model.name, write)


def scores(folder: Path) -> Iterator[dict[str, object]]:
    """Each forecast beside what was measured afterwards, stage by stage."""
    for model in MODELS.values():
        paths = [folder / f"{kind}_{model.name}.json" for kind in ("forecast", "session")]
        if not all(path.exists() for path in paths):
            continue
        expected, session = read_json(paths[0], Forecast), read_json(paths[1], Session)
        for stage in (*expected.stages, expected.total):
            row = session.row(stage.stage)
            seconds = row.seconds if row else session.wall_seconds
            if row is None and stage is not expected.total:
                continue
            yield {
                "what": f"{model.name}: {stage.stage}",
                "forecast_seconds": stage.seconds,
                "measured_seconds": seconds,
                "measured_by_forecast_ratio": seconds / stage.seconds,
                "in_band": stage.low <= seconds <= stage.high,
                "above_floor": seconds >= stage.floor_seconds,
            }


def what_if_scores(folder: Path) -> Iterator[dict[str, object]]:
    """Each fix's predicted speedup beside that of the rung that had it alone."""
    for name, expected, rungs in _rungs_with_forecast(folder):
        fixes = {fix.fix: fix for fix in expected.fixes}
        for rung in rungs:
            fix, speedup = fixes.get(str(rung.get("fixes"))), rung.get("speedup")
            if fix is None or not isinstance(speedup, float):
                continue
            yield {
                "what": f"{name}: {fix.fix}",
                "forecast_speedup": fix.ratio,
                "low_ratio": fix.low,
                "high_ratio": fix.high,
                "measured_speedup": speedup,
                "measured_by_forecast_ratio": speedup / fix.ratio,
                "in_band": fix.low <= speedup <= fix.high,
            }


def memory_scores(folder: Path) -> Iterator[dict[str, object]]:
    """The predicted peak beside that of the pipeline as it is."""
    for name, expected, rungs in _rungs_with_forecast(folder):
        peak = rungs[0].get("memory_bytes") if rungs else None
        if isinstance(peak, int):
            yield {
                "what": name,
                "forecast_bytes": expected.memory_bytes,
                "measured_bytes": peak,
                "measured_by_forecast_ratio": peak / expected.memory_bytes,
                "fits_as_forecast": expected.fits,
            }


def _rungs_with_forecast(
    folder: Path,
) -> Iterator[tuple[str, Forecast, list[dict[str, object]]]]:
    """Of each model that was forecast, the rows of its ladder, the first as it is."""
    for model in MODELS.values():
        paths = [folder / f"{kind}.json" for kind in (f"forecast_{model.name}", _part_of(model))]
        if all(path.exists() for path in paths):
            rows = read_json(paths[1], Benchmark).result["rows"]
            assert isinstance(rows, list)
            yield model.name, read_json(paths[0], Forecast), rows


def _part_of(model: GpuModel) -> str:
    return "story" if model.name == "sdxl" else model.name


# ---- 4: what profiling costs and whether it adds up


def overhead(evidence: Evidence) -> None:
    """A call by `profile` and by torch.profiler against a plain one; the ledger's sum, events
    against the host's clock, NVTX ranges."""
    model = MODELS["sdxl"]
    pipeline, workload = model.build(), model.workload()
    quiet_progress_bars(pipeline)
    arguments = call_arguments(pipeline, workload)
    device = device_of(pipeline)
    pipeline(**arguments)
    rounds = 1 if rehearses() else 7
    plain = [_plain(pipeline, arguments) for _ in range(rounds)]
    evidence.row("plain call", wall_seconds=median(plain))

    def by_profile() -> dict[str, object]:
        walls, clocks = [], []
        for _ in range(rounds):
            call = timed_call(pipeline, workload, clock_for(device))
            walls.append(call.run.wall_seconds)
            clocks.append(sum(call.costs.values()) / call.run.wall_seconds)
        return {
            "wall_seconds": median(walls),
            "to_plain_ratio": median(walls) / median(plain),
            "ledger_of_wall_share": median(clocks),
        }

    def by_torch() -> dict[str, object]:
        activities = [torch.profiler.ProfilerActivity.CPU]
        if device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        walls = []
        for _ in range(rounds):
            with torch.profiler.profile(activities=activities):
                walls.append(_plain(pipeline, arguments))
        return {"wall_seconds": median(walls), "to_plain_ratio": median(walls) / median(plain)}

    def against_host() -> dict[str, object]:
        events = timed_call(pipeline, workload, clock_for(device)).run.wall_seconds
        host = timed_call(pipeline, workload, HostClock()).run.wall_seconds
        return {"wall_seconds": events, "host_only_wall_seconds": host}

    def ranges() -> dict[str, object]:
        if device.type != "cuda":
            return {"nvtx": "only on CUDA"}
        with torch.autograd.profiler.emit_nvtx():
            return {"wall_seconds": _plain(pipeline, arguments), "nvtx": "emitted"}

    evidence.attempt("halftime profile", by_profile)
    evidence.attempt("torch.profiler", by_torch)
    evidence.attempt("events against the host's clock", against_host)
    evidence.attempt("NVTX ranges", ranges)


def _plain(pipeline: DiffusionPipeline, arguments: dict[str, object]) -> float:
    clock = clock_for(device_of(pipeline))
    begin = clock.start()
    pipeline(**arguments)
    return clock.finish().host - begin.host


# ---- 5: tune


def tuning(evidence: Evidence) -> None:
    """`tune` without a target for three minutes: the fastest recipe whose pictures hold."""
    model = MODELS["sdxl"]
    budget = 60.0 if rehearses() else min(180.0, evidence.left)
    result = tune(model.build(), model.workload(), budget=budget, prompts=4)
    write_json(evidence.folder / "tune.json", result)
    evidence.row(
        "tune --best",
        speedup=result.speedup,
        low_ratio=result.speedup_low,
        high_ratio=result.speedup_high,
        verdict=result.verdict,
        fixes=", ".join(choice.name for choice in result.recipe.fixes) if result.recipe else "",
        spent_seconds=result.spent_seconds,
    )


# ---- 6: today's stack


COMPILE = Choice(name="denoiser-compile")
CACHE = Choice(name="step-cache")


def _backend(name: str) -> Choice:
    return Choice(name="attention-backend", settings={"backend": name})


STACK: dict[str, tuple[Choice, ...]] = {
    "before": (),
    **{f"attention: {name}": (_backend(name),) for name in ("flash", "cudnn", "efficient")},
    "step cache": (CACHE,),
    "regional compile": (COMPILE,),
    "cudnn and compile": (_backend("cudnn"), COMPILE),
    "compile and step cache": (COMPILE, CACHE),
    "VAE": VAE,
    "all of them": (_backend("cudnn"), COMPILE, CACHE, *VAE),
}


def stack(evidence: Evidence) -> None:
    """FLUX.1-dev with today's fixes, alone and together, and with its denoiser stored in fp8."""
    pipeline, workload = _built(evidence, "flux")
    if pipeline is None:
        return
    rungs = STACK
    if rehearses():
        rungs = {what: fixes for what, fixes in STACK.items() if COMPILE not in fixes}
    ladder(evidence, pipeline, workload, rungs, "flux")

    def fp8() -> dict[str, object]:
        pipeline.transformer.enable_layerwise_casting(
            storage_dtype=torch.float8_e4m3fn, compute_dtype=next(_floats(pipeline))
        )
        _forget_peak()
        session = profile(pipeline, workload, runs=_runs(), probes=False)
        return {"wall_seconds": session.wall_seconds, "memory_bytes": _memory()}

    evidence.attempt("fp8 storage (layerwise casting)", fp8)  # last: it is not undone


def _floats(pipeline: DiffusionPipeline) -> Iterator[torch.dtype]:
    return (weight.dtype for weight in pipeline.transformer.parameters())


def _built(evidence: Evidence, name: str) -> tuple[DiffusionPipeline | None, Workload]:
    why_not, workload = fitting(name), MODELS[name].workload()
    if why_not is not None:
        evidence.row(name, failed=why_not)
        return None, workload
    pipeline = MODELS[name].build()
    quiet_progress_bars(pipeline)
    return pipeline, workload


# ---- the other models, as they are


def one_model(name: str) -> Callable[[Evidence], None]:
    def part(evidence: Evidence) -> None:
        pipeline, workload = _built(evidence, name)
        if pipeline is not None:
            ladder(evidence, pipeline, workload, {"before": ()}, name)

    part.__doc__ = f"{name} as it is: the ledger, and a row for forecast calibrate."
    return part


# ---- 7: serve


def served(evidence: Evidence) -> None:
    """`serve` with the loop graph: ready, the first request, two minutes of requests, kill -9."""
    recipe = evidence.folder / "recipe.toml"
    recipe.write_text('schema = 1\n\n[[fixes]]\nname = "loop-graph"\n' + _eager(), "utf-8")
    model, workload = "benchmarks.gpu.models:sdxl", MODELS["sdxl"].workload()
    size = f"{workload.width}x{workload.height}"
    options = (model, "--recipe", str(recipe), "--sizes", size, "--steps", str(workload.steps))
    body = {"prompt": "a red apple", "size": size, "steps": workload.steps}
    with serving(*options) as server:
        evidence.row("from start to ready", wall_seconds=server.ready_seconds)
        evidence.row("first request", **_requested(server, body))
        seconds, until = [], time.monotonic() + (0.0 if rehearses() else 120.0)
        while not seconds or time.monotonic() < min(until, evidence.begun + evidence.seconds):
            seconds.append(float(str(_requested(server, body)["wall_seconds"])))
        evidence.row("requests in turn", pictures=len(seconds), wall_seconds=median(seconds))
        os.kill(server.worker(), signal.SIGKILL)
        begun = time.monotonic()
        while server.ready() and time.monotonic() - begun < 10.0:
            time.sleep(0.01)
        evidence.row("kill -9: until ready again", wall_seconds=server.wait_ready(600.0))
        evidence.row("first request after it", **_requested(server, body))


def _eager() -> str:
    return 'settings = { backend = "eager" }\n' if rehearses() else ""


def _requested(server: object, body: dict[str, object]) -> dict[str, object]:
    begun = time.monotonic()
    status, _ = server.post(body, timeout=600.0)  # type: ignore[attr-defined]
    return {"wall_seconds": time.monotonic() - begun, "status": status}


# ---- 8: memory


def memory(evidence: Evidence) -> None:
    """Memory over 200 calls with graphs on, of two step counts in turn."""
    model = MODELS["sdxl"]
    pipeline, workload = model.build(), model.workload()
    quiet_progress_bars(pipeline)
    calls = 4 if rehearses() else 200
    readings: list[int] = []
    arguments = call_arguments(pipeline, workload) | {"output_type": "latent"}
    fixes = [_uncompiled(GRAPH[0])] if rehearses() else list(GRAPH)
    with applied(pipeline, fixes, probe=False):
        for number in range(calls):
            if evidence.left <= 0:
                break
            steps = 2 + number % 2 * 2  # short: what is watched is the graphs
            pipeline(**arguments | {"num_inference_steps": steps})
            readings.append(_allocated())
    warm = readings[len(readings) // 4 :]
    evidence.row(
        "loop-graph, 2 and 4 steps in turn",
        calls=len(readings),
        after_warm_up_bytes=warm[0],
        at_the_end_bytes=warm[-1],
        growth_bytes=warm[-1] - warm[0],
    )


def _allocated() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.memory_allocated())
    return int(psutil.Process().memory_info().rss)


# ---- the waits of the pipeline, by audit, beside what the device showed


def waits(evidence: Evidence) -> None:
    """Waits in the loop as `audit` finds them without a device."""
    model = MODELS["sdxl"]
    os.environ[REHEARSES] = "1"  # the shadow device is on the CPU: tiny weights wait as often
    for what, fixes in {"before": (), "schedule table": TABLE}.items():
        pipeline = model.build()
        with applied(pipeline, list(fixes)):
            result = audit(pipeline, model.workload())
        evidence.row(what, waits_in_loop=result.in_loop_total, capturable=result.capturable)


# The parts in their order: the most valuable first, the forecast before anything is measured. The
# number is the share of the time that a part may take.
@dataclass(frozen=True)
class Part:
    """A part and its share of the whole time."""

    run: Callable[[Evidence], None]
    share: float


PARTS: dict[str, Part] = {
    "predicted": Part(predicted, 0.05),
    "story": Part(story, 0.3),
    "rules": Part(rules, 0.1),
    "overhead": Part(overhead, 0.1),
    "flux": Part(stack, 0.2),
    "serve": Part(served, 0.25),
    "memory": Part(memory, 0.15),
    "tune": Part(tuning, 0.35),
    "sd35": Part(one_model("sd35"), 0.15),
    "wan": Part(one_model("wan"), 0.15),
    "qwen": Part(one_model("qwen"), 0.15),
    "waits": Part(waits, 0.05),
}


@contextmanager
def ended_in_order() -> Iterator[None]:
    """SIGTERM ends as Ctrl-C does: what the part started goes with it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)


def measure(name: str, frame: Frame, folder: Path, seconds: float) -> None:
    """Run a part and leave its record."""
    PARTS[name].run(Evidence(frame, folder, seconds))


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parser.add_argument("part", choices=PARTS)
    frame.parser.add_argument("--folder", type=Path, default=Path("out/gpu"))
    frame.parser.add_argument("--seconds", type=float, default=60.0)
    frame.parser.add_argument("--rehearse", action="store_true")
    options = frame.parse()
    if options.rehearse:
        os.environ[REHEARSES] = "1"
    options.folder.mkdir(parents=True, exist_ok=True)
    frame.name, frame.out = f"gpu_{options.part}", options.folder / f"{options.part}.json"
    frame.question = (PARTS[options.part].run.__doc__ or "").strip().replace("\n    ", " ")
    frame.environment = this_environment(str(default_device()))
    with ended_in_order():
        measure(options.part, frame, options.folder, options.seconds)


if __name__ == "__main__":
    main()
