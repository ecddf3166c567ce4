"""What `audit` writes instead of a line that waits."""

from __future__ import annotations

import pytest

from halftime.verbs.audit.advice import advice_for


@pytest.mark.parametrize(
    ("kind", "code", "words"),
    [
        ("mask-index", "x[mask] = 0.0", "x = torch.where(mask, 0.0, x)"),
        ("mask-index", "x[x > 1] *= 0.5  # clip", "x = torch.where(x > 1, x * 0.5, x)"),
        ("mask-index", "x[m] = y[m]", "x = torch.where(m, y, x)"),
        ("mask-index", "y = x[mask]", "keeps the shape"),
        ("item", "if x.norm() > 10:", "x = torch.where(x.norm() > 10, changed, x)"),
        ("item", "scale = x.norm().item()", ""),
        ("copy-to-host", "if x.cpu().any():", ""),
    ],
)
def test_the_line_that_does_not_wait(kind: str, code: str, words: str) -> None:
    advice = advice_for(kind, code)
    assert words in advice if words else advice == ""
