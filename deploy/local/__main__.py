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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.local")
    parsers = parser.add_subparsers(dest="command", required=True)
    for name in COMMANDS:
        parsers.add_parser(name)
    parsers.add_parser("logs").add_argument("service", nargs="?", default="")
    parsers.add_parser("dead").add_argument("arguments", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    try:
        if arguments.command == "logs":
            commands.logs(arguments.service)
        elif arguments.command == "dead":
            commands.dead(arguments.arguments)
        else:
            COMMANDS[arguments.command]()
    except SetupError as error:
        sys.exit(f"ollamamax: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


main()
