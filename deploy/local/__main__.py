"""``python -m deploy.local COMMAND``; a failure is one line that says what to do, and exit status 1."""

import argparse
import sys
from collections.abc import Callable

from deploy.local import commands
from deploy.local.errors import SetupError

COMMANDS: dict[str, Callable[[], None]] = {
    "up": commands.up,
    "down": commands.down,
    "status": commands.status,
    "clean": commands.clean,
    "demo-failover": commands.demo_failover,
}

OF_A_SERVICE: dict[str, Callable[[str], None]] = {
    "logs": commands.logs,
    "restart": commands.restart,
}
"""Of one, or of all if none is named."""

MODULES: dict[str, Callable[[list[str]], None]] = {
    "dead": commands.dead,
    "audit": commands.audit,
    "ledger-check": commands.ledger_check,
}
"""Those that have arguments of their own."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.local")
    parsers = parser.add_subparsers(dest="command", required=True)
    for name in COMMANDS:
        parsers.add_parser(name)
    for name in OF_A_SERVICE:
        parsers.add_parser(name).add_argument("service", nargs="?", default="")
    for name in MODULES:
        # No character is an option's here: what follows is the module's own, from the first word on.
        parsers.add_parser(name, prefix_chars="\0", add_help=False).add_argument("arguments", nargs="*")
    arguments = parser.parse_args()
    try:
        if arguments.command in OF_A_SERVICE:
            OF_A_SERVICE[arguments.command](arguments.service)
        elif arguments.command in MODULES:
            MODULES[arguments.command](arguments.arguments)
        else:
            COMMANDS[arguments.command]()
    except SetupError as error:
        sys.exit(f"ollamamax: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


main()
