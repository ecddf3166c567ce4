"""The tables of docs/verify.md, from benchmarks/results/verify_*.json.

    python -m benchmarks.verify.page [--check]

Rewrites the text between the page's markers; --check only says whether that would change it.
"""

from __future__ import annotations

from benchmarks.tables import ROOT, between, result, table, update

PAGE = ROOT / "docs" / "verify.md"
CLASSES = ("photo-like", "drawing", "hard-edged")
TIERS = {"strict": "`--strict`", "visible": "default"}
FAULT, ROUNDING = "one VAE layer disturbed by 2 %", "bf16 VAE"


def cases(measured: dict) -> list[str]:
    rows = [
        [
            name,
            f"{case['floors']['all flip']:.2f}",
            f"{case['floors']['all ms_ssim']:.2f}",
            " / ".join(f"{case['floors'][f'{kind} ms_ssim']:.2f}" for kind in CLASSES),
            case["verdict"],
            case["strict"],
        ]
        for name, case in measured["cases"].items()
    ]
    head = (
        "case",
        "FLIP",
        "MS-SSIM",
        f"MS-SSIM {' / '.join(CLASSES)}",
        "verdict",
        "with `--strict`",
    )
    return [
        f"{measured['prompts']} pictures, 128 px, {measured['steps']} steps, margin "
        f"{measured['margin']:g}; sizes in floors of "
        "the default, 8-bit floor. The bundled judge took part in the decisions.",
        "",
        *table(head, rows),
        "",
    ]


def planted(measured: dict) -> list[str]:
    fault, rounding = (measured["cases"][name] for name in (FAULT, ROUNDING))
    share = fault["floors"]["all flip"] / rounding["floors"]["all flip"]
    levels = fault["floors"]["all rmse"] * measured["floors"]["visible"]["rmse"]
    return [
        f"The planted fault, one decoder layer whose weights each move by 2 %, is {share:.2f} "
        "of the size of bf16 "
        f"rounding in the VAE by FLIP, and {levels:.2f} grey levels RMS: no picture shows it. "
        "The default calls it "
        f"{fault['verdict']} and says that it is real; `--strict` calls it {fault['strict']}.",
        "",
    ]


def power(measured: dict) -> list[str]:
    counts = sorted({row["pairs"] for row in measured["power"]})
    by = {(row["fault"], row["tier"], row["pairs"]): row for row in measured["power"]}
    rows = []
    for fault, tier in dict.fromkeys((row["fault"], row["tier"]) for row in measured["power"]):
        first = by[fault, tier, counts[0]]
        rows.append(
            [
                f"{100 * fault:g} %",
                TIERS[tier],
                f"{first['flip_floors']:.2f}",
                f"{first['ms_ssim_floors']:.2f}",
                *(_shares(by[fault, tier, count]) for count in counts),
            ]
        )
    head = (
        "one layer disturbed by",
        "tier",
        "FLIP, floors",
        "MS-SSIM, floors",
        *(f"{n} pairs" for n in counts),
    )
    return [
        "Power: the share of 60 draws of so many pairs in which each verdict falls (different / "
        "equivalent / inconclusive, in %). Pairs are drawn with replacement from the "
        f"{measured['prompts']} that were rendered, so a curve knows no pictures beyond those. The "
        "size is in floors of its own tier.",
        "",
        *table(head, rows),
        "",
    ]


def _shares(row: dict) -> str:
    return " / ".join(
        f"{100 * row[verdict]:.0f}" for verdict in ("different", "equivalent", "inconclusive")
    )


def false_alarms(measured: dict) -> list[str]:
    rows = measured["false_alarms"]
    counts = sorted({row["pairs"] for row in rows})
    by = {(row["change"], row["pairs"]): row for row in rows}
    total = sum(row["comparisons"] for row in rows)
    alarms = sum(row["different"] * row["comparisons"] for row in rows)
    return [
        f"False alarms: {alarms:.0f} of {total:,} comparisons of changes that nobody sees were "
        "called different. The share in which each verdict falls (different / equivalent / "
        "inconclusive, in %):",
        "",
        *table(
            ("change", *(f"{count} pairs" for count in counts)),
            [
                [change, *(_shares(by[change, count]) for count in counts)]
                for change in dict.fromkeys(row["change"] for row in rows)
            ],
        ),
        "",
    ]


def rare(measured: dict) -> list[str]:
    rows = measured["rare"]
    counts = sorted({row["pairs"] for row in rows})
    by = {(row["fault"], row["pairs"]): row for row in rows}
    return [
        "Rare faults: a single picture of the set is wrong, all others are rounded. The share that "
        "is called different, in %:",
        "",
        *table(
            ("the wrong picture is", *(f"1 of {count}" for count in counts)),
            [
                [fault, *(f"{100 * by[fault, count]['different']:.0f}" for count in counts)]
                for fault in dict.fromkeys(row["fault"] for row in rows)
            ],
        ),
        "",
    ]


def sizes(measured: dict) -> list[str]:
    rows = measured["sizes"]
    by = {(row["kind"], row["size"], row["class"]): row for row in rows}
    lines = []
    for kind, size, unit in dict.fromkeys((r["kind"], r["size"], r["unit"]) for r in rows):
        cells = [by[kind, size, name] for name in CLASSES]
        lines.append([f"{kind}, {size:g} {unit}", *(_found(cell) for cell in cells)])
    return [
        "What size is found: each fault is in every picture, and sets of "
        f"{measured['pairs']} pairs are drawn from one class ({measured['draws']} sets). FLIP / "
        "its largest block / MS-SSIM in noise floors, and the verdict that falls in most sets "
        "(its share):",
        "",
        *table(("fault", *CLASSES), lines),
        "",
    ]


def _found(row: dict) -> str:
    verdict = max(("different", "equivalent", "inconclusive"), key=lambda name: row[name])
    floors = " / ".join(f"{row[name]:.1f}" for name in ("flip", "flip_local", "ms_ssim"))
    return f"{floors}: {verdict} ({100 * row[verdict]:.0f} %)"


def coverage(measured: dict) -> list[str]:
    rows = []
    for row in measured["rows"]:
        errors = [row[name] for name in ("percentile bootstrap", "Student", "verify")]
        rows.append(
            [
                row["family"],
                f"{row['skewness']:.1f}",
                str(row["pairs"]),
                *(f"{100 * error:.1f}" for error in errors),
                f"{100 * row['power']:.0f}",
            ]
        )
    head = ("distances", "skewness", "pairs", "percentile bootstrap", "Student", "verify", "power")
    return [
        f"The share of {measured['sets']:,} sets called equivalent by mistake, in %, where 5 are "
        "meant: the true mean lies on the margin. And the power of verify: the share called "
        "equivalent where the mean is a third of the margin.",
        "",
        *table(head, rows),
        "",
    ]


def rewritten(page: str) -> str:
    for name, result_name, parts in (
        ("measured", "verify_cases", (cases, planted, power)),
        ("faults", "verify_faults", (false_alarms, rare, sizes)),
        ("coverage", "verify_coverage", (coverage,)),
    ):
        measured = result(result_name)
        assert measured is not None
        lines = [line for part in parts for line in part(measured)]
        page = between(page, name, lines[:-1])  # each part ends with an empty line
    return page


if __name__ == "__main__":
    update({PAGE: rewritten})
