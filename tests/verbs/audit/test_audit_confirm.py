"""A fix is advised only where an audit with it waits less."""

from __future__ import annotations

import pytest

from halftime.cli.audit import _audit_with
from halftime.pipeline.load import load_or_take
from halftime.records import Workload
from halftime.records.audit import Audit, Site
from halftime.verbs.audit.confirm import confirmed
from halftime.verbs.audit.run import audit_loaded, on_cpu
from tiny_pipelines import PIPELINES


def site(line: int, count: int, fix: str | None = "schedule-table", in_loop: bool = True) -> Site:
    return Site(
        kind="item",
        direction="d2h",
        file="diffusers/schedulers/scheduling_x.py",
        line=line,
        count=count,
        in_loop=in_loop,
        stage="denoise",
        fix=fix,  # type: ignore[arg-type]
    )


def an_audit(*sites: Site) -> Audit:
    return Audit(pipeline="P", workload=Workload(steps=4), sites=sites)


def test_only_the_lines_that_the_fix_relieves_name_it() -> None:
    first = an_audit(site(1, 4), site(2, 4), site(3, 4), site(4, 1, None))
    second = an_audit(site(2, 4), site(3, 1))
    result = confirmed(first, lambda fix: second)
    assert [s.fix for s in result.sites] == ["schedule-table", None, "schedule-table", None]
    [finding] = result.findings
    assert finding.id == "fix-does-not-help"
    assert finding.where == ("diffusers/schedulers/scheduling_x.py:2",)
    assert finding.message == (
        "schedule-table takes none of these 4 waits away: as many are left with it"
    )


def test_what_helps_everywhere_is_left_alone() -> None:
    first = an_audit(site(1, 4), site(2, 1, "set-begin-index", in_loop=False))
    assert confirmed(first, lambda fix: an_audit()) == first


def test_a_fix_that_one_call_cannot_show_is_not_tried() -> None:
    first = an_audit(site(1, 1, "prompt-cache", in_loop=False))
    assert confirmed(first, lambda fix: pytest.fail(f"{fix} was tried")) == first


@pytest.mark.parametrize("clips", [False, True])
def test_a_scheduler_without_a_table_is_not_advised_one(clips: bool) -> None:
    from diffusers import DDIMScheduler

    tiny = PIPELINES["sd15"]
    pipeline = tiny.build()
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=clips)
    workload = Workload(steps=4)
    loaded = load_or_take(pipeline, on_cpu(workload))

    def audited() -> Audit:
        return audit_loaded(loaded, workload, tiny.arguments(4))

    result = confirmed(audited(), lambda fix: _audit_with(fix, pipeline, audited))
    assert {s.fix for s in result.sites if s.in_loop} == {None if clips else "schedule-table"}
    assert ["fix-does-not-help" in f.id for f in result.findings] == [True] * clips
