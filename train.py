"""python train.py [group=choice] [key=value] ...: Hydra composes, smallvision.tasks does."""

import hydra
from omegaconf import DictConfig

from smallvision import cli, tasks


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(composed: DictConfig) -> float | None:
    """Runs the task that the config names; a sweep gets the figure that it optimises."""
    with cli.exit_codes():
        return tasks.run(composed)


if __name__ == "__main__":
    with cli.exit_codes():
        cli.check_command_line()
        main()
