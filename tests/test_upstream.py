"""Each private name of torch, diffusers and transformers that halftime relies on: that it is there,
and that it does what we rely on. A docstring says what breaks where its test fails."""

from __future__ import annotations

import ast
import ctypes
import functools
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import diffusers
import pytest
import torch
from diffusers import (
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionPipeline,
)
from torch import nn

from halftime.base.errors import UnsupportedVersion
from halftime.pipeline.arguments import drawn_by_blocks
from halftime.pipeline.signature import call_parameters
from halftime.records.stages import PIPELINE_METHODS
from halftime.upstream import diffusers_caches, hugging_face, pytorch
from tiny_pipelines import BREADTH, FAMILIES, PIPELINES, TinyPipeline
from tiny_pipelines.checkpoint import save_checkpoint
from tiny_pipelines.files import MODULAR

SOURCE = Path(__file__).parent.parent / "src" / "halftime"
CPU = torch.device("cpu")


# ---- every entry has a test, and nothing is used elsewhere


def entries(module: object) -> set[str]:
    source = ast.parse(inspect.getsource(module))  # type: ignore[arg-type]
    names = {node.name for node in source.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for node in source.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.ImportFrom):  # `from x import name as name` is an entry too
            names |= {alias.asname for alias in node.names if alias.asname}
    names.discard("T")
    return {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize("module", [pytorch, hugging_face, diffusers_caches])
def test_each_entry_is_named_in_a_test(module: object) -> None:
    tests = Path(__file__).read_text()
    short = module.__name__.rpartition(".")[2]  # type: ignore[attr-defined]
    untested = {name for name in entries(module) if not re.search(rf"{short}\.{name}\b", tests)}
    assert not untested


# Private names that are Python's own or NamedTuple's, which are documented.
DOCUMENTED = {"_replace", "_asdict", "_fields", "_exit", "_getframe"}
OTHERS = {
    "_describe_range",  # click's, replaced in a range of ours
    "_Hash",  # hashlib's type, which has no public name
    "_predictors",  # scikit-learn's trees, checked against its own predictions where they are read
    "_baseline_prediction",
}
LIBRARIES = {"torch", "diffusers", "transformers", "accelerate", "peft"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def own_names(tree: ast.Module) -> set[str]:
    """Private names that a file of ours defines: functions, variables, and attributes of `self`."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names |= {node.attr} if ast.unparse(node.value) in ("self", "cls") else set()
    return names


def names_of_parents(tree: ast.Module) -> set[str]:
    """Private names of the modules of ours that a file imports from: its classes may inherit."""
    modules = {
        node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("halftime.")
    }
    files = [SOURCE.parent / f"{name.replace('.', '/')}.py" for name in modules if name]
    return {
        name
        for file in files
        if file.exists()
        for name in own_names(ast.parse(file.read_text()))
        if is_private(name)
    }


def private_names(path: Path) -> Iterator[str]:
    """Private names in a file that none of our files defines: attributes, imports, and those that
    getattr, hasattr, setattr and dicts of attributes name as strings."""
    tree = ast.parse(path.read_text())
    own = own_names(tree) | names_of_parents(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            names = [node.attr]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in LIBRARIES:
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [part for alias in node.names for part in alias.name.split(".")]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            named = node.func.id in ("getattr", "hasattr", "setattr", "delattr", "patched")
            names = [
                argument.value
                for argument in node.args[1:2]
                if named and isinstance(argument, ast.Constant) and isinstance(argument.value, str)
            ]
        else:
            continue
        for name in names:
            if is_private(name) and name not in own | DOCUMENTED | OTHERS:
                yield f"{path.relative_to(SOURCE)}:{node.lineno} {name}"


def test_private_names_of_the_libraries_are_used_in_upstream_alone() -> None:
    files = [path for path in SOURCE.rglob("*.py") if path.parent.name != "upstream"]
    assert len(files) > 200
    assert not [name for path in files for name in private_names(path)]


def test_the_scan_finds_each_way_to_name_one(tmp_path: Path) -> None:
    ways = [
        "torch._dynamo.reset()",
        "from torch.utils import _pytree",
        "from diffusers.hooks._common import X",
        "import torch._dynamo",
        "pipe._callback",
        "getattr(pipe, '_interrupt', None)",
    ]
    path = SOURCE / "fix" / "scanned.py"
    for way in ways:
        tree = SimpleNamespace(
            read_text=lambda way=way: way, relative_to=lambda _: path.relative_to(SOURCE)
        )
        assert list(private_names(tree)), way  # type: ignore[arg-type]


# ---- torch: nested values


def test_nested_values_are_walked() -> None:
    """prompt-cache, guidance-interval, loop-graph, the audit and the forecast read tensors out of
    model outputs with these."""
    from diffusers.models.modeling_outputs import AutoencoderKLOutput

    nested = {"a": [torch.zeros(1), 2], "b": (torch.ones(1), None)}
    assert len([x for x in pytorch.tree_leaves(nested) if isinstance(x, torch.Tensor)]) == 2
    doubled = pytorch.tree_map(lambda x: x * 2 if isinstance(x, torch.Tensor) else x, nested)
    assert doubled["b"][0] == 2
    leaves, spec = pytorch.tree_flatten(nested)
    assert pytorch.tree_unflatten(leaves, spec)["a"][1] == 2
    assert spec == pytorch.tree_flatten({"a": [3, 4], "b": (5, None)})[1]
    output = AutoencoderKLOutput(latent_dist=torch.zeros(1))
    assert isinstance(pytorch.tree_map(lambda x: x, output), AutoencoderKLOutput)


# ---- torch: operations, tensors and storages


class Names(pytorch.TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[tuple[str, str]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        assert isinstance(func, pytorch.Operation)
        self.names.append((pytorch.operation_name(func), pytorch.overload_name(func)))
        return func(*args, **(kwargs or {}))


def test_a_mode_sees_each_operation_and_its_name() -> None:
    """The audit's rules and the forecast's trace know operations by these names."""
    with Names() as mode:
        _ = torch.zeros(2) + torch.ones(2)
    assert ("aten::add", "Tensor") in mode.names


class Wrapped(torch.Tensor):
    """A tensor that says it is on a device that does not exist."""

    __torch_function__ = pytorch.no_torch_function  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        raise RuntimeError(f"dispatched {func}")


def test_a_wrapper_tensor_says_it_is_elsewhere() -> None:
    """The whole audit stands on it: without it no tensor can be on the shadow device."""
    inner = torch.arange(6.0).reshape(2, 3).t()
    wrapper = pytorch.wrapper_tensor(Wrapped, inner, torch.device("meta"))
    assert (type(wrapper), wrapper.device.type) == (Wrapped, "meta")
    assert (wrapper.shape, wrapper.stride(), wrapper.dtype) == ((3, 2), (1, 3), torch.float32)


def test_a_wrapper_goes_straight_to_its_dispatcher() -> None:
    """Without `no_torch_function` an audited operation would be recorded twice."""
    wrapper = pytorch.wrapper_tensor(Wrapped, torch.zeros(2), torch.device("meta"))
    with pytest.raises(RuntimeError, match=r"dispatched aten\.add\.Tensor"):
        _ = wrapper + 1
    assert Wrapped.__torch_function__ is pytorch.no_torch_function


def test_data_of_a_subclass_can_be_set_as_that_of_a_plain_tensor() -> None:
    """`module.to('cuda')` on the shadow device sets `.data`; it would lose the tensor inside."""
    target, source = torch.zeros(2), torch.ones(2).as_subclass(Wrapped)
    with pytorch.plain_tensor_functions():
        torch.Tensor.data.__set__(target, source)
    assert type(target) is torch.Tensor


def test_metadata_can_be_changed_alone() -> None:
    """In-place views (`unsqueeze_`, `t_`) of a shadow tensor would keep their old shape."""
    wrapper = pytorch.wrapper_tensor(Wrapped, torch.zeros(2, 3), torch.device("meta"))
    with pytorch.metadata_only():
        torch.ops.aten.t_.default(wrapper)
    assert wrapper.shape == (3, 2)


def test_modes_can_be_switched_off() -> None:
    """`metadata_only` would call the audit again for its own bookkeeping."""
    with Names() as mode, pytorch.no_dispatch():
        torch.zeros(2)
    assert mode.names == []


def test_tensors_from_lists_are_lifted_from_the_cpu() -> None:
    """`torch.tensor([...], device='cuda')` would be made behind the dispatcher, and its copy to the
    device would be missing from an audit."""
    before = torch._C._only_lift_cpu_tensors()
    with pytorch.lifting_cpu_tensors_only():
        assert torch._C._only_lift_cpu_tensors() is True
    assert torch._C._only_lift_cpu_tensors() is before


def test_a_kernel_is_replaced_for_a_while() -> None:
    """`torch.tensor([device scalars])` reads values where only the CUDA kernel sees it."""
    with pytorch.kernel_replaced("_local_scalar_dense", lambda tensor: 7, "Meta"):
        assert torch.zeros((), device="meta").item() == 7
    with pytest.raises(RuntimeError, match="meta"):
        torch.zeros((), device="meta").item()


def test_views_of_one_storage_have_one_key() -> None:
    """The forecast's peak memory counts each storage once, on the meta device too."""
    base = torch.zeros(4, device="meta")
    key = pytorch.storage_key(base.untyped_storage())
    assert key == pytorch.storage_key(base[1:].untyped_storage())
    assert key != pytorch.storage_key(torch.zeros(4, device="meta").untyped_storage())


def test_a_storage_is_gone_when_its_last_view_is() -> None:
    """The gate's peak of live bytes rests on it."""
    base = torch.zeros(4)
    reference, view = pytorch.StorageWeakRef(base.untyped_storage()), base[1:]
    del base
    assert not reference.expired()
    del view
    assert reference.expired()


def test_writes_to_a_tensor_are_counted() -> None:
    """prompt-cache would give old embeddings after the text encoder was trained in place."""
    tensor = torch.zeros(2)
    before = pytorch.writes_to(tensor)
    tensor.add_(1)
    assert pytorch.writes_to(tensor) != before
    with torch.inference_mode():
        assert pytorch.writes_to(torch.zeros(2)) is None


def test_attention_on_a_cpu_is_the_operation_that_flops_are_counted_for() -> None:
    """The ledger would count no FLOPs for attention on a CPU."""
    with Names() as mode, torch.no_grad():
        x = torch.randn(1, 2, 8, 16)
        nn.functional.scaled_dot_product_attention(x, x, x)
    name = str(pytorch.cpu_attention())
    assert name.removeprefix("aten.") in {n.removeprefix("aten::") for n, _ in mode.names}


# ---- torch: modules


def test_parameters_and_buffers_are_in_tables() -> None:
    """A fix puts weights back by these; without them every fix that converts weights breaks."""
    norm = nn.BatchNorm1d(2)
    parameters, buffers = pytorch.tensor_tables(norm)
    assert parameters["weight"] is norm.weight
    assert buffers["running_mean"] is norm.running_mean
    parameters["weight"] = other = nn.Parameter(torch.zeros(2))
    assert norm.weight is other


def test_a_module_compiled_in_place_runs_its_compiled_call() -> None:
    """The profile would wrap `forward`, be compiled itself, and show a recompile for each span."""
    module = nn.Linear(1, 1)
    assert pytorch.call_entry(module) == "forward"
    module.compile(backend="eager")
    assert pytorch.call_entry(module) == pytorch.COMPILED_CALL
    vars(module)[pytorch.COMPILED_CALL] = lambda x: "called"
    assert module(torch.zeros(1)) == "called"


def test_a_wrapped_module_is_taken_out_of_its_wrapper() -> None:
    """A fix would look for a model's methods on the class of torch's wrapper."""
    inside = nn.Linear(1, 1)
    assert pytorch.uncompiled(inside) is inside
    assert pytorch.uncompiled(torch.compile(inside, backend="eager")) is inside


def test_a_module_that_was_wrapped_is_known_wherever_the_wrapper_is() -> None:
    module = nn.Linear(1, 1)
    holder = [torch.compile(module, backend="eager")]
    plain = nn.Linear(1, 1)
    wrapped = pytorch.wrapped_modules()
    assert id(module) in wrapped
    assert id(holder[0]) not in wrapped
    assert id(plain) not in wrapped


def test_a_module_that_is_compiled_whole_has_nothing_compiled_inside() -> None:
    """The profile would call a VAE compiled whose `decode` is not."""
    assert not pytorch.is_compiled_whole(nn.Sequential(nn.Linear(1, 1)))
    wrapped = torch.compile(nn.Sequential(nn.Linear(1, 1)), backend="eager")
    assert pytorch.is_compiled_whole(wrapped)
    inside = nn.Sequential(nn.Linear(1, 1))
    inside[0].compile(backend="eager")
    assert not pytorch.is_compiled_whole(inside)


def test_compilations_are_watched() -> None:
    """The ledger has a row for them: their seconds would count as computing."""
    moments: list[str] = []
    function = torch.compile(lambda x: x + 1, backend="eager")
    with pytorch.compilations_watched(
        lambda: moments.append("begins"), lambda: moments.append("ends")
    ):
        function(torch.zeros(2))
    assert moments == ["begins", "ends"]


def test_a_compiled_module_is_known() -> None:
    """The audit would call a compiled pipeline free of waits, and the profile would miscount its
    FLOPs."""
    inside = nn.Sequential(nn.Linear(1, 1))
    assert not pytorch.is_compiled(inside)
    assert pytorch.is_compiled(nn.Sequential(torch.compile(inside, backend="eager")))
    inside[0].compile(backend="eager")
    assert pytorch.is_compiled(inside)
    assert not pytorch.is_compiled("a tokenizer")


def test_a_method_that_was_compiled_is_known() -> None:
    """The profile would go on asking for the line `vae.decode = torch.compile(vae.decode)` where
    it stands."""
    inside = nn.Linear(1, 1)
    holder = nn.Sequential(inside)
    assert pytorch.compiled_methods(inside) == ()
    inside.forward = torch.compile(inside.forward, backend="eager")
    assert pytorch.compiled_methods(inside) == ("forward",)
    assert pytorch.is_compiled(holder)


# ---- torch: torch.compile


def test_dynamo_counts_graphs_breaks_and_reasons() -> None:
    """`serve` would call itself warm while dynamo compiles, and `profile` would report no
    recompiles."""
    pytorch.load_dynamo()
    assert pytorch.dynamo_is_loaded()
    torch.compiler.reset()

    def function(x: torch.Tensor, flag: int) -> torch.Tensor:
        return x + flag

    before = pytorch.dynamo_counters()["stats"]["unique_graphs"]
    compiled = torch.compile(function, backend="eager", dynamic=False)
    compiled(torch.zeros(2), 1)
    compiled(torch.zeros(3), 1)
    counters = pytorch.dynamo_counters()
    assert counters["stats"]["unique_graphs"] == before + 2
    assert {"calls_captured"} <= counters["stats"].keys()
    assert isinstance(sum(counters["graph_break"].values()), int)
    last = pytorch.compilations()[-1]
    assert last.co_name == "function"
    assert last.start_time_us
    assert last.entire_frame_compile_time_s is not None
    assert "size mismatch" in last.recompile_reason


def test_dynamo_may_be_allowed_more_graphs() -> None:
    """`serve` pins more shapes than dynamo's limit of eight, beyond which it silently runs
    eagerly."""
    config = torch._dynamo.config
    before = config.recompile_limit, config.accumulated_recompile_limit
    try:
        pytorch.allow_recompiles(before[0] + 5)
        assert config.recompile_limit == before[0] + 5
        assert config.accumulated_recompile_limit >= 8 * config.recompile_limit
        pytorch.allow_recompiles(1)
        assert config.recompile_limit == before[0] + 5
    finally:
        config.recompile_limit, config.accumulated_recompile_limit = before


def test_whether_anything_can_be_compiled_is_known() -> None:
    """The compile fixes would be refused everywhere, or crash where Python is too new."""
    assert pytorch.can_compile() is True


def test_a_mode_stands_for_options() -> None:
    """denoiser-compile with a mode and freezing: torch refuses `mode` beside `options`."""
    assert pytorch.mode_options("reduce-overhead") == {"triton.cudagraphs": True}
    assert "max_autotune" in pytorch.mode_options("max-autotune-no-cudagraphs")


def test_inductors_folder_can_be_set_for_a_while(tmp_path: Path) -> None:
    """Compile artefacts would be empty, and a server would compile for minutes at each start."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    before = cache_dir()
    with pytorch.inductor_folder(tmp_path):
        assert cache_dir() == str(tmp_path)
    assert cache_dir() == before


def test_the_onnx_exporter_logs_under_its_name() -> None:
    """`halftime tune` would print a warning for every operator of a package not installed."""
    from importlib.util import find_spec

    assert find_spec(pytorch.ONNX_EXPORTER_LOG) is not None


# ---- torch: the machine and the process


def test_the_processors_bfloat16_units_are_known() -> None:
    """Findings would propose bfloat16 on processors that only emulate it, and previews be slow."""
    assert isinstance(pytorch.has_avx512_bf16(), bool)
    assert isinstance(pytorch.has_amx(), bool)


def test_a_running_profiler_is_noticed() -> None:
    """A session timed under a profiler would carry no doubt."""
    assert not pytorch.is_tracing()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
        assert pytorch.is_tracing()


def test_out_of_memory_is_told_from_other_errors() -> None:
    """`profile` and `serve` would end in a traceback without advice."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert pytorch.is_out_of_memory(caught.value)
    assert pytorch.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert pytorch.is_out_of_memory(MemoryError())
    assert not pytorch.is_out_of_memory(RuntimeError("shape mismatch"))


# ---- torch: a CUDA device that is not there


def test_cuda_is_initialised_by_the_function_that_an_audit_replaces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without it `torch.cuda.*` raises within an audit on a machine without a GPU."""
    calls: list[int] = []
    monkeypatch.setattr(torch.cuda, pytorch.CUDA_INITIALISATION, lambda: calls.append(1))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    torch.cuda.init()
    assert calls == [1]


def test_the_device_guards_are_found_in_torchs_library() -> None:
    """No audit at all: c10 refuses tensors on cuda:0 without a guard. All of guard.py stands on
    these symbols."""
    guards = pytorch.device_guards()
    assert len(guards) == pytorch.CUDA_GUARD + 1
    assert guards[0]  # the CPU's own
    assert isinstance(guards, ctypes.Array)
    pytorch.forget_cuda_initialisation()
    assert not torch.cuda.is_initialized()


def test_a_cuda_guard_is_there_for_a_while() -> None:
    """As above, and after an audit CUDA would be broken."""
    from halftime.verbs.audit import guard

    before = pytorch.device_guards()[pytorch.CUDA_GUARD]
    with guard.installed():
        assert pytorch.device_guards()[pytorch.CUDA_GUARD]
    assert pytorch.device_guards()[pytorch.CUDA_GUARD] == before


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_a_torch_without_these_symbols_is_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    """Windows mangles names in another way; a macOS library has another name."""
    monkeypatch.setattr("sys.platform", platform)
    for function in (pytorch.device_guards, pytorch.forget_cuda_initialisation):
        with pytest.raises(UnsupportedVersion, match=f"for {platform} .* other commands"):
            function()


# ---- diffusers: pipelines


@functools.cache
def sd15() -> StableDiffusionPipeline:
    return PIPELINES["sd15"].build()


def test_progress_bars_are_configured_in_an_attribute() -> None:
    """progress-bar-off would do nothing, and cold starts and verify would draw bars."""
    pipeline = PIPELINES["sd15"].build()
    pipeline.set_progress_bar_config(disable=True, desc="x")
    assert vars(pipeline)[hugging_face.PROGRESS_BAR_CONFIG] == {"disable": True, "desc": "x"}
    vars(pipeline)[hugging_face.PROGRESS_BAR_CONFIG] = {"disable": False, "desc": "y"}
    assert pipeline.progress_bar(total=1).desc.startswith("y")


def test_old_pipelines_encode_prompts_by_another_name() -> None:
    """Their text encoding would stand in the ledger as unexplained."""
    assert hasattr(StableDiffusionPipeline, hugging_face.OLD_ENCODE_PROMPT)
    assert dict(PIPELINE_METHODS)[hugging_face.OLD_ENCODE_PROMPT] == "encode_prompt"


def test_a_pipeline_knows_where_it_executes() -> None:
    """Under offloading everything would be measured and planned for the CPU."""
    assert hugging_face.execution_device(sd15()) == CPU
    assert isinstance(
        inspect.getattr_static(StableDiffusionPipeline, hugging_face.EXECUTION_DEVICE), property
    )
    assert hugging_face.execution_device(SimpleNamespace()) is None  # type: ignore[arg-type]


def test_packed_latents_are_unpacked() -> None:
    """`serve` would show no previews for Flux and its kin."""
    flux = PIPELINES["flux"].build()
    packed = torch.zeros(1, (32 // 2 // flux.vae_scale_factor) ** 2, 16)
    unpacked = hugging_face.unpacked_latents(flux, packed, 32, 32)
    assert unpacked is not None
    assert unpacked.shape == (1, 4, 32 // flux.vae_scale_factor, 32 // flux.vae_scale_factor)
    assert hugging_face.unpacked_latents(sd15(), packed, 32, 32) is None


def test_a_pipeline_is_loaded_in_the_dtype_that_it_is_given() -> None:
    """The bundled model's weights, halves on disk, would stay halves in some components."""
    from halftime import bundled

    assert hugging_face.dtype_keyword() in ("dtype", "torch_dtype")
    pipeline = bundled.load(torch.bfloat16)
    dtypes = {pipeline.unet.dtype, pipeline.vae.dtype, pipeline.text_encoder.dtype}
    assert dtypes == {torch.bfloat16}
    assert bundled.load_tiny_vae().dtype == torch.float32


# ---- diffusers: what a call does


class Handing(StableDiffusionPipeline):
    def __call__(self, *args: object, **kwargs: object) -> object:
        return super().__call__(*args, **kwargs)


class Replacing(StableDiffusionPipeline):
    def __call__(self, prompt: str) -> str:
        return prompt


def without_source() -> type:
    """A class as in a notebook or from a template: it has no file."""
    namespace: dict[str, object] = {"Base": StableDiffusionPipeline}
    code = (
        "class Made(Base):\n"
        "    def __call__(self, latents):\n"
        "        def double():\n"
        "            return [latents] * 2\n"
        "        self.scheduler.set_begin_index(0)\n"
        "        return double()\n"
    )
    exec(code, namespace)
    made = namespace["Made"]
    assert isinstance(made, type)
    return made


class NotPython:
    do_classifier_free_guidance = True
    __call__ = len


def instance(kind: type) -> object:
    return object.__new__(kind)


@pytest.mark.parametrize(
    ("kind", "in_one_batch", "sets_index"),
    [
        (StableDiffusionPipeline, True, False),
        (type(PIPELINES["flux"].build()), False, True),
        (Handing, True, False),
        (Replacing, False, False),
        (without_source(), True, True),
        (NotPython, False, None),
    ],
)
def test_what_a_call_does_is_read_off_its_code(
    kind: type, in_one_batch: bool, sets_index: bool | None
) -> None:
    """guidance-interval, loop-graph and set-begin-index would be refused everywhere, or be applied
    where they change pictures."""
    pipeline = instance(kind)
    assert hugging_face.guides_in_one_batch(pipeline) is in_one_batch  # type: ignore[arg-type]
    assert hugging_face.sets_begin_index(pipeline) is sets_index  # type: ignore[arg-type]


def test_the_code_of_a_call_ends_where_it_hands_nothing_on() -> None:
    assert len(hugging_face.codes_of(Replacing)) == 1
    assert len(hugging_face.codes_of(Handing)) > 1
    assert hugging_face.codes_of(NotPython) == []


def test_the_code_agrees_with_the_source_of_every_pipeline_here() -> None:
    for name, tiny in PIPELINES.items():
        pipeline = tiny.build()
        source = inspect.getsource(type(pipeline).__call__)
        guided = "[latents] * 2" in source and hasattr(
            type(pipeline), "do_classifier_free_guidance"
        )
        assert hugging_face.guides_in_one_batch(pipeline) is guided, name
        assert hugging_face.sets_begin_index(pipeline) is ("set_begin_index" in source), name


# ---- diffusers: models


def test_a_model_names_its_repeated_blocks() -> None:
    """denoiser-compile by blocks would not apply to any model."""
    blocks = hugging_face.repeated_blocks(PIPELINES["flux"].build().transformer)
    assert {type(block).__name__ for block in blocks} <= {
        "FluxTransformerBlock",
        "FluxSingleTransformerBlock",
    }
    assert len(blocks) >= 2
    assert hugging_face.repeated_blocks(nn.Linear(1, 1)) == []


def test_a_model_names_what_stays_in_fp32() -> None:
    """denoiser-dtype would round the parts that diffusers itself keeps in fp32."""
    from diffusers import WanTransformer3DModel

    assert "time_embedder" in WanTransformer3DModel._keep_in_fp32_modules
    wan = object.__new__(WanTransformer3DModel)
    nn.Module.__init__(wan)
    assert "time_embedder" in hugging_face.kept_in_fp32(wan)
    assert hugging_face.kept_in_fp32(nn.Linear(1, 1)) == ()


def built(tiny: TinyPipeline) -> DiffusionPipeline:
    """A tiny pipeline; the test is skipped where this diffusers does not have it yet."""
    try:
        return tiny.build()
    except AttributeError as error:
        if "module diffusers has no attribute" not in str(error):
            raise
        pytest.skip(str(error))


def test_what_a_modular_pipeline_takes_and_gives() -> None:
    """Its fixes would go on without a probe."""
    pipeline = built(BREADTH["modular_wan"])
    assert {"prompt", "height", "generator", "output_type"} <= {*call_parameters(pipeline).names}
    assert drawn_by_blocks(pipeline) == "videos"
    assert drawn_by_blocks(PIPELINES["sd15"].build()) is None


@pytest.mark.parametrize("name", sorted(hugging_face._IN_DTYPE_OF_TIMESTEP))
def test_models_that_compute_in_the_dtype_of_their_timestep_are_known(name: str) -> None:
    """denoiser-dtype would hand them a timestep in fp32, and their call would fail."""
    model_class = getattr(diffusers, name, None)
    if model_class is None:
        pytest.skip("this diffusers does not have it")
    assert hugging_face.computes_in_dtype_of_timestep(object.__new__(model_class))
    assert not hugging_face.computes_in_dtype_of_timestep(nn.Linear(1, 1))
    assert "dtype=timestep.dtype" in inspect.getsource(
        importlib.import_module(model_class.__module__)
    )


def test_models_that_first_block_cache_does_not_know_are_named() -> None:
    """step-cache would apply, and fail in the middle of a call."""
    flux = PIPELINES["flux"].build().transformer
    assert diffusers_caches.unknown_to_first_block_cache(flux) is None
    flux.transformer_blocks[0] = nn.Linear(1, 1)
    assert "Linear" in str(diffusers_caches.unknown_to_first_block_cache(flux))
    assert "no two blocks" in str(diffusers_caches.unknown_to_first_block_cache(nn.Linear(1, 1)))
    flux2 = built(FAMILIES["flux2_klein"]).transformer
    unknown = str(diffusers_caches.unknown_to_first_block_cache(flux2))
    assert re.search(r"cannot subtract|does not know Flux2", unknown)  # the latter before 0.42
    kandinsky = built(FAMILIES["kandinsky5_image"]).transformer
    assert "does not find the states" in str(
        diffusers_caches.unknown_to_first_block_cache(kandinsky)
    )


def test_the_processs_attention_backend_is_put_back() -> None:
    """attention-backend would change every other model of the process for good."""
    from diffusers.models.attention_dispatch import AttentionBackendName
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry

    before = Registry._active_backend
    with hugging_face.active_attention_backend_restored():
        PIPELINES["flux"].build().transformer.set_attention_backend("_native_math")
        if Registry._active_backend is before:  # diffusers 0.35 sets the model's alone
            Registry._active_backend = AttentionBackendName._NATIVE_MATH
        assert Registry._active_backend is not before
    assert Registry._active_backend is before


def test_attention_of_a_transformers_model_is_chosen_in_its_configuration() -> None:
    """Forecasts of text encoders would count the attention that CUDA does not run."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        hidden_size=8, intermediate_size=8, num_attention_heads=1, num_hidden_layers=1
    )
    for name in ("eager", "sdpa"):
        hugging_face.set_attention_implementation(config, name)
        assert CLIPTextModel(config).config._attn_implementation == name


# ---- diffusers: hooks and adapters


def test_diffusers_own_hooks_are_in_a_registry() -> None:
    """Group offloading and layerwise casting would be invisible, and fixes be applied over them."""
    from diffusers.hooks import apply_group_offloading, apply_layerwise_casting

    model, cast = PIPELINES["flux"].build().transformer, PIPELINES["sd15"].build().vae
    apply_group_offloading(model, onload_device=CPU, offload_device=CPU, offload_type="leaf_level")
    apply_layerwise_casting(cast, storage_dtype=torch.float16, compute_dtype=torch.float32)

    def hooks(module: nn.Module) -> set[str]:
        return {name for part in module.modules() for name in hugging_face.diffusers_hooks(part)}

    assert hugging_face.GROUP_OFFLOADING in hooks(model)
    assert hugging_face.LAYERWISE_CASTING in hooks(cast)
    assert any(hugging_face.is_hooked(part) for part in model.modules())
    assert not hugging_face.is_hooked(nn.Linear(1, 1))


def test_methods_that_move_weights_are_there_and_say_what_they_move() -> None:
    """Without them offloading would cost what nobody sees."""
    from accelerate.hooks import CpuOffload, UserCpuOffloadHook

    movers: list[hugging_face.Mover] = list(hugging_face.movers())
    assert {(mover.holder.__name__, mover.method) for mover in movers} == {
        ("CpuOffload", "pre_forward"),
        ("UserCpuOffloadHook", "offload"),
        ("AlignDevicesHook", "pre_forward"),
        ("AlignDevicesHook", "post_forward"),
        ("ModuleGroup", "onload_"),
        ("ModuleGroup", "offload_"),
    }
    assert all(callable(getattr(mover.holder, mover.method)) for mover in movers)
    layer = nn.Linear(2, 2)
    governed: hugging_face.Governed = movers[1].governed(UserCpuOffloadHook(layer, CpuOffload(CPU)))
    assert governed.module is layer
    assert sum(weight.nbytes for weight in governed.weights.values()) == 4 * (4 + 2)


@pytest.mark.parametrize("kind", ["FirstBlockCacheConfig", "PyramidAttentionBroadcastConfig"])
def test_a_step_cache_that_is_on_is_known(kind: str) -> None:
    assert hugging_face.STEP_CACHES
    model = PIPELINES["flux"].build().transformer
    assert not hugging_face.has_step_cache(model)
    pyramid = {
        "spatial_attention_block_skip_range": 2,
        "current_timestep_callback": lambda: 500,
    }
    model.enable_cache(getattr(diffusers, kind)(**(pyramid if "Pyramid" in kind else {})))
    assert hugging_face.has_step_cache(model)
    model.disable_cache()
    assert not hugging_face.has_step_cache(model)


def test_a_models_attention_backend_is_read() -> None:
    model = PIPELINES["flux"].build().transformer
    assert hugging_face.attention_backend(model) == ""
    model.set_attention_backend("native")
    assert hugging_face.attention_backend(model) == "native"


def test_a_registry_remembers_what_a_cache_made_it_look_up() -> None:
    """`_child_registries_cache` would stay behind on a pipeline with hooks after `step-cache`."""
    from diffusers.hooks import HookRegistry

    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    if not hasattr(HookRegistry, "_get_child_registries"):
        pytest.skip("registries of this diffusers remember nothing")
    registries = [HookRegistry.check_if_exists_or_initialize(module) for module in model.modules()]
    before = [dict(vars(registry)) for registry in registries]
    with diffusers_caches.hooks_restored(model):
        registries[0]._get_child_registries()
        assert vars(registries[0])["_child_registries_cache"]
    assert [dict(vars(registry)) for registry in registries] == before


def cached_flux(kind: str, **config: object) -> nn.Module:
    """The transformer of a tiny Flux under one of diffusers' caches."""
    model: nn.Module = PIPELINES["flux"].build().transformer
    model.enable_cache(getattr(diffusers, kind)(**config))  # type: ignore[operator]
    return model


def test_hooks_put_on_a_model_are_taken_off_its_registries() -> None:
    """A cache would stay behind on a pipeline that has been called under a context before."""
    if not hasattr(diffusers, "MagCacheConfig"):
        pytest.skip("contexts of this diffusers are kept elsewhere")
    model = PIPELINES["flux"].build().transformer
    with model.cache_context("cond"):
        pass
    with diffusers_caches.hooks_restored(model):
        diffusers.hooks.apply_first_block_cache(model, diffusers.FirstBlockCacheConfig())
        hooks = diffusers_caches.all_hooks(model)
        stateful = diffusers_caches.stateful_hooks(model)
        assert 0 < len(stateful) < len(hooks)
        with model.cache_context("cond"):
            if hasattr(stateful[0].state_manager, "_context"):  # contexts have names since 0.42
                assert stateful[0].state_manager._context.name == "cond"
    assert not vars(model)["_diffusers_hook"].hooks


def test_a_text_cache_says_what_it_projects_with() -> None:
    """step-cache would go on with keys and values of the weights from before an adapter was set."""
    if not hasattr(diffusers, "TextKVCacheConfig"):
        pytest.skip("this diffusers has no text K/V cache")
    model = built(BREADTH["nucleusmoe"]).transformer
    model.enable_cache(diffusers.TextKVCacheConfig())
    projections = diffusers_caches.text_projections(model)
    seen: list[nn.Module] = []
    for module in projections():
        module.register_forward_pre_hook(lambda module, _: seen.append(module))
    with torch.no_grad():
        model(
            torch.zeros(1, 4, 16),
            img_shapes=[(1, 2, 2)],
            encoder_hidden_states=torch.zeros(1, 3, 32),
            timestep=torch.zeros(1),
        )
    assert set(seen) == set(projections())
    block = model.transformer_blocks[0]
    block.encoder_proj = nn.Identity()
    assert block.encoder_proj in projections()


def test_caches_keep_states_by_context_and_forget_them() -> None:
    """step-cache would mix prompt and negative prompt, or two calls."""
    model = cached_flux("FirstBlockCacheConfig")
    manager = diffusers_caches.stateful_hooks(model)[0].state_manager
    with diffusers_caches.context(model, "a", step_index=1):
        state = manager.get_state()
    with diffusers_caches.context(model, "b"):
        assert manager.get_state() is not state
    with diffusers_caches.context(model, "a"):
        assert manager.get_state() is state
    diffusers_caches.forget(model)
    with diffusers_caches.context(model, "a"):
        assert manager.get_state() is not state
    diffusers_caches.forget(nn.Linear(1, 1))  # has no caches


def test_a_calibrating_mag_cache_says_what_it_measured() -> None:
    """step-cache's kind 'mag' would never skip a step."""
    if not hasattr(diffusers, "MagCacheConfig"):
        pytest.skip("this diffusers has no such cache")
    model = cached_flux("MagCacheConfig", calibrate=True)
    hook = diffusers_caches.stateful_hooks(model)[0]
    assert hook.config.calibrate
    assert diffusers_caches.mag_ratios(hook, "a") == []
    with diffusers_caches.context(model, "a"):
        hook.state_manager.get_state().calibration_ratios.append(1.5)
    assert diffusers_caches.mag_ratios(hook, "a") == [1.5]
    measured: diffusers_caches.MagState = hook.state_manager._state_cache["a"]
    assert measured.calibration_ratios == [1.5]


def test_blocks_and_attentions_that_caches_know() -> None:
    """step-cache would refuse what it can cache, or put a cache on nothing."""
    flux = PIPELINES["flux"].build().transformer
    blocks = diffusers_caches.transformer_blocks(flux)
    assert blocks == [*flux.transformer_blocks, *flux.single_transformer_blocks]
    metadata: diffusers_caches.HasBlocks | None = diffusers_caches.metadata_of(blocks[0])
    assert metadata is not None
    assert metadata.return_encoder_hidden_states_index is not None
    assert diffusers_caches.metadata_of(nn.Linear(1, 1)) is None
    assert "transformer_blocks.0.attn" in diffusers_caches.cacheable_attentions(flux)
    assert diffusers_caches.unknown_to_mag_cache(flux) is None
    assert "no blocks" in str(diffusers_caches.unknown_to_mag_cache(nn.Linear(1, 1)))
    sd3 = PIPELINES["sd3"].build().transformer
    unknown = str(diffusers_caches.unknown_to_first_block_cache(sd3))
    assert re.search(r"cannot subtract|does not know Joint", unknown)  # the latter before 0.36
    if "cannot subtract" in unknown:
        assert diffusers_caches.unknown_to_mag_cache(sd3) is None


def test_pefts_layers_are_merged_into_a_copy_of_their_base() -> None:
    """lora-fuse would write into the user's weights, or leave the adapter out."""
    peft = pytest.importorskip("peft")
    model = nn.Sequential(nn.Linear(2, 2))
    config = peft.LoraConfig(r=1, target_modules=["0"], init_lora_weights=False)
    layer = peft.inject_adapter_in_model(config, model)[0]
    base, sample = layer.get_base_layer(), torch.ones(1, 2)
    weight, expected = base.weight, layer(sample)
    before = weight.clone()
    assert hugging_face.unmergeable_adapter(layer) is None
    assert "Linear" in str(hugging_face.unmergeable_adapter(nn.Linear(1, 1)))
    merged = hugging_face.merged_copy(layer)
    assert merged is base
    assert torch.equal(weight, before)
    torch.testing.assert_close(merged(sample), expected)


def test_which_layers_diffusers_keeps_in_their_precision() -> None:
    """denoiser-quantize would take embeddings that the model's own list protects."""
    flux = PIPELINES["flux"].build().transformer
    assert "norm" in hugging_face.not_cast_layerwise(flux)
    assert hugging_face.not_cast_layerwise(nn.Linear(1, 1)) == ()


def test_inductors_configuration_is_put_back() -> None:
    """torchao would change how everything else in the process is compiled."""
    from torch._inductor import config

    before = config.coordinate_descent_tuning
    with pytorch.inductor_config_restored():
        config.coordinate_descent_tuning = not before
    assert config.coordinate_descent_tuning is before


def test_a_call_under_model_offload_ends_without_new_hooks() -> None:
    """A fix would be gone after the first call of an offloaded pipeline."""
    pytest.importorskip("accelerate")
    pipeline = PIPELINES["flux"].build()
    before = set(vars(pipeline))
    pipeline.enable_model_cpu_offload(device="cpu")
    assert set(vars(pipeline)) - before <= {*hugging_face.OFFLOADING_NOTES}
    hook = hugging_face.accelerate_hook(pipeline.transformer)
    hugging_face.put_back_on_the_host(pipeline)
    assert hugging_face.accelerate_hook(pipeline.transformer) is hook
    assert "_all_hooks" in inspect.getsource(type(pipeline).maybe_free_model_hooks)


def test_which_loads_swap_an_adapter() -> None:
    """A load that adds one would be taken for one that writes into the old, and be lost."""
    assert hugging_face.hotswaps({"hotswap": True})
    assert not hugging_face.hotswaps({"hotswap": False})
    assert "hotswap" in inspect.getdoc(diffusers.FluxPipeline.load_lora_weights) + str(
        inspect.signature(diffusers.loaders.lora_pipeline.FluxLoraLoaderMixin.load_lora_weights)
    )


def test_an_adapter_s_factors_are_where_peft_keeps_them() -> None:
    """A LoRA would be taken for nothing, or at another strength."""
    peft = pytest.importorskip("peft")
    model = nn.Sequential(nn.Linear(3, 5))
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=["0"], init_lora_weights=False)
    layer = peft.inject_adapter_in_model(config, model, "style")[0]
    adapter = hugging_face.low_rank_adapter(layer, "style")
    assert isinstance(adapter, hugging_face.LowRankAdapter)
    assert (adapter.scaling, adapter.plain) == (3.0, True)
    assert (*adapter.down.shape, *adapter.up.shape) == (2, 3, 5, 2)
    change = layer(torch.eye(3)) - layer.base_layer(torch.eye(3))
    torch.testing.assert_close(change.T, adapter.scaling * adapter.up @ adapter.down)
    assert hugging_face.low_rank_adapter(layer, "other") is None
    assert hugging_face.low_rank_adapter(nn.Linear(1, 1), "style") is None


def test_accelerates_hook_is_where_diffusers_looks_for_it() -> None:
    """An offloaded pipeline would seem to run on the CPU."""
    from diffusers import DiffusionPipeline

    module = nn.Linear(1, 1)
    assert hugging_face.accelerate_hook(module) is None
    module._hf_hook = hook = SimpleNamespace(execution_device="cuda:1")
    assert hugging_face.accelerate_hook(module) is hook
    assert hugging_face.is_hooked(module)
    code = inspect.getattr_static(DiffusionPipeline, hugging_face.EXECUTION_DEVICE).fget.__code__
    assert "_hf_hook" in {*code.co_names, *code.co_consts}


def test_adapters_are_where_diffusers_keeps_them() -> None:
    """prompt-cache would give embeddings of another adapter."""
    from diffusers.loaders.peft import PeftAdapterMixin

    assert PeftAdapterMixin._hf_peft_config_loaded is False
    model = nn.Linear(1, 1)
    assert hugging_face.loaded_adapters(model) == ()
    model._hf_peft_config_loaded, model.peft_config = True, {"style": None}
    assert hugging_face.loaded_adapters(model) == ("style",)


def test_fused_adapters_are_where_diffusers_keeps_them() -> None:
    """A model with a LoRA in its weights would pass for the published one."""
    pipeline = PIPELINES["sd15"].build()
    assert hugging_face.fused_adapters(pipeline) == ()
    pipeline._merged_adapters = {"style"}
    assert pipeline.fused_loras == {"style"}
    assert hugging_face.fused_adapters(pipeline) == ("style",)


# ---- diffusers: schedulers


def test_the_step_index_can_be_shown() -> None:
    """schedule-table: inpainting pipelines read `step_index` in their loop."""
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(4)
    hugging_face.show_step_index(scheduler, 3)
    assert scheduler.step_index == 3


def test_a_changed_shift_is_seen() -> None:
    """schedule-table would give the tables of the old shift."""
    scheduler = FlowMatchEulerDiscreteScheduler()
    before = hugging_face.shift_of(scheduler)
    scheduler.set_shift(7.0)
    assert (hugging_face.shift_of(scheduler), before) == (7.0, 1.0)
    assert hugging_face.shift_of(sd15().scheduler) is None


def test_schedulers_that_keep_their_variance_are_known() -> None:
    """Previews of DPM++, UniPC and DEIS would be far too bright."""
    from diffusers import (
        DEISMultistepScheduler,
        DPMSolverMultistepScheduler,
        EulerDiscreteScheduler,
        UniPCMultistepScheduler,
    )

    for kind in (DPMSolverMultistepScheduler, UniPCMultistepScheduler, DEISMultistepScheduler):
        assert hugging_face.scales_by_variance(kind())
    assert not hugging_face.scales_by_variance(EulerDiscreteScheduler())


def test_forward_hooks_of_the_users_own() -> None:
    """Fixes that replace modules would leave a user's hooks out."""
    module = nn.Linear(1, 1)
    assert not pytorch.own_forward_hooks(module)
    hook = module.register_forward_pre_hook(lambda *_: None)
    assert pytorch.own_forward_hooks(module)
    hook.remove()
    assert not pytorch.own_forward_hooks(module)


def test_attention_that_diffusers_cannot_fuse() -> None:
    """fused-qkv would fail in diffusers' own code."""
    model = nn.Module()
    model.attention = nn.Module()
    model.attention.fuse_projections = lambda: None
    assert hugging_face.unfusable_attention(model) == "Module"
    model.attention.to_q = model.attention.to_k = model.attention.to_v = nn.Linear(1, 1)
    assert hugging_face.unfusable_attention(model) is None


def test_which_pipelines_set_cache_contexts() -> None:
    """step-cache sets contexts itself where a pipeline does not."""
    assert hugging_face.sets_cache_contexts(PIPELINES["wan"].build())
    assert not hugging_face.sets_cache_contexts(PIPELINES["pixart_sigma"].build())


def test_which_calls_cast_a_vae_up_can_be_read_from_their_code() -> None:
    names = ("sdxl", "sd15", "flux")
    casting = [name for name in names if hugging_face.upcasts_vae(PIPELINES[name].build())]
    assert casting == ["sdxl"]
    assert hugging_face.upcasts_vae(BREADTH["modular_sdxl"].build())


def test_which_calls_compare_their_schedulers_class() -> None:
    """A table's class is a subclass, with which such a call takes another path."""
    assert hugging_face.compares_scheduler_class(built(FAMILIES["bria"]))
    assert not hugging_face.compares_scheduler_class(PIPELINES["sd15"].build())


def test_a_failed_block_leaves_no_compilations(monkeypatch: pytest.MonkeyPatch) -> None:
    """What dynamo could not trace under an audit would raise for the rest of the process."""
    resets: list[int] = []
    pytorch.load_dynamo()
    importlib.import_module("torch._dynamo.utils")
    monkeypatch.setattr(torch._dynamo, "reset", lambda: resets.append(1))
    with pytorch.compilations_forgotten():
        pass
    assert not resets
    with pytest.raises(ValueError, match="in the block"), pytorch.compilations_forgotten():
        raise ValueError("in the block")
    assert resets == [1]


def test_a_modular_pipeline_names_its_blocks() -> None:
    """blocks_of, leaf_blocks, is_loop: what its call takes and gives, and what runs in it."""
    if not MODULAR:
        pytest.skip("diffusers 0.35 makes modular pipelines of downloaded components alone")
    pipeline = BREADTH["modular_sdxl"].build()
    blocks: hugging_face.Blocks | None = hugging_face.blocks_of(pipeline)
    assert blocks is not None
    inputs: list[hugging_face.BlockInput] = blocks.inputs
    outputs: list[hugging_face.BlockOutput] = blocks.outputs
    assert {"prompt", "num_inference_steps"} <= {entry.name for entry in inputs}
    assert all(isinstance(entry.required, bool) for entry in inputs)
    assert "images" in {entry.name for entry in outputs}
    leaves = dict(hugging_face.leaf_blocks(pipeline))
    assert "text_encoder" in leaves
    assert any(hugging_face.is_loop(block) for block in leaves.values())
    assert hugging_face.blocks_of(PIPELINES["sd15"].build()) is None


def test_a_checkpoint_looks_like_a_repository(tmp_path: Path) -> None:
    """repository_of_checkpoint: by the names and shapes of its weights alone."""
    save_checkpoint(PIPELINES["sd15"].build(), tmp_path / "one.safetensors")
    repository = hugging_face.repository_of_checkpoint(str(tmp_path / "one.safetensors"))
    assert repository == "stable-diffusion-v1-5/stable-diffusion-v1-5"
