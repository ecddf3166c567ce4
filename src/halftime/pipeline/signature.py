"""What the call of a pipeline takes: of diffusers' pipelines, of modular ones, of anybody's."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from halftime.upstream import hugging_face

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

CATCH_ALL = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class CallParameters:
    """What the call of a pipeline takes, over all calls that it extends.

    A call that takes **kwargs hands them on to the call that it extends, so what that one names is
    taken too. The **kwargs of diffusers' own calls only swallow names that it gave up; a modular
    pipeline's are the inputs of its blocks.
    """

    defaults: Mapping[str, object]  # by name, the outermost call's first; Parameter.empty for none
    hands_on: bool  # takes **kwargs of the user's own
    takes_anything: bool  # no call that it extends closes the list
    # has no default, or one that diffusers annotates as not allowed (`image: Picture = None`)
    required: frozenset[str] = frozenset()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.defaults)

    def takes(self, name: str) -> bool:
        """Whether the call can be given this keyword argument."""
        return name in self.defaults or self.takes_anything

    def default(self, name: str) -> object:
        """What the argument is where it is left out; None also where it must be given."""
        value = self.defaults.get(name)
        return None if value is inspect.Parameter.empty else value


def call_parameters(pipeline: DiffusionPipeline) -> CallParameters:
    """What the pipeline's call takes."""
    blocks = hugging_face.blocks_of(pipeline)
    return _of_call(pipeline) if blocks is None else _of_blocks(blocks.inputs)


def _of_call(pipeline: DiffusionPipeline) -> CallParameters:
    parameters: dict[str, inspect.Parameter] = {}
    required: set[str] = set()
    hands_on: list[bool] = []
    for base in type(pipeline).__mro__:
        if "__call__" not in vars(base):
            continue
        call = vars(base)["__call__"]
        own = list(inspect.signature(call).parameters.values())[1:]
        upstream = call.__module__.startswith("diffusers.")
        for parameter in own:
            if parameter.kind not in CATCH_ALL and parameter.name not in parameters:
                parameters[parameter.name] = parameter
                if _must_be_given(parameter, upstream):
                    required.add(parameter.name)
        catches = any(parameter.kind is parameter.VAR_KEYWORD for parameter in own)
        hands_on.append(catches and not upstream)
        if not hands_on[-1]:
            break
    return CallParameters(
        {name: parameter.default for name, parameter in parameters.items()},
        hands_on[0] if hands_on else False,
        all(hands_on),
        frozenset(required),
    )


def _must_be_given(parameter: inspect.Parameter, upstream: bool) -> bool:
    """diffusers gives None as the default of what its calls need, and says so by the annotation
    alone; elsewhere people annotate less carefully."""
    if parameter.default is inspect.Parameter.empty:
        return True
    annotation = str(parameter.annotation)
    may_be_none = "None" in annotation or "Optional" in annotation
    return (
        upstream
        and parameter.default is None
        and parameter.annotation is not inspect.Parameter.empty
        and not may_be_none
    )


def _of_blocks(inputs: Iterable[hugging_face.BlockInput]) -> CallParameters:
    """A modular pipeline's: the inputs of its blocks, and `output`, what to give back."""
    named = [parameter for parameter in inputs if parameter.name]
    empty = inspect.Parameter.empty
    return CallParameters(
        {
            **{
                parameter.name: empty if parameter.required else parameter.default
                for parameter in named
            },
            "output": None,
        },
        hands_on=False,
        takes_anything=False,
        required=frozenset(parameter.name for parameter in named if parameter.required),
    )
