"""Functions that torch compiles: one pass over memory where eager PyTorch makes several."""

import os
import shutil
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

import torch

VARIANTS = 64  # versions of one function: each type, size of a head, kind of bias ... needs its own


@cache
def compiler_problem(device: str) -> str | None:
    """Why torch cannot compile kernels for this type of device ("cuda", "cpu"), or None."""
    if device == "cuda" and find_spec("triton") is None:
        return "torch compiles GPU kernels with Triton, which is not installed: pip install triton"
    variable, *names = ("CC", "gcc", "clang") if device == "cuda" else ("CXX", "g++", "clang++")
    if not any(map(shutil.which, filter(None, (os.environ.get(variable), *names, "cl")))):
        return f"torch compiles with a compiler that is not installed: {' or '.join(names)}"
    return None


@cache
def compiled(function: Callable, every_length_its_own: bool = False) -> Callable:
    """The function as torch compiles it, at its first call.

    The first length of the texts gets a version of its own; when a second one comes, torch compiles
    once more, for all lengths, unless every length is to have its own.

    Beyond a limit of versions, 8 by default, torch would go on uncompiled with no more than a
    warning. Here the limit is raised, for the whole process, and to reach it is an error:
    uncompiled, some functions would need the memory that they are there to save.
    """
    config = torch.compiler.config  # set for good: to patch it would take milliseconds in each call
    config.recompile_limit = max(config.recompile_limit, VARIANTS)
    run = torch.compile(function, fullgraph=True, dynamic=False if every_length_its_own else None)

    def call(*args, **options):
        try:
            return run(*args, **options)
        except Exception as error:
            if type(error).__name__ != "FailOnRecompileLimitHit":  # torch gives it no public name
                raise
            raise RuntimeError(
                f"{config.recompile_limit} versions of {function.__name__} are compiled, for as "
                "many types, sizes and options, and there is no room for more: "
                "torch.compiler.reset() forgets them"
            ) from error

    return call
