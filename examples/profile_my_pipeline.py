"""Where does my pipeline's time go? Prints the ledger and writes one HTML page.

python examples/profile_my_pipeline.py                  # the bundled model
python examples/profile_my_pipeline.py ./my-sdxl 30     # your folder, 30 steps
"""

import sys

import halftime
from halftime.base import units


def main(model: str | None = None, steps: str = "30", page: str = "profile.html") -> None:
    pipeline = halftime.load_pipeline(model)  # or build it yourself: any diffusers pipeline will do
    session = halftime.profile(pipeline, halftime.Workload(steps=int(steps)), runs=5)
    for row in session.ledger:
        print(f"{row.stage:14} {units.seconds(row.seconds):>8} {units.share(row.share):>7}")
    for finding in session.findings:
        print(f"- {finding.message}; at most {units.ratio(finding.ceiling)}, fix: {finding.fix}")
    session.html(page)
    print(f"wrote {page}")


if __name__ == "__main__":
    main(*sys.argv[1:])
