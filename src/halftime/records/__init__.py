"""Frozen plain data: what halftime measures, finds and decides. One file a family of records.

Every record is a `msgspec.Struct`: typed, immutable, compared by value, written as JSON or TOML and
read back strictly by `halftime.base.store`. A record that is a file of its own has a `schema`
number; its history stands above the class. Units are seconds, bytes, FLOPs and ratios throughout.
"""

from halftime.records.base import Json, Record
from halftime.records.environment import Environment
from halftime.records.finding import Finding
from halftime.records.session import (
    ColdStart,
    Communication,
    CompileReport,
    DeviceTotals,
    HostGap,
    KernelTotal,
    LedgerRow,
    MemoryGrowth,
    MemoryReport,
    OperationRate,
    Recompile,
    Run,
    Session,
    Span,
    StageMemory,
    StageOnDevice,
    StepStats,
    SyncWait,
    TracedDevice,
    TracedRank,
    Transfer,
    WeightMoves,
)
from halftime.records.workload import Workload

__all__ = [
    "ColdStart",
    "Communication",
    "CompileReport",
    "DeviceTotals",
    "Environment",
    "Finding",
    "HostGap",
    "Json",
    "KernelTotal",
    "LedgerRow",
    "MemoryGrowth",
    "MemoryReport",
    "OperationRate",
    "Recompile",
    "Record",
    "Run",
    "Session",
    "Span",
    "StageMemory",
    "StageOnDevice",
    "StepStats",
    "SyncWait",
    "TracedDevice",
    "TracedRank",
    "Transfer",
    "WeightMoves",
    "Workload",
]
