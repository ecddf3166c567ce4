"""How each command that a page shows is run by tests/test_docs.py: cheaply, but for real.

`WAYS` is read from the top; the first pattern that is found in the command counts. A command that
no row knows fails the test: add a row, or name the test that runs it.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if "reference" not in path.parts),
]
_BLOCK = re.compile(r"^( *)```(sh|bash|console|python|toml)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Ours:
    """In this process, with words added that make it short; it must end with `code`.

    Where a verdict decides the code and a short run may get any, `more` writes the record to
    `record`, and the code must be the one that docs/exit-codes.md gives for it.
    """

    more: str = ""
    code: int = 0
    record: str = ""

    def expected_code(self) -> int:
        """After the run, in the folder where it ran."""
        return code_of(json.loads(Path(self.record).read_text())) if self.record else self.code


def code_of(record: dict) -> int:
    """The exit code that belongs to a record of `verify`, `tune`, `gate` or `gateway`."""
    if record.get("reached") is False or record.get("within_budget") is False:
        return 1
    approximate = any(
        rung["kept"] and rung["level"] == "approximate" for rung in record.get("ladder", ())
    )
    verdict = record.get("verdict")
    if approximate or verdict is None:
        return 0
    return VERDICTS[verdict]


VERDICTS = {
    **{"equivalent": 0, "different": 1, "inconclusive": 3},
    **{"pass": 0, "faster": 0, "accepted": 0, "slower": 1, "worse": 1, "undecided": 3},
}


@dataclass(frozen=True)
class Alone(Ours):
    """As `Ours`, in its own process, as a user has it."""


@dataclass(frozen=True)
class Bash:
    """In its own shell, with `halftime` on its path, after `old` is replaced by `new`."""

    old: str = ""
    new: str = ""


@dataclass(frozen=True)
class Python:
    """In this process; `names` are what the page takes for granted, as expressions."""

    names: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Elsewhere:
    """A server, or something long: the named test (`file::function`) runs it."""

    test: str


@dataclass(frozen=True)
class Pip:
    """Resolved by pip against what is installed, without the network."""


@dataclass(frozen=True)
class Make:
    """By make in this checkout, with what it would install taken for installed; `dry` only prints
    what would run."""

    more: str = ""
    dry: bool = False


@dataclass(frozen=True)
class NotHere:
    """Cannot be run in a test, for a reason that a reader would accept."""

    why: str


Way = Ours | Alone | Bash | Python | Elsewhere | Pip | Make | NotHere

_SHORT = "--steps 2 --size 64 --runs 1 --warmup 0 --no-cold-start"
_LOADS = "--requests 3 --concurrency 1 --duration 50ms --sequential-time 1s"
_SERVE_FAULTS = "tests/verbs/serve/test_serve_faults.py"
_LIVE = "tests/verbs/gateway/test_gateway_live.py"
_ACCEPT = "tests/verbs/gate/test_gate_accept.py"
_STORED = "tests/verbs/gate/test_gate_stored.py"
_SIDES = "tests/verbs/gate/test_gate_sides.py"
_TINY = (
    "from tiny_pipelines import PIPELINES; {0} = PIPELINES['sdxl'].build(); "
    "{0}.default_sample_size = 16"
)
WAYS: tuple[tuple[str, Way], ...] = (
    # Troubleshooting: commands that fail, whose message the page quotes.
    (r"^halftime profile (nowhere|--device|--size 33|--against plan|json:|asyncio:)", Ours(code=2)),
    (r"^halftime profile --steps 2 .*--json base.json$", Ours()),
    (r"^halftime profile --steps 3 .*--against base.json$", Ours(code=2)),
    (r"^halftime (trace body|verify baseline typo|forecast sdxl --gpu A11)", Ours(code=2)),
    (r"^halftime gateway --direct http://127.0.0.1:9/", Alone(code=2)),
    # each kind of pipeline and of file, on the page of that name
    (
        r"^halftime (profile (\./(sdxl|flux|sd3|wan|img2img|inpaint|controlnet|model|sd15)\b"
        r"|\./modular|mypipelines:)|run draw\.py +#)",
        Elsewhere("tests/cli/test_cli_pipelines.py::test_each_kind_in_one_command"),
    ),
    (
        r"^halftime run ",
        Elsewhere(
            "tests/verbs/profile/test_profile_inplace.py::"
            "test_the_command_keeps_the_scripts_words_out_of_its_result"
        ),
    ),
    (
        r"^import halftime\nfrom PIL import Image",
        Elsewhere("tests/cli/test_cli_pipelines.py::test_the_program_of_the_page"),
    ),
    (r"^halftime profile stabilityai/", Bash("--", f"{_SHORT} --")),
    (r"^halftime profile mypackage", Ours(f"{_SHORT} --size 32")),
    (r"^halftime profile( +#| --trace| .*--html profile.html --markdown)", Ours(_SHORT)),
    (r"^halftime profile", Ours(f"{_SHORT} --no-probes")),
    (r"^from halftime.testing import FAULTS, proxied", Python()),
    (r"^halftime show benchmarks/results/tune/", Ours()),  # the README shows what it prints
    (r"^halftime show benchmarks/", Bash("benchmarks/", f"{ROOT}/benchmarks/")),
    (r"^halftime show", Ours()),
    (
        r"^halftime replay .*--lora",
        Elsewhere("tests/verbs/replay/test_replay.py::test_what_lies_elsewhere_here_is_named"),
    ),
    (r"^halftime replay", Ours("--runs 1 --warmup 0")),
    # it asks the device, so it is refused where there is none
    (r"^halftime audit --check-rules", Ours(code=0 if torch.cuda.is_available() else 2)),
    (r"^halftime audit mypackage", Ours("--steps 2 --size 16 --set num_frames=9")),
    (
        r"^halftime audit \./cogvideox",
        Ours("--steps 2 --size 16 --set num_frames=8 --set max_sequence_length=16"),
    ),
    (r"^halftime audit", Ours("--steps 2")),
    (r"^halftime forecast .*--claim", Ours(code=1)),
    (r"^halftime forecast evaluate", Ours("--quiet")),
    (r"^halftime forecast", Ours()),
    (r"^halftime plan", Ours()),
    (r"^cat > prices.toml", Bash()),
    (r"^halftime trace", Ours()),
    (
        r"^halftime tune .*--visible",
        Elsewhere(
            "tests/verbs/tune/test_tune_certify.py::test_the_certificate_says_what_was_tested"
        ),
    ),
    (
        r"^halftime tune .*--memory",
        Elsewhere(
            "tests/verbs/tune/test_tune_memory.py::"
            "test_a_pipeline_is_made_to_fit_and_then_made_faster"
        ),
    ),
    (
        r"^halftime tune",
        Ours("--steps 2 --size 64 --budget 5m --prompts 2 --json tune.json", record="tune.json"),
    ),
    (
        r"^halftime captions calibrate",
        Elsewhere("tests/cli/test_cli_captions.py::test_calibrate_keeps_its_contract"),
    ),
    (
        r"^halftime captions (serve|collect)",
        Elsewhere("tests/cli/test_cli_captions.py::test_serve_and_collect_run"),
    ),
    (
        r"^halftime gate .*--bisect",
        Elsewhere("tests/cli/test_cli_gate.py::test_bisect_finds_the_commit_that_waits"),
    ),
    (
        r"^halftime gate accept .*--from",
        Elsewhere(f"{_ACCEPT}::test_all_that_a_gate_objected_to_becomes_lines"),
    ),
    (r"^halftime gate accept", Ours()),
    (
        r"^(git (fetch|-C \.\./history)|halftime gate .*--history)",
        Elsewhere("tests/cli/test_cli_gate.py::test_the_lines_of_git_that_the_page_shows"),
    ),
    (
        r"^halftime gate .*--json tests/gate.json",
        Elsewhere(f"{_STORED}::test_the_same_again_passes_and_starts_one_process"),
    ),
    (
        r"halftime_gate\(",
        Elsewhere("tests/test_pytest_plugin.py::test_the_example_gates_what_it_says"),
    ),
    (
        r"^halftime gate --against plan.toml",
        Ours("--pictures 0 --steps 2 --json gate.json", record="gate.json"),
    ),
    (
        r"^halftime gate .*--against main",
        Elsewhere("tests/cli/test_cli_gate.py::test_a_revision_end_to_end"),
    ),
    (
        r"^halftime gate .*--against 'diffusers==",
        Elsewhere(f"{_SIDES}::test_requirements_are_installed_once_before_the_others"),
    ),
    (
        r"^halftime gate .*--against ../before/.venv",
        Elsewhere(f"{_SIDES}::test_an_environment_gets_this_instrument"),
    ),
    (r"^halftime verify pictures/", Ours("--json verdict.json", record="verdict.json")),
    (
        r"^halftime verify",
        Ours("--prompts 2 --floor-prompts 1 --steps 2 --json verdict.json", record="verdict.json"),
    ),
    (
        r"^halftime gateway mock --delay 200ms",
        Elsewhere(f"{_LIVE}::test_errors_are_counted_and_drawn_by_seed"),
    ),
    (
        r"^halftime gateway mock",
        Elsewhere(f"{_LIVE}::test_the_mock_answers_with_the_size_asked_for"),
    ),
    (
        r"^halftime gateway .*--budget",
        Ours(f"{_LOADS} --budget 10s --json budget.json", record="budget.json"),
    ),
    (r"^halftime gateway .*--rate", Alone(f"{_LOADS} --rate 20")),
    (r"^halftime gateway", Ours(_LOADS)),
    (r"^halftime doctor", Ours()),
    (
        r"(^|\s)halftime serve\b",
        Elsewhere("tests/cli/test_cli_serve.py::test_options_become_settings"),
    ),
    (
        r"/profile/(start|stop)",
        Elsewhere(f"{_SERVE_FAULTS}::test_profiling_is_for_the_token_and_counts_pictures"),
    ),
    (r"_HALFTIME_COMPLETE=", Bash()),
    (r"^pip install '?halftime", Pip()),
    (r"^make demo", Make(f"ARGS='{_SHORT}'")),
    (r"^make (test|docs|docs-tables|bench|gpu-check|gpu-evidence|gpu-rehearsal)\b", Make(dry=True)),
    (r"^python -m benchmarks.gateway.page$", Bash("gateway.page", "gateway.page --check")),
    (
        r"^python -m benchmarks.gateway.real",
        NotHere("needs LiteLLM, Portkey and nginx; its results are committed"),
    ),
    (r"^(benchmarks/gateway/install.sh|apt-get install)", NotHere("changes the machine")),
    (
        r"^import halftime\n\n(session = halftime.profile|tuning = halftime.tune)",
        Python({"pipeline": _TINY.format("pipeline")}),
    ),
    (
        r"profile\(activities=",  # whose every step fills a trace with stacks
        Python(
            {
                "pipeline": f"{_TINY.format('tiny')}; "
                "pipeline = lambda prompt, **_: tiny(prompt, num_inference_steps=2)"
            }
        ),
    ),
    (
        r"assert_no_syncs_in_loop",
        Python(
            {
                "make_tiny_pipeline": "from tiny_pipelines import PIPELINES; "
                "make_tiny_pipeline = PIPELINES['sdxl'].build"
            }
        ),
    ),
    (
        r"^from halftime.records.recipe import Choice\n\npipe.enable_lora_hotswap",
        Elsewhere(
            "tests/fix/test_fix_lora.py::test_an_adapter_is_swapped_in_a_compiled_denoiser_without_compiling_anew"
        ),
    ),
    (r"^from halftime.fix.apply import reasons", Python({"pipe": _TINY.format("pipe")})),
    (
        r"^with halftime.applied\(pipe, \"plan.toml\"",
        Python({"pipe": f"import halftime; {_TINY.format('pipe')}"}),
    ),
    (
        r"^video = client\.videos\.",
        Elsewhere("tests/verbs/serve/test_serve_videos.py::test_the_official_client_waits_for_one"),
    ),
    (
        r"^import asyncio\nfrom halftime\.verbs\.serve",
        Elsewhere("tests/verbs/serve/test_serve_worker.py::test_from_warm_up_to_picture"),
    ),
    (
        r"^from openai import",
        Elsewhere("tests/verbs/serve/test_serve_openai.py::test_a_stream_previews_and_completes"),
    ),
    (
        r"^from halftime.verbs.tune.hard import calibrate",
        Elsewhere(
            "tests/verbs/tune/test_tune_hard.py::test_the_fix_decides_as_the_calibration_did"
        ),
    ),
    (r"^import random\nfrom itertools import islice\nfrom halftime\.base\.stats", Python()),
    (r"^import halftime\n", Python()),
)


@dataclass(frozen=True)
class Shown:
    """One command, program or file of a page, as the page shows it."""

    page: Path
    line: int
    kind: str  # 'sh', 'python' or 'toml'
    text: str
    output: tuple[str, ...] = ()  # what the page says it prints; '…' stands for anything

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}: {self.text.splitlines()[0]}"

    def way(self) -> Way | None:
        """How to run it, or None where no row knows it."""
        return next((way for pattern, way in WAYS if re.search(pattern, self.text)), None)


def shown(page: Path) -> list[Shown]:
    """Everything that a page shows, in its order."""
    source = page.read_text()
    items: list[Shown] = []
    for match in _BLOCK.finditer(source):
        line = source.count("\n", 0, match.start()) + 2
        body = textwrap.dedent(match[3])
        if match[2] in ("python", "toml"):
            items.append(Shown(page, line, match[2], body))
        else:
            items += [
                Shown(page, line + offset, "sh", text, output)
                for offset, text, output in _commands(body, match[2])
            ]
    return items


def _commands(block: str, kind: str) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    """Commands of a shell block with line and output: continued lines joined, here-documents
    whole."""
    lines = list(enumerate(block.splitlines()))
    while lines:
        offset, text = lines.pop(0)
        text = text.removeprefix("$ ") if kind == "console" else text
        while text.endswith("\\"):
            text = text[:-1] + lines.pop(0)[1].strip()
        here = re.search(r"<<'?(\w+)'?$", text)
        while here and not text.endswith(f"\n{here[1]}"):
            text += f"\n{lines.pop(0)[1]}"
        output: list[str] = []
        while kind == "console" and lines and not lines[0][1].startswith("$ "):
            output.append(lines.pop(0)[1])
        if text.strip() and not text.lstrip().startswith("#"):
            yield offset, text.removeprefix(".venv/bin/"), tuple(output)
