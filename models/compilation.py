"""torch.compile for the blocks of the transformers, which is where a pass spends its time.

The two halves of a block, before and after self-attention, are compiled for the shapes of every size while a cascade is
loaded. Attention itself stays outside: it has kernels of its own and reads caches whose fill changes from pass to pass.
All blocks of a network share the compiled code. What is compiled is kept in a folder, so that the next start compiles
nothing. While streams run nothing is compiled either: shapes that loading has not met run as they would without. In
training whatever comes is compiled when it first comes.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch

from ultraflash.models.dit import Block, BlockPasses, CausalDiT, enter, leave
from ultraflash.models.errors import CompilationFailed

_RECOMPILE_LIMIT = 64
"""Shapes of one half: those of two networks, every size, first and later groups; or, in training, passes with and
without gradients, of training, samples and evaluation, in every stage. Torch gives up after 8."""


def compiled_home() -> Path:
    """Folder of compiled code: ``ultraflash/compiled`` in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "ultraflash" / "compiled"


def compile_blocks(*nets: CausalDiT) -> None:
    """Have the blocks of these networks compiled when they first run under :func:`compiling`.

    The caches of inductor and Triton go to :func:`compiled_home`, unless the environment names folders for them.
    """
    home = compiled_home()
    _keep_cache("TORCHINDUCTOR_CACHE_DIR", home / "inductor")
    _keep_cache("TRITON_CACHE_DIR", home / "triton")
    for net in nets:
        passes = BlockPasses(
            enter=torch.compile(enter, dynamic=False, fullgraph=True),
            leave=torch.compile(leave, dynamic=False, fullgraph=True),
        )
        for block in net.blocks:
            cast(Block, block).passes = passes


def compile_for_training(*nets: CausalDiT) -> None:
    """:func:`compile_blocks` for networks that train: every shape and kind of pass compiles when it first runs.

    Torch's limit of recompilations is raised for the rest of the process.
    """
    compile_blocks(*nets)
    torch._dynamo.config.recompile_limit = _RECOMPILE_LIMIT


def _keep_cache(variable: str, folder: Path) -> None:
    """Move a cache to ``folder``, unless somebody has chosen another place for it."""
    present = os.environ.get(variable)
    # Importing parts of torch sets the variable to a folder of temporary files, which the next start may not have.
    if present is None or present.startswith(os.path.join(tempfile.gettempdir(), "torchinductor_")):
        os.environ[variable] = str(folder)


@contextmanager
def compiling(setting: str = "execution.compile") -> Iterator[None]:
    """Compile what runs inside for every shape that it meets.

    Args:
        setting: the name under which compiling was asked for.

    Raises:
        CompilationFailed: there is no compiler, or it fails; the message says what to do.
    """
    from torch._dynamo.exc import BackendCompilerFailed
    from torch._inductor.exc import InductorError

    try:
        with torch._dynamo.config.patch(recompile_limit=_RECOMPILE_LIMIT):
            yield
    except (BackendCompilerFailed, InductorError) as error:
        raise CompilationFailed(
            f"the networks could not be compiled: {str(error).strip().splitlines()[0]}; "
            f"on a CPU it takes a C++ compiler such as g++, on a GPU Triton; or set {setting} = false",
            param=setting,
        ) from error


@contextmanager
def compiled_only() -> Iterator[None]:
    """Compile nothing inside: shapes without compiled code run without it."""
    with torch.compiler.set_stance("eager_on_recompile"):
        yield
