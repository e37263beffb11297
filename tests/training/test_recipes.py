from ultraflash.models.preset import load_preset
from ultraflash.training.recipes import STUDENT_STEPS, mini, mini_gpu
from ultraflash.training.self_forcing import RollConfig


def test_the_student_learns_two_steps_and_goes_on_to_those_of_the_preset() -> None:
    for recipe in (mini(), mini_gpu()):
        steps = {name: stage.student_steps for name, stage in recipe.items() if isinstance(stage, RollConfig)}
        # None is what the preset says.
        assert steps == {"trajectory": STUDENT_STEPS, "few_step": STUDENT_STEPS, "four_steps": None}


def test_mini_fast_takes_half_of_the_steps_of_mini() -> None:
    mini_steps, fast_steps = (load_preset(name).base.schedule.nominal_steps for name in ("mini", "mini-fast"))
    assert 2 * len(fast_steps) == len(mini_steps)


def test_with_a_gpu_the_generator_trains_there_and_everything_else_as_without() -> None:
    without, with_gpu = mini(), mini_gpu()
    assert list(with_gpu) == list(without)
    assert all(config.device == "cpu" for config in without.values())
    changed = {name for name, config in with_gpu.items() if config != without[name]}
    on_gpu = {name for name, config in with_gpu.items() if config.device == "cuda"}
    assert on_gpu == {"pictures", "base", "trajectory", "few_step", "four_steps"}
    assert changed == on_gpu | {"latents"}
