"""What to write instead of a line that waits, where no fix of halftime's takes the wait away."""

from __future__ import annotations

import re

_MASKED = re.compile(
    r"(?P<target>[\w.]+)\[(?P<mask>.+)\] (?P<operator>[-+*/]?)= (?P<value>.+?)(?:\s+#.*)?"
)
_BRANCH = re.compile(r"(?:el)?if (?P<condition>.+):(?:\s*#.*)?")


def advice_for(kind: str, code: str) -> str:
    """The line of torch that does not wait, in the words of the line that does; '' where there is
    none to give."""
    if kind == "mask-index":
        return _instead_of_mask(code)
    if kind == "item":
        return _instead_of_branch(code)
    return ""


def _instead_of_mask(code: str) -> str:
    """A mask is counted on the host, since a result of that many values is made."""
    masked = _MASKED.fullmatch(code)
    if masked is None:
        return "choose by torch.where(mask, new, old), which keeps the shape, and index by no mask"
    target, mask, operator, value = masked.group("target", "mask", "operator", "value")
    if f"[{mask}]" in value:
        value = value.replace(f"[{mask}]", "")
    new = f"{target} {operator} {value}" if operator else value
    return f"{target} = torch.where({mask}, {new}, {target})"


def _instead_of_branch(code: str) -> str:
    """`if` asks the host; compute both sides and choose on the device."""
    branch = _BRANCH.fullmatch(code)
    if branch is None:
        return ""
    return f"compute both sides and choose: x = torch.where({branch['condition']}, changed, x)"
