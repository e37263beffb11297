"""How a cascade runs what a preset describes: settings that change its speed and not what it makes."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ultraflash.models.errors import BadConfig
from ultraflash.models.precision import PrecisionConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionConfig:
    """What a preset says of running.

    Args:
        compile: compile the blocks of the transformers when they are loaded, see :mod:`ultraflash.models.compilation`.
        overlap: generate the next group while the pictures of this one are made, see :mod:`ultraflash.models.overlap`.
            On a CPU both share its cores, and little is won.
    """

    compile: bool = False
    overlap: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, bool):
                raise BadConfig(
                    f"execution.{field.name} is true or false, not {value!r}", param=f"execution.{field.name}"
                )

    def check(self, precision: PrecisionConfig) -> None:
        """Raise BadConfig where two settings exclude each other."""
        if self.compile and precision.linears == "int8":
            raise BadConfig(
                "int8 linears run in a kernel that is not compiled; "
                'choose precision.linears = "native" or execution.compile = false',
                param="execution.compile",
            )
