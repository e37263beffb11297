from ultraflash.models.preset import load_preset
from ultraflash.training.recipes import STUDENT_STEPS, mini, mini_gpu
from ultraflash.training.self_forcing import RollConfig


def test_the_presets_of_mini_run_the_first_of_the_steps_that_every_student_of_its_recipe_learns() -> None:
    stages = [*mini().values(), *mini_gpu().values()]
    students = [stage for stage in stages if isinstance(stage, RollConfig)]
    assert {stage.student_steps for stage in students} == {STUDENT_STEPS}
    for name in ("mini", "mini-fast"):
        steps = load_preset(name).base.schedule.nominal_steps
        assert steps == STUDENT_STEPS[: len(steps)]


def test_with_a_gpu_the_generator_trains_there_and_everything_else_as_without() -> None:
    without, with_gpu = mini(), mini_gpu()
    assert list(with_gpu) == list(without)
    assert all(config.device == "cpu" for config in without.values())
    changed = {name for name, config in with_gpu.items() if config != without[name]}
    on_gpu = {name for name, config in with_gpu.items() if config.device == "cuda"}
    assert on_gpu == {"pictures", "base", "trajectory", "few_step"}
    assert changed == on_gpu | {"latents"}
