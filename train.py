"""python train.py [group=choice] [key=value] ...: Hydra composes, smallvision does."""

from smallvision import cli

if __name__ == "__main__":
    cli.main()
