"""What train.py, ``smallvision`` and ``python -m smallvision`` run."""

import signal


def main() -> None:
    """The command line."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # while modules load, Ctrl-C needs no traceback
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from smallvision import cli

    cli.main()


if __name__ == "__main__":
    main()
