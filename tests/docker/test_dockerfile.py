"""The parser of Dockerfiles that the other tests and try-without-engine trust."""

from __future__ import annotations

from pathlib import Path

import dockerfile
import pytest

TEXT = """# syntax=docker/dockerfile:1
FROM debian:12.1-slim AS base
ENV A=1 \\
    # a comment in between
    B='["x","y"]'

FROM base
COPY --from=base --chown=1:1 /a /b /c
RUN --mount=type=bind,from=base,source=/w,target=/w \\
    echo "one" \\
 && echo two
HEALTHCHECK --interval=10s --timeout=5s \\
  CMD ["python", "-c", "print(1)"]
"""


def test_lines_are_joined_and_comments_between_them_left_out() -> None:
    first, last = dockerfile.stages(TEXT)
    assert (first.base, first.name, last.base, last.name) == ("debian:12.1-slim", "base", "base", "")
    assert first.instructions[0].pairs() == {"A": "1", "B": '["x","y"]'}
    assert [(one.name, one.line) for one in last.instructions] == [
        ("COPY", 8),
        ("RUN", 9),
        ("HEALTHCHECK", 12),
    ]


def test_flags_are_told_from_arguments() -> None:
    copy, run, _ = dockerfile.stages(TEXT)[1].instructions
    assert (copy.flag("from"), copy.words()) == ("base", ["/a", "/b", "/c"])
    assert run.flag("mount") == "type=bind,from=base,source=/w,target=/w"
    assert run.text == 'echo "one" && echo two'


def test_the_health_command_is_read_through_its_options() -> None:
    assert dockerfile.health_command(dockerfile.stages(TEXT)[1]) == ["python", "-c", "print(1)"]
    with pytest.raises(ValueError, match="HEALTHCHECK"):
        dockerfile.health_command(dockerfile.stages(TEXT)[0])


def test_an_instruction_before_the_first_from_is_refused() -> None:
    with pytest.raises(ValueError, match="line 1"):
        dockerfile.stages("RUN true\n")


def test_the_context_holds_what_the_last_fitting_rule_lets_through(tmp_path: Path) -> None:
    for name in ("a.py", "b/c.py", "b/c.pyc", "b/__pycache__/c.py", "d/e/f", "d/g"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / ".dockerignore").write_text("*\n!b\n!d/e/f\n# comment\n**/__pycache__\n**/*.py[co]\n")
    assert [path.as_posix() for path in dockerfile.context_files(tmp_path)] == ["b/c.py", "d/e/f"]
