from ultraflash.models.preset import load_preset
from ultraflash.training.recipes import STUDENT_STEPS, mini
from ultraflash.training.self_forcing import RollConfig


def test_the_presets_of_mini_run_the_first_of_the_steps_that_every_student_of_its_recipe_learns() -> None:
    students = [stage for stage in mini().values() if isinstance(stage, RollConfig)]
    assert {stage.student_steps for stage in students} == {STUDENT_STEPS}
    for name in ("mini", "mini-fast"):
        steps = load_preset(name).base.schedule.nominal_steps
        assert steps == STUDENT_STEPS[: len(steps)]
