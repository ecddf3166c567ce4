"""Peers in processes and environments of their own, which take turns: what `benchmarks.fix.peers`,
`benchmarks.tune.fastest` and `benchmarks.tune.true_size` share. The process is
`benchmarks/contestant.py`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import load_file, save_file

from halftime import bundled
from halftime.base.stats import Interval, median, paired_ratio
from halftime.base.store import write_toml
from halftime.records.recipe import Choice, Plan

HERE = Path(__file__).parent


class Stack(NamedTuple):
    """Who takes part: `stack` is a name of contestant.py's."""

    name: str
    stack: str
    environment: str | None = None  # a folder of --environments; None: this one
    arguments: tuple[str, ...] = ()


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

    @property
    def is_ours(self) -> bool:
        return self.name.startswith("halftime")

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
        return float(self.answer(300.0).get("seconds", float("nan")))  # type: ignore[arg-type]

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()


def recipe_stacks(recipes: Mapping[str, tuple[Choice, ...]], folder: Path) -> list[Stack]:
    """halftime's own, each with its recipe in a file."""
    stacks = []
    for number, (name, fixes) in enumerate(recipes.items()):
        file = folder / f"recipe_{number}.toml"
        write_toml(file, Plan(fixes=fixes))
        stacks.append(Stack(name, "halftime_recipe", None, ("--recipe", str(file))))
    return stacks


def add_options(parser: argparse.ArgumentParser, rounds: int, threads: int = 1) -> None:
    """What every such benchmark can be asked for."""
    add = parser.add_argument
    add("--environments", type=Path, default=Path("~/peers").expanduser())
    add("--rounds", type=int, default=rounds)
    add("--threads", type=int, default=threads)
    add("--skip", action="append", default=[], help="leave out stacks whose name holds this")


def start(
    stack: Stack, arguments: Sequence[str], folder: Path, options: argparse.Namespace
) -> Worker:
    """Its process; `arguments` are those of all stacks."""
    log = folder / f"{abs(hash(stack.name))}.log"
    variables = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    python = Path(sys.executable)
    if stack.environment is not None:
        python = options.environments / stack.environment / "bin" / "python"
        variables.pop("PYTHONPATH", None)  # it names packages for this environment
    if not python.exists():
        missing = f"no environment {stack.environment}: see benchmarks/fix/environments"
        return Worker(stack.name, None, log, missing)
    common = [stack.stack, "--threads", str(options.threads), *arguments]
    with log.open("w") as errors:
        process = subprocess.Popen(
            [str(python), str(HERE / "contestant.py"), *common, *stack.arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=variables,
        )
    return Worker(stack.name, process, log)


@contextmanager
def started(
    stacks: Sequence[Stack], arguments: Sequence[str], folder: Path, options: argparse.Namespace
) -> Iterator[list[Worker]]:
    """One after another, since conversions and compilations take all cores; all are ended at the
    end of the block. One that cannot be started says so in `failed`."""
    workers: list[Worker] = []
    try:
        for stack in stacks:
            if any(word in stack.name for word in options.skip):
                continue
            worker = start(stack, arguments, folder, options)
            workers.append(worker)
            if not worker.failed:
                worker.ready = worker.answer(900.0)
            state = worker.failed or f"ready after {worker.ready.get('ready', 0):.0f} s"
            print(f"{worker.name}: {state}", flush=True)
        yield workers
    finally:
        for worker in workers:
            worker.close()


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
    older_names(model / "text_encoder" / "model.safetensors")
    return model


def older_names(weights: Path) -> None:
    """Give a text encoder's file the names that all versions of transformers know."""
    tensors = load_file(weights)
    save_file(
        {f"text_model.{k.removeprefix('text_model.')}": v for k, v in tensors.items()},
        weights,
        {"format": "pt"},
    )


def race(workers: Sequence[Worker], prompts: Sequence[str], folder: Path, calls: int = 2) -> None:
    """A round a prompt, the order turning, in which each calls twice (`calls`) and the last counts:
    the others have emptied the caches before the first. Pictures are compared with the first
    worker's of the same round. One that fails on the way is out.

    On a shared machine the commands in the variables BEFORE_RACE and AFTER_RACE can keep others
    quiet meanwhile."""
    subprocess.run(os.environ.get("BEFORE_RACE", "true"), shell=True, check=True)
    for turn, prompt in enumerate(prompts):
        running = [worker for worker in workers if not worker.failed]
        paths = {worker.name: folder / f"{k}.npy" for k, worker in enumerate(running)}
        shift = turn % len(running)
        for worker in running[shift:] + running[:shift]:
            request = {"prompt": prompt, "seed": turn, "picture": str(paths[worker.name])}
            seconds = [worker.call(request) for _ in range(calls) if not worker.failed]
            worker.seconds += seconds[-1:]
        expected = np.load(paths[running[0].name])
        for worker in running:
            if not worker.failed:
                worker.errors.append(rmse(np.load(paths[worker.name]), expected))
    subprocess.run(os.environ.get("AFTER_RACE", "true"), shell=True, check=True)


def rmse(picture: np.ndarray, expected: np.ndarray) -> float:
    """In grey levels; both are in 0 to 1."""
    return float(255 * np.sqrt(np.mean((picture - expected) ** 2)))


def refusals(workers: Sequence[Worker]) -> dict[str, str]:
    """Who could not run, and why."""
    return {worker.name: worker.failed for worker in workers if worker.failed}


def best_peer(workers: Sequence[Worker]) -> Worker | None:
    """The fastest of those that are neither the first, which all are compared with, nor ours."""
    peers = [worker for worker in workers[1:] if not worker.failed and not worker.is_ours]
    return max(peers, key=lambda peer: over(workers[0], peer).value, default=None)


def over(slower: Worker, faster: Worker) -> Interval:
    """How many times as fast, with its interval, from the rounds of both."""
    return paired_ratio(slower.seconds, faster.seconds)


def row_of(worker: Worker, baseline: Worker) -> dict[str, object]:
    """One that ran: its seconds, its speed over the baseline's, and how far its pictures are."""
    ratio = over(baseline, worker)
    return {
        "seconds": median(worker.seconds),
        "speedup": ratio.value,
        "speedup_low": ratio.low,
        "speedup_high": ratio.high,
        "rmse": median(worker.errors),
        "ready_seconds": worker.ready["ready"],
        "peak_bytes": worker.ready["peak_bytes"],
        "versions": worker.ready["versions"],
        "all_seconds": worker.seconds,
    }


def rows(workers: Sequence[Worker]) -> list[dict[str, object]]:
    """Of all that ran."""
    peer = best_peer(workers)
    measured = []
    for worker in workers:
        if worker.failed:
            continue
        row = {"who": worker.name, **row_of(worker, workers[0])}
        if peer is not None and worker.is_ours:
            against = over(peer, worker)
            row |= {
                "best_peer": peer.name,
                "over_best_peer": against.value,
                "over_best_peer_low": against.low,
                "over_best_peer_high": against.high,
            }
        measured.append(row)
    return measured
