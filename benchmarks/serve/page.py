"""The tables of docs/serve.md, from benchmarks/results/serve_*.json.

    python -m benchmarks.serve.page [--check]

Rewrites the text between the page's markers; --check only says whether that would change it.
"""

from __future__ import annotations

from benchmarks.tables import ROOT, between, machine, result, table, update
from halftime.base.stats import median
from halftime.base.units import NOTHING, seconds, share, size

PAGE = ROOT / "docs" / "serve.md"


def load() -> list[str]:
    """The open-loop table and the sentence above it."""
    measured = result("serve_load")
    if measured is None:
        return ["Load: not measured."]
    first, environment = measured["rows"][0], machine("serve_load")
    head = (
        "offered",
        "requests",
        "answers",
        "no answer",
        "goodput",
        "of capacity",
        "p50",
        "p99 of accepted",
        "p99 of refusals",
    )
    speeds = [row[when] for row in measured["rows"] for when in ("capacity_low", "capacity_high")]
    rows = [
        [
            f"{row['times_capacity']:g}x, {row['offered_per_second']:.1f}/s",
            str(row["requests"]),
            answers(row["answers_by_status"]),
            str(row["unanswered"]),
            f"{row['goodput_per_second']:.2f}/s",
            share(row["goodput_of_capacity"]),
            seconds(row["latency_p50"]),
            seconds(row["latency_p99"]),
            seconds(row["refusal_p99"]) if "429" in row["answers_by_status"] else NOTHING,
        ]
        for row in measured["rows"]
    ]
    return [
        f"Open-loop Poisson load, latency from the intended send; emoji-xl at {measured['steps']} "
        "steps on one thread, "
        f"a queue of {measured['queue']}, a deadline of {seconds(first['deadline'])}. "
        f"The capacity is what a closed loop completes just before and after each round, here "
        f"{min(speeds):.2f} to {max(speeds):.2f} pictures a second (the machine was shared). "
        f"Load average when written: {environment.load_average:.1f} on {environment.cores} cores.",
        "",
        *table(head, rows),
    ]


def answers(by_status: dict[str, int]) -> str:
    return ", ".join(f"{count} x {status}" for status, count in by_status.items())


def overhead() -> list[str]:
    """What the server costs over a bare call."""
    measured = result("serve_overhead")
    if measured is None:
        return ["Overhead: not measured."]
    row = measured["rows"][0]
    return [
        f"Over a bare pipeline call (30 steps, one thread, {row['pairs']} shuffled pairs): "
        f"{seconds(row['bare_seconds'])} bare, {seconds(row['served_seconds'])} served, added "
        f"{seconds(row['added_seconds'])} [{seconds(row['added_low'])}, "
        f"{seconds(row['added_high'])}], "
        f"{share(row['added_of_bare'])} of the call. Outside the worker's computation a "
        "request spends "
        f"{seconds(row['outside_compute_p50'])} (p50), {seconds(row['outside_compute_p99'])} "
        "(p99); the rest is "
        "that the worker's process draws slower. So does a bare one that drew batches of 1, 2 "
        "and 4 once, as in a "
        "warm-up: by "
        f"{seconds(row['batches_before_seconds'])} [{seconds(row['batches_low'])}, "
        f"{seconds(row['batches_high'])}]."
    ]


def faults() -> list[str]:
    """One row a fault."""
    measured = result("serve_faults")
    if measured is None:
        return ["Faults: not measured."]
    rows = [
        [row["what"], row["bar"], MEASURED[row["row"]](row), "yes" if row["reached"] else "**no**"]
        for row in measured["rows"]
    ]
    return [
        *table(("fault", "bar", "measured", "reached"), rows),
        "",
        "From the 1,300 connections on: the server with two workers that have no model "
        "(`benchmarks.serve.stand_in`), since what is measured there does not depend on pictures.",
    ]


def replaced(row: dict) -> str:
    return (
        f"noticed after {seconds(row['noticed_after'])}, both ready after "
        f"{seconds(row['ready_again_after'])}; {answers(row['answers'])} meanwhile; not ready in "
        f"{row['unready_polls']} of {row['polls']} looks"
    )


def grown(change: float) -> str:
    return f"{'+' if change >= 0 else '-'}{size(abs(change))}"


MEASURED = {
    "leave": lambda row: (
        f"{answers(row['answers'])} (499: left); idle after {seconds(row['idle_after'])}; "
        f"memory {grown(row['growth']['http'])} (HTTP), {grown(row['growth']['worker'])} (worker)"
    ),
    "slow": lambda row: (
        f"others {seconds(row['alone_p50'])} without, {seconds(row['beside_p50'])} beside them"
    ),
    "large": lambda row: (
        f"{answers(row['answers'])}; above the limit {row['above_the_limit']}; "
        f"HTTP process {size(row['resident_before'])}, at most {size(row['resident_peak'])}"
    ),
    "malformed": lambda row: answers(row["answers"]),
    "schemathesis": lambda row: f"{row['cases'] or 'unknown'} cases, exit code {row['exit_code']}",
    "kill": lambda row: (
        f"{answers(row['answers'])}, {row['unanswered']} unanswered; ready again after "
        f"{seconds(row['ready_again_p50'])} (p50), {seconds(row['ready_again_max'])} (most)"
    ),
    "sigterm": lambda row: (
        f"{answers(row['answers'])}, exit code {row['exit_code']} after {seconds(row['seconds'])}"
    ),
    "silent": lambda row: f"/healthz {row['healthz']} within {seconds(row['healthz_most'])}",
    "heads": lambda row: f"{answers(row['answers'])}; memory {grown(row['growth'])}",
    "half_closed": lambda row: answers(row["answers"]),
    "uploads": lambda row: (
        f"HTTP process {size(row['resident_before'])}, at most {size(row['resident_peak'])}; "
        f"{seconds(row['upload_seconds'])} at most in the stage `upload`, "
        f"{seconds(row['rest_seconds'])} in no stage"
    ),
    "impatient": lambda row: answers(row["answers"]),
    "failing": replaced,
    "frozen": replaced,
    "killed": replaced,
    "cold": lambda row: (
        f"{', '.join(map(seconds, row['seconds']))}; {row['kinds_of_call']} kinds of call run twice"
    ),
}


def cold() -> list[str]:
    """Process start to ready."""
    measured = (result("serve_engine") or {}).get("cold")
    if measured is None:
        return ["Cold starts: not measured."]
    file = f"the artefacts of the run before ({size(measured['artefacts_bytes'])})"
    cases = (
        ("eager", "eager"),
        ("the VAE compiled, no artefacts yet", "compiled_without_artefacts"),
        (f"the VAE compiled, {file}", "compiled_with_artefacts"),
    )
    rows = [
        [
            case,
            *(
                seconds(median([start[f"{state}_seconds"] for start in measured[name]]))
                for state in ("loaded", "ready")
            ),
        ]
        for case, name in cases
    ]
    runs = len(measured["compiled_with_artefacts"])
    times = (
        "one run each" if runs == 1 else f"the median of {runs} runs, the one that saved them once"
    )
    return table(
        (f"one thread, load average {measured['load_average']:.1f}, {times}", "loaded", "ready"),
        rows,
    )


def ray() -> list[str]:
    """Two replicas, one of them killed; then SIGTERM."""
    measured = result("serve_ray")
    if measured is None:
        return ["Two replicas: not measured."]
    ended = measured["terminated"]
    rows = [
        killed("the worker of one of two replicas", measured["worker_killed"]),
        killed("one of two replicas", measured["killed"]),
        [
            "SIGTERM under load",
            "whoever was accepted gets the picture, the others are told, exit code 0",
            f"{answers(ended['answers'])}; exit code {ended['exit_code']} after "
            f"{seconds(ended['seconds'])}",
            reached(ended),
        ],
    ]
    return [
        f"Ray {measured['ray']}, two replicas of the bundled model at 10 steps on one machine, "
        f"four clients; load average {measured['load_average']:.1f} before:",
        "",
        *table(("what", "bar", "measured", "reached"), rows),
    ]


def killed(what: str, row: dict) -> list[str]:
    """A row of the table: a process was killed under load."""
    return [
        f"kill -9 of {what} under load, {row['requests']} requests",
        "every one gets its picture, none is drawn twice, no counter falls",
        f"{answers(row['answers'])}; {row['different_seeds']} different seeds; "
        f"{row['pictures_counted']:g} pictures counted; {row['counter_falls']} falls in "
        f"{row['counter_looks']} looks; the longest took {seconds(row['longest_seconds'])} (p50 "
        f"{seconds(row['median_seconds'])}); {row['processes_after']} of them afterwards",
        reached(row),
    ]


def reached(row: dict) -> str:
    return "yes" if row["reached"] else "**no**"


def clients() -> list[str]:
    """One row a case."""
    measured = result("serve_clients")
    if measured is None:
        return ["Other clients: not measured."]
    names = list(dict.fromkeys(row["client"] for row in measured["rows"]))
    rows = [
        [name, *(", ".join(cases_of(measured["rows"], name, right)) for right in (True, False))]
        for name in names
    ]
    return table(
        ("client", "gets what it asks for", "does not"),
        [[cell or NOTHING for cell in row] for row in rows],
    )


def cases_of(rows: list[dict], client: str, right: bool) -> list[str]:
    return [row["case"] for row in rows if row["client"] == client and row["right"] is right]


def rewritten(page: str) -> str:
    page = between(page, "ray", ray())
    page = between(page, "clients", clients())
    page = between(page, "cold", cold())
    return between(page, "load", [*load(), "", *overhead(), "", *faults()])


if __name__ == "__main__":
    update({PAGE: rewritten})
