"""From timed calls to a Session: the ledger, the findings, and how far to trust them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from halftime.base.ledger import Measured, ledger, steady_wall, steps_taken
from halftime.base.version import version
from halftime.pipeline.device import device_of
from halftime.pipeline.load import LoadedPipeline
from halftime.records import CompileReport, Environment, LedgerRow, Run, Session, Workload
from halftime.records.stages import COMPILATION
from halftime.upstream import pytorch
from halftime.verbs.profile import compilation
from halftime.verbs.profile.advice import refused_fixes
from halftime.verbs.profile.clock import remarks_on
from halftime.verbs.profile.compilation import CompileCounters
from halftime.verbs.profile.doubts import doubts
from halftime.verbs.profile.evidence import NOT_PROBED, Probed, ProfileEvidence
from halftime.verbs.profile.facts import facts
from halftime.verbs.profile.findings import findings
from halftime.verbs.profile.thumbnails import PictureFacts
from halftime.verbs.profile.users_code import COMPILE


@dataclass(frozen=True)
class TimedCall:
    """One call, and what dynamo had compiled by its end."""

    measured: Measured
    compiled: CompileCounters
    pictures: tuple[str, ...] = ()  # of the last call alone
    drawing: PictureFacts | None = None  # likewise
    held_bytes: int = 0  # by tensors and pictures after it, where it was looked at


@dataclass(frozen=True)
class MeasuredCalls:
    """What was called, where, and what came of it. `record` is the workload as it is kept."""

    loaded: LoadedPipeline
    record: Workload
    environment: Environment
    first: TimedCall
    steady: Sequence[TimedCall]
    compiled_before: CompileCounters
    compiled_warm: CompileCounters
    neighbours: str = ""  # whose work ran beside it

    def rows(self) -> tuple[LedgerRow, ...]:
        """The ledger of the steady calls, with the first beside them."""
        return ledger([call.measured for call in self.steady], self.first.measured)

    def session(
        self,
        rows: tuple[LedgerRow, ...],
        probed: Probed = NOT_PROBED,
    ) -> Session:
        """The session around these rows, to which probes may have added."""
        pipeline, environment = self.loaded.pipeline, self.environment
        measured = [call.measured for call in self.steady]
        walls = [call.run.wall_seconds for call in measured]
        workload = msgspec.structs.replace(self.record, device=environment.device)
        report = compilation.report(
            pipeline, self.compiled_before, self.compiled_warm, self.steady[-1].compiled
        )
        evidence = self._evidence(rows, probed, report)
        return Session(
            halftime=version(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            model=self.loaded.name,
            pipeline=type(pipeline).__name__,
            wall_seconds=evidence.wall_seconds,
            first_call_seconds=evidence.first_call_seconds,
            ledger=rows,
            findings=findings(evidence),
            environment=environment,
            workload=workload,
            workload_hash=workload.content_hash(),
            runs=tuple(call.run for call in measured),
            first_run=self.first.measured.run,
            memory=probed.memory,
            moves=probed.moves,
            transfers=probed.transfers if probed.moves else (),
            pictures=self.steady[-1].pictures,
            compilation=report,
            notes=(
                *self.loaded.notes,
                *remarks_on(device_of(pipeline)),
                *unequal_steps(measured[-1].run, workload.steps),
            ),
            doubts=doubts(
                walls, rows, environment, traced=pytorch.is_tracing(), neighbours=self.neighbours
            ),
        )

    def _evidence(
        self, rows: tuple[LedgerRow, ...], probed: Probed, report: CompileReport | None
    ) -> ProfileEvidence:
        """What the rules may look at."""
        pipeline, environment = self.loaded.pipeline, self.environment
        measured = [call.measured for call in self.steady]
        return ProfileEvidence(
            wall_seconds=steady_wall(measured),
            first_call_seconds=self.first.measured.run.wall_seconds,
            ledger=rows,
            facts=facts(pipeline, environment.settings),
            compilation=report,
            load_average=environment.load_average or 0.0,
            cores=environment.cores,
            spans=measured[-1].run.spans,
            compiled_for=_compiled_for(measured),
            drawing=self.steady[-1].drawing,
            steps=steps_taken(measured[-1].run.spans),
            adapter_share=probed.adapter_share,
            memory=probed.memory,
            moves=probed.moves,
            transfers=probed.transfers,
            guidance=probed.guidance,
            refused=refused_fixes(pipeline),
        )


def _compiled_for(calls: Sequence[Measured]) -> tuple[str, ...]:
    """The user's lines for which torch.compile worked in these calls, the costliest first."""
    seconds: Counter[str] = Counter()
    for call in calls:
        for span in call.run.spans:
            if span.stage == COMPILATION and (line := span.name.removeprefix(COMPILE).strip()):
                seconds[line] += span.seconds  # type: ignore[assignment]  # as typeshed has it
    return tuple(line for line, _ in seconds.most_common())


def unequal_steps(run: Run, requested: int) -> tuple[str, ...]:
    """A note where the loop took another number of steps than the workload says: an argument that
    never arrived, or a solver that adds steps."""
    steps = steps_taken(run.spans)
    if steps in (0, requested):
        return ()
    return (f"{requested} steps were asked for, and the scheduler stepped {steps} times",)
