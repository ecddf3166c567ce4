"""halftime's recipes against other ways to speed up a diffusers pipeline on a CPU, interleaved.

Regime: the bundled model, 128 px, 30 Euler steps, guidance 2.5, one picture, another prompt and
seed on every round (no prompt cache), progress bars as each stack has them. Every stack has
its own process, in the environment that it needs (benchmarks/fix/environments), with the same
weights, threads and generator seeds; all are warmed up by three calls, then they take turns: two
calls each a round, of which the second counts (the others have emptied the caches before the
first). Ratios are medians of paired ratios with 95 % intervals. The pictures of each stack are
compared with diffusers' default on the same prompts and seeds (rmse in grey levels, 8 bits).
Ceiling: the convolutions and linear layers alone, 1.37 GFLOP an evaluation, in bf16 at the core's
own peak.

    OMP_WAIT_POLICY=PASSIVE python -m benchmarks.fix.peers --out benchmarks/results/fix_peers.json
    python -m benchmarks.fix.peers --threads 2 --out benchmarks/results/fix_peers_2_threads.json

`--environments` (~/peers) holds one virtual environment a requirements file: optimum, onnx, pruna.
One that is missing, or whose stack fails, is reported with the reason. On a shared machine the
commands in the variables BEFORE_RACE and AFTER_RACE can keep others quiet while the calls are
timed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from benchmarks.frame import Frame
from halftime import bundled
from halftime.base.stats import median, paired_ratio

HERE = Path(__file__).parent
BASELINE = "diffusers default (fp32)"
# Name, worker's stack, environment (None: this one), further arguments.
STACKS: tuple[tuple[str, str, str | None, tuple[str, ...]], ...] = (
    (BASELINE, "diffusers_default", None, ()),
    ("torch bf16, channels_last", "torch_bf16", None, ()),
    ("torch.compile as in diffusers' guide (bf16, frozen)", "torch_compile", None, ()),
    ("Pruna 0.3.4 torch_compile (bf16, frozen)", "pruna", "pruna", ()),
    ("ONNX Runtime fp32 (optimum-onnx)", "optimum_onnx", "onnx", ()),
    ("OpenVINO (optimum-intel), dynamic shapes", "optimum_openvino_dynamic", "optimum", ()),
    ("OpenVINO (optimum-intel), static reshape()", "optimum_openvino", "optimum", ()),
    *(
        (name, "halftime_recipe", None, ("--recipe", str(HERE / "plans" / plan)))
        for name, plan in (
            ("halftime, equivalent fixes only", "equivalent.toml"),
            ("halftime, the same and 20 steps of DPM++ 2M Karras", "fewer-steps.toml"),
            ("halftime, the same and 12 steps of DPM++ 2M Karras", "approximate.toml"),
        )
    ),
)


@dataclass
class Worker:
    """A stack's process. `failed` says why it is not in the run."""

    name: str
    process: subprocess.Popen[str] | None
    log: Path
    failed: str = ""
    ready: dict[str, object] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)  # rmse against the baseline, grey levels

    def answer(self, timeout: float) -> dict[str, object]:
        """The next line; marks the worker as failed where none comes in time."""
        assert self.process is not None
        assert self.process.stdout is not None
        timer = threading.Timer(timeout, self.process.kill)
        timer.start()
        line = self.process.stdout.readline()
        timer.cancel()
        if not line:
            lines = [
                text for text in self.log.read_text(errors="replace").splitlines() if text.strip()
            ]
            self.failed = lines[-1][:300] if lines else f"no answer within {timeout:g} s"
            return {}
        return dict(json.loads(line))

    def call(self, request: dict[str, object]) -> float:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return float(self.answer(120.0).get("seconds", float("nan")))  # type: ignore[arg-type]

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()


def start(
    name: str, stack: str, environment: str | None, extra: tuple[str, ...], model: Path, options
) -> Worker:
    log = model.parent / f"{abs(hash(name))}.log"
    python = (
        Path(sys.executable)
        if environment is None
        else options.environments / environment / "bin" / "python"
    )
    if not python.exists():
        return Worker(
            name, None, log, f"no environment {environment}: see benchmarks/fix/environments"
        )
    settings = f"--steps {options.steps} --guidance {bundled.GUIDANCE} --threads {options.threads}"
    worker = [str(HERE / "peer_worker.py"), stack, "--model", str(model)]
    command = [str(python), *worker, *settings.split(), *extra]
    variables = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    with log.open("w") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=variables,
        )
    return Worker(name, process, log)


def model_for_all(folder: Path) -> Path:
    """The bundled model as older transformers want it, too: the vocabulary in files, the first
    encoder's older names.

    Without the names they would initialise that encoder at random, with no more than a warning.
    """
    model = Path(shutil.copytree(bundled.MODEL, folder / "model"))
    for tokenizer in ("tokenizer", "tokenizer_2"):
        bpe = json.loads((model / tokenizer / "tokenizer.json").read_text())["model"]
        (model / tokenizer / "vocab.json").write_text(json.dumps(bpe["vocab"]))
        merges = "\n".join(" ".join(pair) for pair in bpe["merges"])
        (model / tokenizer / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    weights = model / "text_encoder" / "model.safetensors"
    tensors = load_file(weights)
    save_file(
        {f"text_model.{k.removeprefix('text_model.')}": v for k, v in tensors.items()},
        weights,
        {"format": "pt"},
    )
    return model


def race(workers: list[Worker], rounds: int, folder: Path) -> None:
    """Rounds of one call each, the order turning; pictures are compared with the baseline's of the
    same round."""
    prompts = bundled.prompts()
    for k in range(rounds):
        for worker in workers[k % len(workers) :] + workers[: k % len(workers)]:
            path = folder / f"{workers.index(worker)}.npy"
            request = {"prompt": prompts[k].text, "seed": k, "picture": str(path)}
            worker.call(request)
            worker.seconds.append(worker.call(request))
        pictures = [np.load(folder / f"{i}.npy") for i in range(len(workers))]
        for worker, picture in zip(workers, pictures, strict=True):
            worker.errors.append(float(255 * np.sqrt(np.mean((picture - pictures[0]) ** 2))))


def row_of(worker: Worker, baseline: Worker, best_peer: Worker | None) -> dict[str, object]:
    if worker.failed:
        return {"stack": worker.name, "failed": worker.failed}
    ratio = paired_ratio(baseline.seconds, worker.seconds)
    row = {
        "stack": worker.name,
        "seconds": median(worker.seconds),
        "speedup": ratio.value,
        "low": ratio.low,
        "high": ratio.high,
        "rmse": median(worker.errors),
        "ready_seconds": worker.ready["ready"],
        "versions": worker.ready["versions"],
        "all_seconds": worker.seconds,
    }
    if best_peer is not None and worker.name.startswith("halftime"):
        against = paired_ratio(best_peer.seconds, worker.seconds)
        row |= {
            "against_best_peer": against.value,
            "against_low": against.low,
            "against_high": against.high,
            "best_peer": best_peer.name,
        }
    return row


def main() -> None:
    frame = Frame(__file__, __doc__)
    add = frame.parser.add_argument
    add("--environments", type=Path, default=Path("~/peers").expanduser())
    add("--steps", type=int, default=30)
    add("--rounds", type=int, default=15)
    add("--threads", type=int, default=1)
    add("--skip", action="append", default=[], help="leave out stacks whose name holds this")
    options = frame.parse()
    workers: list[Worker] = []
    with tempfile.TemporaryDirectory(prefix="halftime-peers-") as name:
        folder = Path(name)
        try:
            start_all(workers, model_for_all(folder), options)
            running = [worker for worker in workers if not worker.failed]
            subprocess.run(os.environ.get("BEFORE_RACE", "true"), shell=True, check=True)
            race(running, options.rounds, folder)
            subprocess.run(os.environ.get("AFTER_RACE", "true"), shell=True, check=True)
        finally:
            for worker in workers:
                worker.close()
    rows = rows_of(workers)
    for row in rows:
        print(sentence(row))
    frame.write(
        {
            "model": "bundled emoji-xl",
            "steps": options.steps,
            "guidance": bundled.GUIDANCE,
            "threads": options.threads,
            "rounds": options.rounds,
            "rows": rows,
        }
    )


def start_all(workers: list[Worker], model: Path, options) -> None:
    """One after another: conversions and compilations take all cores. `workers` grows, so that the
    caller can end those that run when one fails."""
    for stack in STACKS:
        if any(word in stack[0] for word in options.skip):
            continue
        worker = start(*stack, model, options)
        workers.append(worker)
        if not worker.failed:
            worker.ready = worker.answer(900.0)
        state = worker.failed or f"ready after {worker.ready.get('ready', '')}"
        print(f"{worker.name}: {state}", flush=True)


def rows_of(workers: list[Worker]) -> list[dict]:
    baseline = workers[0]
    peers = [
        worker
        for worker in workers[1:]
        if not worker.failed and not worker.name.startswith("halftime")
    ]
    best_peer = max(
        peers, key=lambda peer: paired_ratio(baseline.seconds, peer.seconds).value, default=None
    )
    return [row_of(worker, baseline, best_peer) for worker in workers]


def sentence(row: dict) -> str:
    if "failed" in row:
        return f"{row['stack']:52s} failed: {row['failed']}"
    text = (
        f"{row['stack']:52s} {1e3 * row['seconds']:6.0f} ms  {row['speedup']:.2f}x "
        f"({row['low']:.2f} to {row['high']:.2f})  rmse {row['rmse']:.2f}"
    )
    if "best_peer" in row:
        text += (
            f"\n    against {row['best_peer']}: {row['against_best_peer']:.2f}x "
            f"({row['against_low']:.2f} to {row['against_high']:.2f})"
        )
    return text


if __name__ == "__main__":
    main()
