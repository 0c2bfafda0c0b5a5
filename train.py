"""python train.py [group=choice] [key=value] ...: Hydra composes, smallvision does."""

from smallvision.__main__ import main

if __name__ == "__main__":
    main()
