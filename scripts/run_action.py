"""Run the shell steps of action.yml here, in their order, as GitHub's runner would.

`make gate` gates this repository by it; the tests run the action by it. Steps of other actions
(`uses:`) are named and passed over. What it does not know of GitHub's language it refuses.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

ACTION = Path(__file__).parent.parent / "action.yml"
# as GitHub starts `shell: bash`
BASH = ("bash", "--noprofile", "--norc", "-eo", "pipefail", "-c")
_EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
_COMPARISON = re.compile(r"(\S+) (==|!=) '([^']*)'")


@dataclass
class ActionRun:
    """One run: its inputs, what the runner says of itself, and what the steps have put out."""

    inputs: Mapping[str, str]
    github: Mapping[str, str] = field(default_factory=dict)
    folder: Path = field(default_factory=Path.cwd)
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)  # by step
    summary: str = ""
    code: int = 0

    def run(self, action: Path = ACTION) -> int:
        """Every step; after one that failed no other runs. Gives the exit code."""
        document = yaml.safe_load(action.read_text())
        defaults = {n: str(row.get("default", "")) for n, row in document["inputs"].items()}
        if unknown := set(self.inputs) - set(defaults):
            raise ValueError(f"{', '.join(sorted(unknown))}: the action has {', '.join(defaults)}")
        self.inputs = defaults | dict(self.inputs)
        with TemporaryDirectory(prefix="halftime-action-") as temporary:
            for step in document["runs"]["steps"]:
                if self.code == 0 and self.holds(step.get("if", "")):
                    self._step(step, Path(temporary))
        return self.code

    def _step(self, step: Mapping[str, str], temporary: Path) -> None:
        if "uses" in step:
            print(f"(passed over here: {step['uses']})", file=sys.stderr)
            return
        if step["shell"] != "bash":
            raise ValueError(f"shell {step['shell']} is not known here")
        output, summary = temporary / "output", temporary / "summary"
        output.write_text("")
        summary.touch()
        self._temporary = str(temporary)
        variables = {name: self.text(value) for name, value in dict(step.get("env", {})).items()}
        files = {"GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(summary)}
        completed = subprocess.run(
            [*BASH, step["run"]],
            cwd=self.folder,
            env={**os.environ, **files, **variables},
            check=False,
        )
        self.code, self.summary = completed.returncode, summary.read_text()
        rows = (line.partition("=") for line in output.read_text().splitlines())
        self.outputs.setdefault(step.get("id", ""), {}).update({n: value for n, _, value in rows})

    def text(self, template: str) -> str:
        """A text with its expressions replaced."""
        return _EXPRESSION.sub(lambda match: self.value(match[1]), template)

    def value(self, name: str) -> str:
        """'inputs.model', 'steps.base.outputs.against', 'github.base_ref' or 'runner.temp'."""
        match name.split("."):
            case ["inputs", key]:
                return self.inputs[key]
            case ["steps", step, "outputs", key]:
                return self.outputs.get(step, {}).get(key, "")
            case ["github", key]:
                return self.github.get(key, "")
            case ["runner", "temp"]:
                return self._temporary
        raise ValueError(f"{name} is not known here")

    def holds(self, condition: str) -> bool:
        """Whether a step's `if` holds: comparisons with texts, joined by &&."""
        for part in filter(None, condition.split(" && ")):
            comparison = _COMPARISON.fullmatch(part)
            if comparison is None:
                raise ValueError(f"{part!r} is not known here")
            equal = self.value(comparison[1]) == comparison[3]
            if equal is (comparison[2] == "!="):
                return False
        return True


def main() -> int:
    """Run it with inputs from the command line; exits with the action's code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("inputs", nargs="*", metavar="NAME=VALUE", help="inputs of action.yml")
    rows = [text.partition("=") for text in parser.parse_args().inputs]
    run = ActionRun({name: value for name, _, value in rows})
    code = run.run()
    print(run.summary)
    return code


if __name__ == "__main__":
    sys.exit(main())
