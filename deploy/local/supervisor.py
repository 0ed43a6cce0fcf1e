"""The supervisor (PyPI ``supervisor``): starts our programs, starts them again when they die, rotates their logs.

It is configured by a file we generate and driven over its own socket, both under the run directory.
"""

import resource
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from supervisor.xmlrpc import SupervisorTransport

from deploy.local.errors import SetupError
from deploy.local.programs import ROOT, SYSTEM_PATH, Program, private_directory, write_private

START_SECONDS = 15.0

# Linux allows 107 bytes for the path of a socket.
SOCKET_PATH_BYTES = 100

SECTION = """
[program:{name}]
command={command}
directory={root}
autostart=false
autorestart=true
; A server may be away for a while: wait a second longer after each failed start, but do not give up for half an hour.
startsecs=1
startretries=60
stopsignal={stop_signal}
stopwaitsecs={stop_seconds}
killasgroup=true
redirect_stderr=true
stdout_logfile={log_file}
stdout_logfile_maxbytes=20MB
stdout_logfile_backups=3
"""


class Supervisor:
    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._socket = run_dir / "supervisor.sock"
        self._configuration = run_dir / "supervisord.conf"
        if len(bytes(self._socket)) > SOCKET_PATH_BYTES:
            raise SetupError(f"the path {self._socket} is too long for a socket: move the repository to a shorter path")

    def runs(self) -> bool:
        try:
            self._call("getState")
        except OSError:
            return False
        except xmlrpc.client.Fault:  # it is shutting down, and refuses
            return True
        return True

    def log_file(self, program: str) -> Path:
        return self.run_dir / "logs" / f"{program}.log"

    def configure(self, programs: Collection[Program]) -> None:
        """Make these, and only these, the supervised programs. What did not change goes on; nothing is started."""
        specs = {program.name: program.write_spec(self.run_dir) for program in programs}
        self._write_configuration(programs, specs)
        if self.runs():
            self._reload()
        else:
            self._start()
        for outdated in set((self.run_dir / "programs").iterdir()) - set(specs.values()):
            outdated.unlink()

    def _reload(self) -> None:
        [[added, changed, removed]] = self._call("reloadConfig")
        for name in [*changed, *removed]:
            self.stop([name])
            self._call("removeProcessGroup", name)
        for name in [*added, *changed]:
            self._call("addProcessGroup", name)

    def start(self, name: str) -> None:
        """Returns when it runs for a second, or at once if it does already. Raises ``SetupError``."""
        try:
            self._call("startProcess", name, False)
        except xmlrpc.client.Fault as fault:
            if "ALREADY_STARTED" not in fault.faultString:
                raise SetupError(f"{name} cannot be started: {fault.faultString}") from fault

    def stop(self, names: Iterable[str]) -> None:
        """Stop these side by side, and wait until they have stopped."""
        stopping = [name for name in names if self.is_up(name)]
        for name in stopping:
            self._call("stopProcess", name, False)
        while any(self.is_up(name) for name in stopping):  # ends: the supervisor kills what does not obey
            time.sleep(0.1)

    def shutdown(self) -> None:
        self._call("shutdown")
        deadline = time.monotonic() + START_SECONDS
        while self.runs() and time.monotonic() < deadline:
            time.sleep(0.05)

    def processes(self) -> list[dict[str, Any]]:
        """supervisor's own words: name, statename, pid, start, now and others."""
        return list(self._call("getAllProcessInfo"))

    def process(self, name: str) -> dict[str, Any]:
        return dict(self._call("getProcessInfo", name))

    def is_up(self, name: str) -> bool:
        """Runs, is being started or is being stopped."""
        return self.process(name)["statename"] in {"STARTING", "RUNNING", "BACKOFF", "STOPPING"}

    def _call(self, method: str, *arguments: object) -> Any:
        # A connection of its own for each call: after the supervisor went away an old one is of no use.
        transport = SupervisorTransport(None, None, f"unix://{self._socket}")
        with xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport) as rpc:
            return getattr(rpc.supervisor, method)(*arguments)

    def _write_configuration(self, programs: Iterable[Program], specs: Mapping[str, Path]) -> None:
        private_directory(self.run_dir / "logs")
        _, open_files = resource.getrlimit(resource.RLIMIT_NOFILE)
        head = f"""\
[unix_http_server]
file={_escaped(self._socket)}
chmod=0700

[supervisord]
logfile={_escaped(self.log_file("supervisord"))}
logfile_maxbytes=5MB
logfile_backups=1
pidfile={_escaped(self.run_dir / "supervisord.pid")}
minfds={min(65536, open_files) if open_files > 0 else 65536}

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""
        sections = [self._section(program, specs[program.name]) for program in programs]
        write_private(self._configuration, head + "".join(sections))

    def _section(self, program: Program, spec: Path) -> str:
        return SECTION.format(
            name=program.name,
            command=f'"{_escaped(sys.executable)}" -m deploy.local.launch "{_escaped(spec)}"',
            root=_escaped(ROOT),
            stop_signal=program.stop_signal,
            stop_seconds=program.stop_seconds,
            log_file=_escaped(self.log_file(program.name)),
        )

    def _start(self) -> None:
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(self._configuration)]
        env = {"PATH": SYSTEM_PATH, "LANG": "C.UTF-8"}
        done = subprocess.run(
            command, check=False, env=env, cwd=ROOT, capture_output=True, text=True, timeout=START_SECONDS
        )
        deadline = time.monotonic() + START_SECONDS
        while not self.runs():
            if done.returncode != 0 or time.monotonic() > deadline:
                raise SetupError(f"the supervisor does not start: {done.stderr.strip() or done.stdout.strip()}")
            time.sleep(0.05)


def _escaped(path: Path | str) -> str:
    return str(path).replace("%", "%%")
