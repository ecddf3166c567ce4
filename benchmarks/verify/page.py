"""The tables of docs/verify.md, from benchmarks/results/verify_cases.json.

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


def rewritten(page: str) -> str:
    measured = result("verify_cases")
    assert measured is not None
    lines = [*cases(measured), *planted(measured), *power(measured)]
    return between(page, "measured", lines[:-1])  # each part ends with an empty line


if __name__ == "__main__":
    update({PAGE: rewritten})
