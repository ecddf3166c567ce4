"""The rules, case by case: what torch warns of under set_sync_debug_mode on a GPU, here without
one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from halftime.base.errors import UnknownDevice
from halftime.cli import _run
from halftime.report.audit import rules_report_of
from halftime.verbs.audit.cases import CASES, Case
from halftime.verbs.audit.check import check_rules, device_answer, shadow_answer
from halftime.verbs.audit.mode import ShadowDevice

BY_NAME = {case.name: case for case in CASES}


def on_gpu(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape, device="cuda")


@pytest.mark.parametrize("name", BY_NAME)
def test_the_rules_judge_as_torch_does(name: str) -> None:
    assert shadow_answer(BY_NAME[name]) == BY_NAME[name].waits


def test_torchs_own_eighteen_are_all_there() -> None:
    torchs = [case for case in CASES if case.torchs]
    assert (len(torchs), sum(case.waits for case in torchs)) == (18, 8)
    assert len(BY_NAME) == len(CASES)


@pytest.mark.gpu
@pytest.mark.parametrize("name", [case.name for case in CASES if case.watched])
def test_the_rules_agree_with_torchs_own_mode_on_a_gpu(name: str) -> None:
    assert device_answer(BY_NAME[name]) == shadow_answer(BY_NAME[name])


def test_without_a_device_the_check_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a device here")
    with pytest.raises(UnknownDevice, match="torch sees none here"):
        check_rules()
    assert _run(["audit", "--check-rules"], debug=False) == 2
    assert "needs none" in capfd.readouterr().err


def test_a_rule_that_a_device_contradicts_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def answers(case: Case) -> bool:
        return case.waits != (case.name == "unique")

    found = check_rules(answers)
    assert [case.name for case in found.wrong] == ["unique"]
    assert rules_report_of(found).title.endswith(
        f"{len(found.cases) - 1} of {len(found.cases)} cases agree"
    )
    # torch's mode does not watch it
    assert "synchronize" not in {case.name for case in found.cases}

    monkeypatch.setattr("halftime.verbs.audit.check.check_rules", lambda: found)
    assert _run(["audit", "--check-rules", "--json", str(tmp_path / "r.json")], debug=False) == 1
    assert "Wrong: unique." in capfd.readouterr().out
    assert len(json.loads((tmp_path / "r.json").read_text())["cases"]) == len(found.cases)
    agreeing = check_rules(lambda case: case.waits)
    monkeypatch.setattr("halftime.verbs.audit.check.check_rules", lambda: agreeing)
    assert _run(["audit", "--check-rules", "--quiet"], debug=False) == 0


def test_what_a_device_would_refuse_is_refused() -> None:
    with (
        ShadowDevice(),
        pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"),
    ):
        _ = on_gpu(4) + torch.ones(4)
    with (
        ShadowDevice(),
        pytest.raises(RuntimeError, match="'cuda' device type for generator but found 'cpu'"),
    ):
        torch.randn(4, device="cuda", generator=torch.Generator("cpu"))
    with ShadowDevice(), pytest.raises(TypeError, match="can't convert cuda:0"):
        on_gpu(4).numpy()


def test_values_are_real() -> None:
    with ShadowDevice():
        table = torch.arange(6.0, device="cuda").reshape(2, 3)
        assert table.device == torch.device("cuda", 0)
        assert table.sum().item() == 15
        assert table.t_().shape == (3, 2)
        assert (table[table > 2]).tolist() == [3.0, 4.0, 5.0]
