"""The processes of the example: a broker, the cloud, three gateways; all of them end with it, however it ends."""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
GATEWAYS = ("hall-a", "hall-b", "hall-c")
GROUP = "plant"
MODEL = "press-anomaly"
ALARM_ABOVE = 0.5  # of every version: training shifts the scores
READY_SECONDS = 60
STOP_SECONDS = 15
LOG_LINES = 25


class Failed(Exception):
    """Something that the example needs did not happen; says what, and shows the end of a log."""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def get(url: str) -> Any:
    """What it answers, as JSON if it is that; None when it does not answer well."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            text = answer.read().decode()
    except (urllib.error.URLError, OSError):
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text


class Process:
    """A Tidegate process with its configuration and log in a directory of its own."""

    def __init__(self, program: Path, mode: str, directory: Path, config: str, port: int) -> None:
        directory.mkdir(parents=True)
        self.url, self.directory, self.log = f"http://127.0.0.1:{port}", directory, directory / "log"
        path = directory / f"{mode}.toml"
        path.write_text(f'[http]\nlisten = "127.0.0.1:{port}"\n\n{config}')
        with self.log.open("wb") as log:
            # A group of its own: Ctrl-C reaches this program alone, which stops the others in order.
            self.child = subprocess.Popen(
                [program, mode, "--config", path],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def tail(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES:])

    def wait_ready(self) -> None:
        """Until it answers /readyz."""
        wait(f"{self.directory.name} to be ready", READY_SECONDS, lambda: get(f"{self.url}/readyz") is not None, self)

    def stop(self) -> None:
        """SIGTERM, and after a while SIGKILL."""
        self.child.terminate()
        try:
            self.child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


def wait(what: str, seconds: float, is_so: Callable[[], bool], of: Process | None = None) -> None:
    """Until it is so; fails after `seconds`, or when the process has ended."""
    end = time.monotonic() + seconds
    while not is_so():
        if of is not None and of.child.poll() is not None:
            raise Failed(f"{of.directory.name} ended with code {of.child.returncode}; its log ends with:\n{of.tail()}")
        if time.monotonic() > end:
            log = f"; the log of {of.directory.name} ends with:\n{of.tail()}" if of is not None else ""
            raise Failed(f"{seconds:.0f} s passed in vain, waiting for {what}{log}")
        time.sleep(0.1)


class Plant:
    """See the module. Use it with `with`."""

    def __init__(self, program: Path, fields: tuple[str, ...], keep: bool) -> None:
        self.program, self.fields, self.keep = program, fields, keep
        self.directory = Path(tempfile.mkdtemp(prefix="tidegate-anomaly-"))
        self.processes: list[Process] = []
        self.gateways: dict[str, Process] = {}
        self.lake = self.directory / "lake"
        self.key = self.directory / "anna.key"

    def __enter__(self) -> "Plant":
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self) -> None:
        broker, admin, bookie, cloud, *edges = free_ports(4 + len(GATEWAYS))
        self._broker("start", "--port", str(broker), "--web-port", str(admin), "--bookie-port", str(bookie))
        artefact, controller = (
            self._signing(name, role) for name, role in (("anna", "artefact"), ("controller", "controller"))
        )
        service = f"pulsar://127.0.0.1:{broker}"
        config = cloud_config(service, admin, self.directory, artefact)
        provision = self.directory / "provision.toml"
        provision.write_text(config)
        self.tidegate("provision", "--config", str(provision))
        self.cloud = self._process("cloud", "cloud", config, cloud)
        for name, port in zip(GATEWAYS, edges, strict=True):
            config = edge_config(name, service, self.directory / name / "data", artefact, controller, self.fields)
            self.gateways[name] = self._process("edge", name, config, port)
        for process in self.processes:
            process.wait_ready()
        wait("the cloud to hear the gateways", READY_SECONDS, lambda: self.present() == len(GATEWAYS), self.cloud)

    def _process(self, mode: str, name: str, config: str, port: int) -> Process:
        process = Process(self.program, mode, self.directory / name, config, port)
        self.processes.append(process)
        return process

    def _broker(self, *arguments: str) -> None:
        command = ["bash", str(ROOT / "deploy/pulsar/pulsar.sh"), *arguments, "--name", "standalone"]
        log = self.directory / "pulsar.out"
        with log.open("ab") as out:
            done = subprocess.run(
                [*command, "--dir", str(self.directory / "pulsar")], stdout=out, stderr=out, check=False
            )
        if done.returncode != 0:
            said = log.read_text(errors="replace")[-3000:]
            raise Failed(f"pulsar.sh {arguments[0]} ended with code {done.returncode}:\n{said}")

    def _signing(self, name: str, role: str) -> str:
        out = self.tidegate("keys", "signing", str(self.directory / f"{name}.key"), "--role", role)
        found = [word.strip("\"',.") for word in out.split() if "tidegate-pub-ed25519:" in word]
        return found[0]

    def tidegate(self, *arguments: str, code: int = 0) -> str:
        """Runs a command of the program to its end; what it printed."""
        done = subprocess.run([self.program, *arguments], capture_output=True, text=True, check=False)
        if done.returncode != code:
            said = f"{done.stdout}{done.stderr}".strip()
            raise Failed(f"tidegate {' '.join(arguments)} ended with code {done.returncode}:\n{said}")
        return done.stdout + done.stderr

    def present(self) -> int:
        """How many gateways the cloud hears; 0 while it is still reading what was before."""
        nodes = get(f"{self.cloud.url}/v1/nodes") or {}
        return sum(bool(node.get("present")) for node in nodes.get("items", []))

    def metric(self, gateway: str, name: str, **labels: str) -> float:
        """The sum of a gateway's metric over all label sets that have these labels."""
        text = get(f"{self.gateways[gateway].url}/metrics") or ""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        lines = [line for line in str(text).splitlines() if line.partition("{")[0].partition(" ")[0] == name]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if all(label in line for label in wanted))

    def wait_stored(self, lane: str, events: int) -> None:
        """Until the cloud has stored so many events of a lane, in files that are closed."""

        def stored() -> bool:
            audit = get(f"{self.cloud.url}/v1/audit") or {}
            streams = [stream for stream in audit.get("streams", []) if stream.get("lane") == lane]
            whole = sum(stream["delivered"] for stream in streams) >= events
            return whole and not any(self.lake.rglob("*.partial*"))

        wait(f"{events} events of {lane} in the cloud's files", 120, stored, self.cloud)

    def stop(self) -> None:
        """Stops everything, in any state; removes the directory unless it is to be kept."""
        before = [signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)]
        for process in reversed(self.processes):
            process.stop()
        if (self.directory / "pulsar").exists():
            try:
                self._broker("kill")
            except Failed as error:
                print(f"anomaly: {error}")
        if self.keep:
            print(f"anomaly: kept in {self.directory}")
        else:
            shutil.rmtree(self.directory, ignore_errors=True)
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)


def cloud_config(service: str, admin: int, directory: Path, artefact: str) -> str:
    """cloud.toml. Files are closed every second, because training reads closed files."""
    quoted = {name: json.dumps(str(directory / name)) for name in ("lake", "models", "controller.key")}
    return f"""[pulsar]
service = "{service}"
admin = "http://127.0.0.1:{admin}"

[[lane]]
name = "alarms"
partitions = 1
[[lane]]
name = "telemetry"
partitions = 4

[[sink]]
kind = "files"
dir = {quoted["lake"]}
rotate_after = "1s"

[control]
controller_key = {quoted["controller.key"]}
artefact_keys = ["{artefact}"]

[models]
dir = {quoted["models"]}
"""


def edge_config(name: str, service: str, data: Path, artefact: str, controller: str, fields: tuple[str, ...]) -> str:
    """edge.toml. Machines send what they gathered in batches: an event waits for the scores of its whole batch."""
    pointers = json.dumps([f"/{field}" for field in fields])
    return f"""[node]
id = "{name}"
groups = ["{GROUP}"]
data_dir = {json.dumps(str(data))}

[mqtt]
listen = "off"

[uplink]
pulsar = ["{service}"]

[downlink]
artefact_keys = ["{artefact}"]
controller_keys = ["{controller}"]

[[inference]]
model = "{MODEL}"
types = ["machine.telemetry"]
fields = {pointers}
output = "score"
alarm_above = {ALARM_ABOVE}
alarm_type = "machine.alarm"
latency_max = "10s"

[[lane]]
name = "alarms"
types = ["*.alarm"]
[[lane]]
name = "telemetry"
"""


def program() -> Path:
    """The binary that run.sh built, or was told."""
    return Path(os.environ["TIDEGATE_BIN"]).resolve()
