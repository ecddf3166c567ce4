"""Fit the constants of `halftime forecast`, and measure its errors on rows left out of the fit.

Reads rows.csv, which workshop.forecast.translate writes. Every constant has a lognormal prior with
a physical median (`halftime.verbs.forecast.constants.PRIORS`); every GPU has two effects (compute,
memory), every host one, every family on a GPU one, all shrunk to zero: a maximum a posteriori fit
of the logarithms, by least squares. No row has its own parameter. Rows of one source on one GPU
share the weight of a few independent ones, or the 500 rows of SD 1.5 would drown the rest.

    python -m workshop.forecast.fit
    python -m workshop.forecast.fit --check --out benchmarks/results/forecast_check.json
        --plot docs/forecast-residuals.svg

The first fits on all rows and writes src/halftime/verbs/forecast/data/constants.json. The second
measures errors on rows left out, by GPU and by family; workshop.forecast.page writes the tables of
docs/forecast.md from its result.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from itertools import combinations
from pathlib import Path

import msgspec
import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from scipy.optimize import least_squares
from scipy.sparse import lil_matrix

from benchmarks.frame import Frame
from benchmarks.tables import ROOT
from halftime.base.store import write_json
from halftime.records.gpus import find_gpu
from halftime.verbs.forecast import host, predict
from halftime.verbs.forecast.cache import trace_of
from halftime.verbs.forecast.calibrate import calibrated_by, forget_host
from halftime.verbs.forecast.constants import (
    GENERATION_SPREAD,
    GENERATIONS,
    PRIORS,
    Constants,
    GpuEffect,
    prior,
)
from halftime.verbs.forecast.evaluate import NOISE, banded
from halftime.verbs.forecast.floor import floor_seconds
from halftime.verbs.forecast.roofline import (
    GpuLimits,
    OpTable,
    limits_of,
    op_seconds,
    softmax,
    table_of,
)
from halftime.verbs.forecast.rows import MeasuredRow, read_rows, works_of

ROWS = Path(__file__).with_name("rows.csv")
CONSTANTS = ROOT / "src" / "halftime" / "verbs" / "forecast" / "data" / "constants.json"
# Rows of one source on one GPU count as at most this many independent measurements.
INDEPENDENT = 8.0
FIELDS = [f.name for f in fields(GpuLimits)]


@dataclass
class Problem:
    """All rows as arrays: operation groups, the forwards they belong to, the rows these belong
    to."""

    rows: list[MeasuredRow]
    gpus: list[str]
    hosts: list[str]
    row_gpu: np.ndarray
    row_host: np.ndarray
    weight: np.ndarray
    measured: np.ndarray  # log seconds
    ops: OpTable
    machine: GpuLimits
    op_forward: np.ndarray
    op_gpu: np.ndarray
    op_generation: np.ndarray
    forward_row: np.ndarray
    forward_times: np.ndarray
    forward_ops: np.ndarray  # the host's work
    forward_engine: np.ndarray
    forward_step: np.ndarray  # 1 where a step's own work comes with the forward
    row_pixels: np.ndarray
    row_total: np.ndarray
    row_class: np.ndarray  # of CPUs: its place in host.CLASSES


def usable(rows: list[MeasuredRow]) -> list[MeasuredRow]:
    return [row for row in rows if find_gpu(row.gpu) is not None]


def concatenated(kind: type, items: list, lengths: list[int] | None = None):
    columns = {}
    for f in fields(kind):
        values = [getattr(item, f.name) for item in items]
        if lengths is None:
            columns[f.name] = np.concatenate(values)
        else:
            columns[f.name] = np.repeat(np.array(values, dtype=float), lengths)
    return kind(**columns)


def problem_of(rows: list[MeasuredRow]) -> Problem:
    base = prior()
    tables, machines, lengths, forward = [], [], [], []
    gpus = sorted({find_gpu(row.gpu).name for row in rows})
    hosts = sorted({row.host for row in rows})
    op_gpu, op_generation = [], []
    memo: dict = {}
    for index, row in enumerate(rows):
        gpu = find_gpu(row.gpu)
        engine = row.kind.endswith("-trt")
        stepped = False
        for part in row.parts:
            compiled = part.compiled or engine
            key = (id(gpu), part.dtype, compiled, repr(part.traced))
            if key not in memo:
                trace = trace_of(part.traced)
                groups = trace.compiled if compiled else trace.eager
                memo[key] = (
                    table_of(groups, compiled=compiled, dtype=part.dtype),
                    host.operations(trace, compiled=compiled),
                )
            table, work = memo[key]
            tables.append(table)
            machines.append(limits_of(gpu, part.dtype, base))
            lengths.append(len(table.kind))
            denoiser = part.traced.role == "denoiser"
            step = denoiser and not stepped and not row.kind.startswith("stage")
            stepped = stepped or step
            forward.append((index, part.times, work, float(engine), float(step)))
            op_gpu += [gpus.index(gpu.name)] * len(table.kind)
            generation = (
                list(GENERATIONS).index(gpu.architecture) if gpu.architecture in GENERATIONS else 0
            )
            op_generation += [generation] * len(table.kind)
    f = np.array(forward, dtype=float)
    groups = Counter((row.host, row.family) for row in rows)
    weight = np.array([min(1.0, INDEPENDENT / groups[(row.host, row.family)]) for row in rows])
    pixels = [
        sum(
            p.times
            * p.traced.geometry.batch
            * p.traced.geometry.width
            * p.traced.geometry.height
            * p.traced.geometry.frames
            for p in row.parts
            if p.traced.role == "vae"
        )
        for row in rows
    ]
    return Problem(
        rows=rows,
        gpus=gpus,
        hosts=hosts,
        row_gpu=np.array([gpus.index(find_gpu(row.gpu).name) for row in rows]),
        row_host=np.array([hosts.index(row.host) for row in rows]),
        weight=weight,
        measured=np.log([row.seconds for row in rows]),
        ops=concatenated(OpTable, tables),
        machine=concatenated(GpuLimits, machines, lengths),
        op_forward=np.repeat(np.arange(len(lengths)), lengths),
        op_gpu=np.array(op_gpu),
        op_generation=np.array(op_generation),
        forward_row=f[:, 0].astype(int),
        forward_times=f[:, 1],
        forward_ops=f[:, 2],
        forward_engine=f[:, 3],
        forward_step=f[:, 4],
        row_pixels=np.array(pixels, dtype=float),
        row_class=np.array(
            [list(host.CLASSES).index(host.class_of(find_gpu(row.gpu))) for row in rows]
        ),
        row_total=np.array([float(row.kind.startswith("total")) for row in rows]),
    )


@dataclass
class Layout:
    """Where each parameter stands in the vector: constants, generations, GPU effects, host
    effects."""

    problem: Problem

    def __post_init__(self) -> None:
        self.names = list(PRIORS)
        self.at_generation = len(self.names)
        self.at_gpu = self.at_generation + len(GENERATIONS)
        self.at_host = self.at_gpu + 2 * len(self.problem.gpus)
        self.size = self.at_host + len(self.problem.hosts)

    def start(self) -> np.ndarray:
        return np.zeros(self.size)

    def constants(self, x: np.ndarray) -> dict[str, float]:
        return {name: float(PRIORS[name][0] * np.exp(x[i])) for i, name in enumerate(self.names)}

    def spreads(self, base: Constants) -> np.ndarray:
        s = np.empty(self.size)
        s[: self.at_generation] = [PRIORS[name][1] for name in self.names]
        s[self.at_generation : self.at_gpu] = GENERATION_SPREAD
        s[self.at_gpu : self.at_host : 2] = base.gpu_compute
        s[self.at_gpu + 1 : self.at_host : 2] = base.gpu_memory
        s[self.at_host :] = base.host
        return s


def predicted(p: Problem, layout: Layout, x: np.ndarray) -> np.ndarray:
    """Log seconds of every row."""
    c = layout.constants(x)
    effect = x[layout.at_gpu : layout.at_host].reshape(-1, 2)
    changed = {name: getattr(p.machine, name) for name in FIELDS} | {
        "compute": np.exp(effect[p.op_gpu, 0]),
        "memory": np.exp(effect[p.op_gpu, 1]),
        "energy": np.array(list(GENERATIONS.values()))[p.op_generation]
        * np.exp(x[layout.at_generation + p.op_generation]),
    }
    device_ops = p.ops.count * op_seconds(p.ops, GpuLimits(**changed), c).total
    device = np.bincount(p.op_forward, device_ops, len(p.forward_row))
    device = device * np.where(p.forward_engine > 0, c["engine"], 1.0)
    host_factor = (
        np.exp(x[layout.at_host + p.row_host])
        * np.array([host.class_factor(name, c) for name in host.CLASSES])[p.row_class]
    )
    slow = host_factor[p.forward_row]
    busy = slow * (c["dispatch"] * p.forward_ops + c["step"] * p.forward_step)
    forward = softmax(device, busy) * p.forward_times
    row = np.bincount(p.forward_row, forward, len(p.rows))
    return np.log(row + p.row_total * host_factor * (c["call"] + c["pixel"] * p.row_pixels))


def sparsity(p: Problem, layout: Layout) -> lil_matrix:
    n = len(p.rows)
    matrix = lil_matrix((n + layout.size, layout.size), dtype=int)
    matrix[:n, : layout.at_gpu] = 1
    for i in range(n):
        g = layout.at_gpu + 2 * p.row_gpu[i]
        matrix[i, g : g + 2] = 1
        matrix[i, layout.at_host + p.row_host[i]] = 1
    for j in range(layout.size):
        matrix[n + j, j] = 1
    return matrix


def fit(
    p: Problem, base: Constants, used: np.ndarray | None = None, x0: np.ndarray | None = None
) -> tuple[Layout, np.ndarray, np.ndarray]:
    """The parameters with the largest posterior, and the Jacobian of log seconds there."""
    layout = Layout(p)
    spread = layout.spreads(base)
    sigma = np.sqrt(base.source**2 + base.family**2) / np.sqrt(p.weight)
    if used is not None:
        sigma = np.where(used, sigma, 1e6)

    def residuals(x: np.ndarray) -> np.ndarray:
        return np.concatenate([(predicted(p, layout, x) - p.measured) / sigma, x / spread])

    solution = least_squares(
        residuals,
        layout.start() if x0 is None else x0,
        jac_sparsity=sparsity(p, layout),
        loss="soft_l1",
        f_scale=2.0,
        x_scale=spread,
        max_nfev=40,
        xtol=1e-4,
        ftol=1e-5,
    )
    return layout, solution.x, np.asarray(solution.jac.todense())[: len(p.rows)] * sigma[:, None]


def constants_of(
    p: Problem, base: Constants, layout: Layout, x: np.ndarray, jac: np.ndarray
) -> Constants:
    """The fit as constants that halftime can ship."""
    factor = np.exp(x[layout.at_generation : layout.at_gpu])
    return Constants(
        values=layout.constants(x),
        energy={
            name: value * float(factor[i]) for i, (name, value) in enumerate(GENERATIONS.items())
        },
        gpus={name: effect_of(p, base, layout, x, jac, index) for index, name in enumerate(p.gpus)},
        gpu_compute=base.gpu_compute,
        gpu_memory=base.gpu_memory,
        host=base.host,
        family=base.family,
        source=base.source,
        fitted_on=f"{len(p.rows)} published measurements on {len(p.gpus)} GPUs",
    )


def effect_of(
    p: Problem, base: Constants, layout: Layout, x: np.ndarray, jac: np.ndarray, index: int
) -> GpuEffect:
    """A GPU's own factors; the covariance takes its rows as independent up to INDEPENDENT a source,
    others as known."""
    at = layout.at_gpu + 2 * index
    mine = p.row_gpu == index
    sigma2 = (base.source**2 + base.family**2) / p.weight[mine]
    slopes = jac[mine][:, at : at + 2]
    precision = (
        np.diag([base.gpu_compute**-2, base.gpu_memory**-2]) + (slopes / sigma2[:, None]).T @ slopes
    )
    # The constants themselves are uncertain by about 3 % whatever the number of rows.
    covariance = np.linalg.inv(precision) + 0.03**2 * np.eye(2)
    return GpuEffect(
        compute=float(x[at]),
        memory=float(x[at + 1]),
        rows=int(mine.sum()),
        covariance=(float(covariance[0, 0]), float(covariance[0, 1]), float(covariance[1, 1])),
    )


def without(p: Problem, base: Constants, start: np.ndarray, left_out: np.ndarray) -> Constants:
    """The constants of a fit that has not seen some rows; a GPU all of whose rows were left out is
    an unknown one."""
    layout, x, jac = fit(p, base, ~left_out, start)
    constants = constants_of(p, base, layout, x, jac)
    in_fit = {p.gpus[i] for i in p.row_gpu[~left_out]}
    effects = {name: effect for name, effect in constants.gpus.items() if name in in_fit}
    return msgspec.structs.replace(constants, gpus=effects)


@dataclass
class Split:
    """Signed relative errors of one way to split, and whether the band held."""

    errors: list[float] = field(default_factory=list)
    inside: list[bool] = field(default_factory=list)
    rows: list[MeasuredRow] = field(default_factory=list)

    def add(self, row: MeasuredRow, machine: predict.Machine) -> None:
        seconds, low, high = banded(works_of(row), machine)
        self.errors.append(seconds / row.seconds - 1)
        self.inside.append(low <= row.seconds <= high)
        self.rows.append(row)

    def extend(self, split: Split) -> None:
        self.errors += split.errors
        self.inside += split.inside
        self.rows += split.rows

    def summary(self) -> dict[str, float]:
        size = np.abs(self.errors)
        return {
            "n": len(size),
            "median": float(np.median(size)),
            "p90": float(np.quantile(size, 0.9)),
            "bias": float(np.median(self.errors)),
            "inside_90_band": float(np.mean(self.inside)),
        }


def check(p: Problem, base: Constants, plot_file: Path | None) -> dict[str, object]:
    """Errors on rows that the fit has not seen: by GPU, by family, and after one row of the GPU."""
    _, start, _ = fit(p, base)
    by_gpu, splits = check_gpus(p, base, start)
    by_family, splits["family"] = check_families(p, base, start)
    for name, split in splits.items():
        print(f"{name:24s} {text(split)}")
    if plot_file:
        plot(splits["none"], plot_file)
    return {
        "rows": len(p.rows),
        "gpus": len(p.gpus),
        "leave_one_gpu_out": splits["none"].summary(),
        "leave_one_gpu_out_one_row": splits["one row"].summary(),
        "leave_one_gpu_out_one_row_other_family": splits["one row, other family"].summary(),
        "leave_one_family_out": splits["family"].summary(),
        "ordering_gpu_left_out": ordering(splits["none"]),
        "ordering_family_left_out": ordering(splits["family"]),
        "floor_above_measurement": sum(
            floor_seconds(works_of(row), find_gpu(row.gpu)) > row.seconds for row in p.rows
        ),
        "noise_between_sources": source_noise(p.rows),
        "by_gpu": by_gpu,
        "by_family": by_family,
    }


def check_gpus(
    p: Problem, base: Constants, start: np.ndarray
) -> tuple[dict[str, object], dict[str, Split]]:
    """Each GPU left out of the fit: its errors, and all GPUs' together."""
    splits = {name: Split() for name in ("none", "one row", "one row, other family")}
    by_gpu: dict[str, object] = {}
    for index, name in enumerate(p.gpus):
        mine = p.row_gpu == index
        constants = without(p, base, start, mine)
        rows = [row for row, is_mine in zip(p.rows, mine, strict=True) if is_mine]
        before, after = Split(), Split()
        machine = predict.uncalibrated(find_gpu(name), constants)
        for row in rows:
            before.add(row, machine)
        # Every calibration row in turn up to about eight, evenly over the file.
        for at in range(0, len(rows), max(1, len(rows) // 8)):
            calibrated = calibrated_by(machine, [rows[at]])
            elsewhere = forget_host(calibrated, constants)
            for i, row in enumerate(rows):
                if i == at:
                    continue
                same_host = row.host == rows[at].host
                after.add(row, calibrated if same_host else elsewhere)
                if row.family != rows[at].family:
                    splits["one row, other family"].add(row, calibrated if same_host else elsewhere)
        splits["none"].extend(before)
        splits["one row"].extend(after)
        by_gpu[name] = {
            "none": before.summary(),
            "one_row": after.summary() if after.rows else None,
        }
        after_text = text(after) if after.rows else "-"
        print(f"{name:16s} none {text(before)}   one row {after_text}", flush=True)
    return by_gpu, splits


def check_families(
    p: Problem, base: Constants, start: np.ndarray
) -> tuple[dict[str, object], Split]:
    """Each model family left out of the fit: its errors, and all families' together."""
    all_families = Split()
    by_family: dict[str, object] = {}
    for name in sorted({row.family for row in p.rows}):
        mine = np.array([row.family == name for row in p.rows])
        constants = without(p, base, start, mine)
        split = Split()
        for row in p.rows:
            if row.family == name:
                split.add(row, predict.uncalibrated(find_gpu(row.gpu), constants))
        by_family[name] = split.summary()
        all_families.extend(split)
        print(f"{name:16s} left out {text(split)}", flush=True)
    return by_family, all_families


def text(split: Split) -> str:
    s = split.summary()
    return (
        f"n {s['n']:5d}  median {s['median']:6.1%}  p90 {s['p90']:6.1%}  bias {s['bias']:+6.1%}"
        f"  in band {s['inside_90_band']:.0%}"
    )


def ordering(split: Split) -> dict[str, float]:
    """Pairs of rows on one left-out GPU that come in the measured order; clear: further apart than
    13 %."""
    right, clear_right, pairs, clear = 0, 0, 0, 0
    for (a, ea), (b, eb) in combinations(zip(split.rows, split.errors, strict=True), 2):
        if find_gpu(a.gpu) is not find_gpu(b.gpu) or a.seconds == b.seconds:
            continue
        good = (a.seconds < b.seconds) == (a.seconds * (1 + ea) < b.seconds * (1 + eb))
        apart = max(a.seconds, b.seconds) / min(a.seconds, b.seconds) > 1 + NOISE
        pairs += 1
        right += good
        clear += apart
        clear_right += apart and good
    return {
        "pairs": pairs,
        "right": right / pairs,
        "clear_pairs": clear,
        "clear_right": clear_right / clear,
    }


def source_noise(rows: list[MeasuredRow]) -> dict[str, float]:
    """How far measurements of equal configurations on equal GPUs, from different hosts, lie apart
    (ratio - 1)."""
    equal: dict[tuple[str, str, str], list[MeasuredRow]] = {}
    for row in rows:
        equal.setdefault((find_gpu(row.gpu).name, row.kind, repr(row.parts)), []).append(row)
    apart = [
        max(a.seconds, b.seconds) / min(a.seconds, b.seconds) - 1
        for same in equal.values()
        for a, b in combinations(same, 2)
        if a.host != b.host
    ]
    return {
        "pairs": len(apart),
        "median": float(np.median(apart)),
        "p90": float(np.quantile(apart, 0.9)),
    }


def plot(split: Split, path: Path) -> None:
    """Residuals by class, of forecasts for GPUs that the fit has not seen."""
    classes = {
        "GPU": lambda row: find_gpu(row.gpu).name,
        "family": lambda row: row.family,
        "mode": lambda row: "compiled" if any(part.compiled for part in row.parts) else "eager",
        "dtype": lambda row: row.parts[-1].dtype,
        "attention": lambda row: max(row.parts, key=lambda part: part.times).traced.attention,
    }
    groups: list[tuple[str, list[float]]] = []
    for title, function in classes.items():
        names = [function(row) for row in split.rows]
        for name in sorted(set(names)):
            groups.append(
                (
                    f"{title}: {name}",
                    [e for e, n in zip(split.errors, names, strict=True) if n == name],
                )
            )
    with rc_context({"svg.hashsalt": "halftime", "font.size": 8, "svg.fonttype": "none"}):
        figure = Figure(figsize=(7.5, 0.19 * len(groups) + 0.9), layout="constrained")
        axes = figure.subplots()
        axes.boxplot(
            [100 * np.array(values) for _, values in groups],
            orientation="horizontal",
            whis=(10, 90),
            showfliers=False,
            medianprops={"color": "#d9822b"},
        )
        axes.set_yticks(
            range(1, len(groups) + 1), [f"{name} ({len(values)})" for name, values in groups]
        )
        axes.invert_yaxis()
        axes.axvline(0, color="#9aa1ab", linewidth=0.8)
        axes.grid(axis="x", linewidth=0.3)
        axes.set_xlabel(
            "forecast against measurement on a GPU left out of the fit, % (box: middle half; "
            "whisker: 10 to 90 %)"
        )
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    frame = Frame(__file__, __doc__, name="forecast_check")
    frame.parser.add_argument(
        "--check", action="store_true", help="measure the errors on rows left out of the fit"
    )
    frame.parser.add_argument("--plot", type=Path, help="of the residuals, as SVG; with --check")
    options = frame.parse()
    rows, refused = read_rows(ROWS)
    assert not refused, refused[0]
    p = problem_of(usable(rows))
    if options.check:
        frame.write(check(p, prior(), options.plot))
        return
    layout, x, jac = fit(p, prior())
    constants = constants_of(p, prior(), layout, x, jac)
    write_json(CONSTANTS, constants)
    for name, value in constants.values.items():
        median, deviation = PRIORS[name]
        print(
            f"{name:26s} {value:10.3g}   prior {median:8.3g} "
            f"({np.log(value / median) / deviation:+.1f} sd)"
        )
    error = np.abs(np.expm1(predicted(p, layout, x) - p.measured))
    print(f"on the rows fitted: median {np.median(error):.1%}, p90 {np.quantile(error, 0.9):.1%}")


if __name__ == "__main__":
    main()
