"""What torch.compile makes of a trace: neighbouring memory-bound operations become one kernel."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from halftime.verbs.forecast.ops import CONTRACTIONS, Op


def fuse(ops: Sequence[Op]) -> list[Op]:
    """The kernels after fusion: contractions as they are, and each fused group as one pointwise
    kernel.

    Two memory-bound operations fuse where data flows from one to the other and no contraction lies
    between (they have the same depth in contractions). A fused kernel reads what its group reads
    from outside and writes what is read outside it; a group norm within adds the pass for its
    moments. After Inductor's own rules, simplified.
    """
    producers, consumers = _flow(ops)
    depth = _depths(ops, producers)
    groups = _groups(ops, producers, depth)
    out = [op for op in ops if op.kind in CONTRACTIONS]
    out += [_kernel([ops[i] for i in members], set(members), consumers) for members in groups]
    return out


def _flow(ops: Sequence[Op]) -> tuple[list[list[int]], dict[int, list[int]]]:
    """For each operation its producers; for each storage number its consumers."""
    latest: dict[int, int] = {}
    producers: list[list[int]] = []
    consumers: dict[int, list[int]] = defaultdict(list)
    for index, op in enumerate(ops):
        producers.append([latest[number] for number in set(op.inputs) if number in latest])
        for number in set(op.inputs):
            consumers[number].append(index)
        for number in op.outputs:
            latest[number] = index
    return producers, consumers


def _depths(ops: Sequence[Op], producers: Sequence[Sequence[int]]) -> list[int]:
    depth = [0] * len(ops)
    for index, op in enumerate(ops):
        for source in producers[index]:
            boundary = ops[source].kind in CONTRACTIONS or op.kind in CONTRACTIONS
            depth[index] = max(depth[index], depth[source] + boundary)
    return depth


def _groups(
    ops: Sequence[Op], producers: Sequence[Sequence[int]], depth: Sequence[int]
) -> list[list[int]]:
    parent = list(range(len(ops)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for index, op in enumerate(ops):
        if op.kind in CONTRACTIONS:
            continue
        for source in producers[index]:
            if ops[source].kind not in CONTRACTIONS and depth[source] == depth[index]:
                parent[root(index)] = root(source)
    members: dict[int, list[int]] = defaultdict(list)
    for index, op in enumerate(ops):
        if op.kind not in CONTRACTIONS:
            members[root(index)].append(index)
    return list(members.values())


def _kernel(group: Sequence[Op], members: set[int], consumers: dict[int, list[int]]) -> Op:
    inside: dict[int, Op] = {}
    read: dict[int, int] = {}
    for op in group:
        for number, size in zip(op.inputs, op.input_bytes, strict=True):
            if number not in inside:
                read[number] = max(read.get(number, 0), min(size, op.read))
        inside |= dict.fromkeys(op.outputs, op)
    written = sum(
        op.written for number, op in inside.items() if _leaves(number, members, consumers)
    )
    moments = [op for op in group if op.name == "native_group_norm"]
    return Op(
        name=f"fused {len(group)}",
        kind="pointwise",
        element=group[0].element,
        read=sum(read.values()) + sum(op.written for op in moments),
        written=written,
        kernels=2 if moments else 1,
    )


def _leaves(number: int, members: set[int], consumers: dict[int, list[int]]) -> bool:
    readers = consumers.get(number)
    return not readers or any(reader not in members for reader in readers)
