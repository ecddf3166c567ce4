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
One that is missing, or whose stack fails, is reported with the reason.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.contest import (
    Stack,
    Worker,
    add_options,
    best_peer,
    model_for_all,
    over,
    race,
    row_of,
    started,
)
from benchmarks.frame import Frame
from halftime import bundled

PLANS = Path(__file__).parent / "plans"
BASELINE = "diffusers default (fp32)"
STACKS = (
    Stack(BASELINE, "diffusers_default"),
    Stack("torch bf16, channels_last", "torch_bf16"),
    Stack("torch.compile as in diffusers' guide (bf16, frozen)", "torch_compile"),
    Stack("Pruna 0.3.4 torch_compile (bf16, frozen)", "pruna", "pruna"),
    Stack("ONNX Runtime fp32 (optimum-onnx)", "optimum_onnx", "onnx"),
    Stack("OpenVINO (optimum-intel), dynamic shapes", "optimum_openvino_dynamic", "optimum"),
    Stack("OpenVINO (optimum-intel), static reshape()", "optimum_openvino", "optimum"),
    *(
        Stack(name, "halftime_recipe", None, ("--recipe", str(PLANS / plan)))
        for name, plan in (
            ("halftime, equivalent fixes only", "equivalent.toml"),
            ("halftime, the same and 20 steps of DPM++ 2M Karras", "fewer-steps.toml"),
            ("halftime, the same and 12 steps of DPM++ 2M Karras", "approximate.toml"),
        )
    ),
)


def row(worker: Worker, baseline: Worker, peer: Worker | None) -> dict[str, object]:
    """As `benchmarks.fix.page` reads it."""
    if worker.failed:
        return {"stack": worker.name, "failed": worker.failed}
    measured = row_of(worker, baseline)
    low, high = measured.pop("speedup_low"), measured.pop("speedup_high")
    measured = {"stack": worker.name, **measured, "low": low, "high": high}
    if peer is not None and worker.is_ours:
        against = over(peer, worker)
        measured |= {
            "against_best_peer": against.value,
            "against_low": against.low,
            "against_high": against.high,
            "best_peer": peer.name,
        }
    return measured


def main() -> None:
    frame = Frame(__file__, __doc__)
    add_options(frame.parser, rounds=15)
    frame.parser.add_argument("--steps", type=int, default=30)
    options = frame.parse()
    prompts = [prompt.text for prompt in bundled.prompts()[: options.rounds]]
    with tempfile.TemporaryDirectory(prefix="halftime-peers-") as name:
        folder = Path(name)
        calls = [f"--model={model_for_all(folder)}", f"--steps={options.steps}"]
        with started(STACKS, calls, folder, options) as workers:
            race(workers, prompts, folder)
    rows = [row(worker, workers[0], best_peer(workers)) for worker in workers]
    for measured in rows:
        print(sentence(measured))
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
