"""The tables of docs/verify.md, from benchmarks/results/verify_cases.json.

python benchmarks/verify_table.py        rewrites what stands between the markers; with --check it
only says whether
                                         they are up to date
"""

from __future__ import annotations

from pathlib import Path

from tables import placed, result, table, update

DOCS = Path(__file__).parent.parent / "docs" / "verify.md"
START, END = "<!-- measured -->", "<!-- end of measured -->"
CLASSES = ("photo-like", "drawing", "hard-edged")
TIERS = {"strict": "`--strict`", "visible": "default"}
FAULT, ROUNDING = "one VAE layer disturbed by 2 %", "bf16 VAE"


def cases(found: dict) -> list[str]:
    rows = [
        [
            name,
            f"{case['floors']['all flip']:.2f}",
            f"{case['floors']['all ms_ssim']:.2f}",
            " / ".join(f"{case['floors'][f'{each} ms_ssim']:.2f}" for each in CLASSES),
            case["verdict"],
            case["strict"],
        ]
        for name, case in found["cases"].items()
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
        f"{found['prompts']} pictures, 128 px, {found['steps']} steps, margin "
        f"{found['margin']:g}; sizes in floors of "
        "the default, 8-bit floor. The bundled judge took part in the decisions.",
        "",
        *table(head, rows),
        "",
    ]


def planted(found: dict) -> list[str]:
    fault, rounding = (found["cases"][name] for name in (FAULT, ROUNDING))
    share = fault["floors"]["all flip"] / rounding["floors"]["all flip"]
    levels = fault["floors"]["all rmse"] * found["floors"]["visible"]["rmse"]
    return [
        f"The planted fault, one decoder layer whose weights each move by 2 %, is {share:.2f} "
        "of the size of bf16 "
        f"rounding in the VAE by FLIP, and {levels:.2f} grey levels RMS: no picture shows it. "
        "The default calls it "
        f"{fault['verdict']} and says that it is real; `--strict` calls it {fault['strict']}.",
        "",
    ]


def power(found: dict) -> list[str]:
    counts = sorted({row["pairs"] for row in found["power"]})
    by = {(row["fault"], row["tier"], row["pairs"]): row for row in found["power"]}
    rows = []
    for fault, tier in dict.fromkeys((row["fault"], row["tier"]) for row in found["power"]):
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
        "Power: the share of 60 draws of so many pairs in which each verdict falls (different "
        "/ equivalent / "
        f"inconclusive, in %). Pairs are drawn with replacement from the {found['prompts']} "
        "that were made, so a curve "
        "knows no pictures beyond those. The size is in floors of its own tier.",
        "",
        *table(head, rows),
        "",
    ]


def _shares(row: dict) -> str:
    return " / ".join(
        f"{100 * row[verdict]:.0f}" for verdict in ("different", "equivalent", "inconclusive")
    )


def made(page: str) -> str:
    found = result("verify_cases")
    assert found is not None
    lines = [*cases(found), *planted(found), *power(found)]
    return placed(page, START, END, lines[:-1])  # each part ends with an empty line


if __name__ == "__main__":
    update(DOCS, made)
