"""What each vendor's profiler calls things, as data: categories of events, and names of calls.

Kineto writes CUDA's and ROCm's activities into the same categories; Intel's, MTIA's and those of
`privateuse1` backends have their own.
"""

from __future__ import annotations

import re

# Until 1.11 torch began them with capitals.
COPY_CATEGORIES = ("gpu_memcpy", "Memcpy")
FILL_CATEGORIES = ("gpu_memset", "Memset")
DEVICE_CATEGORIES = (
    "kernel",
    "concurrent_kernel",
    "mtia_ccp_events",
    "mtia_insight",
    "privateuse1_kernel",
    "Kernel",
    *COPY_CATEGORIES,
    *FILL_CATEGORIES,
)
RUNTIME_CATEGORIES = (
    "cuda_runtime",
    "cuda_driver",
    "hip_runtime",
    "runtime",
    "driver",
    "xpu_runtime",
    "xpu_driver",
    "mtia_runtime",
    "glow_runtime",
    "privateuse1_runtime",
    "privateuse1_driver",
    "Runtime",
)
ANNOTATION_CATEGORIES = ("user_annotation",)
FRAME_CATEGORIES = ("python_function",)
OPERATOR_CATEGORIES = ("cpu_op", "Operator")
HOST_CATEGORIES = (*OPERATOR_CATEGORIES, *ANNOTATION_CATEGORIES, *FRAME_CATEGORIES)
# Left out on purpose: the device's view of what the host's events show too; the profiler's own;
# arrows.
LEFT_OUT_CATEGORIES = ("cuda_sync", "gpu_user_annotation", "overhead", "Trace", "ac2g", "fwdbwd")
CATEGORIES = (
    *DEVICE_CATEGORIES,
    *RUNTIME_CATEGORIES,
    *HOST_CATEGORIES,
    *LEFT_OUT_CATEGORIES,
    "cpu_instant_event",
)

# On MTIA's queues beside the work itself: markers that wait for other queues.
NOT_WORK = re.compile(r"^event_(wait|record)$|^Event#")

# Calls in which the host waits for the device.
WAIT = re.compile(
    r"(Stream|Device|Event|Ctx|Context|Queue|Fence|Host|CommandList|CommandQueue)_?Synchronize"
    r"|^(cuda|hip)Memcpy(2D|3D|ToSymbol|FromSymbol)?(_v\d+|_ptds)?$|^cuMemcpy(HtoD|DtoH)_v2$"
    r"|hipMemcpyWithStream"
    r"|^synchronize|^(ur|pi)(Event(s?)Wait|QueueFinish)|Synchronize(Stream|Device|Event)"
)
# Calls that replay a recorded graph.
GRAPH = re.compile(r"Graph_?Launch|GraphExec.*Launch|EnqueueCommandBuffer")
# Calls that ask the driver for memory or give it back, each of which can stop the device.
ALLOCATOR = re.compile(
    r"^(cuda|hip)(Malloc|Free)(Host|Managed|Pitch|Array|3D)?(_v\d+)?$"
    r"|^(cuda|hip)(HostAlloc|HostRegister|HostFree|HostUnregister|ExtMallocWithFlags)$"
    r"|^(cu|hip)Mem(Alloc|Free|Create|Map|Unmap|Release|SetAccess|HostAlloc)"
    r"|^zeMem(Alloc|Free)|USM(Device|Host|Shared)?(Alloc|Free)|^aclrt(Malloc|Free)"
)
# Kernels that move data between devices, by NCCL, RCCL and their kin.
COMMUNICATION = re.compile(
    r"nccl|rccl|oneccl|hccl|msccl|allreduce|all_reduce|all_gather|allgather|reduce_scatter"
    r"|reducescatter|all_?to_?all|cross_device_reduce|nvshmem|deep_ep",
    re.IGNORECASE,
)
COPY = re.compile(r"memcpy|dma_request|amd_rocclr_copy", re.IGNORECASE)
DIRECTIONS = {
    "HtoD": re.compile(r"HtoD|H2D|HostToDevice|HOST_TO_DEVICE|Host -> Device"),
    "DtoH": re.compile(r"DtoH|D2H|DeviceToHost|DEVICE_TO_HOST|Device -> Host"),
    "DtoD": re.compile(r"DtoD|D2D|DeviceToDevice|PtoP|Device -> Device"),
}
