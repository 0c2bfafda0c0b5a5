"""python train.py [group=choice] [key=value] ...: Hydra composes, smallvision does."""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # while modules load, Ctrl-C needs no traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from smallvision import cli

if __name__ == "__main__":
    cli.main()
