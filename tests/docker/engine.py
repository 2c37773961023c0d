"""A Docker engine of the tests' own, and the image they build on, on a Debian machine that has neither.

python tests/docker/engine.py up     bring the engine up and make the stand-in image; what is there already is kept
python tests/docker/engine.py env    the export lines for a shell
python tests/docker/engine.py down   stop the engine; --purge deletes its folder too

An engine of the user's that answers is taken as it is. Where there is none, Debian's is unpacked into one folder
(--prefix, EASYLLM_DOCKER_DIR) with its own bridge, socket and data; apt installs what it needs beside it (iptables,
runc, mmdebstrap). Packages and stand-in stay in that folder, so a second start takes seconds. The stand-in image is a
plain Debian with Python; it takes the place of the CUDA and Ubuntu images, so that no test needs a registry.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))  # any Python 3 may run this, not only that of .venv
from easyllm.env.stages import OLDEST_ENGINE

STANDIN = "easyllm-standin:base"
# Debian 13's engine (26.1) is the first with all that the Dockerfile asks for; it runs on Debian 12 as it is.
ENGINE_SUITE = "trixie"
ENGINE_PACKAGES = ("docker.io", "docker-cli", "docker-buildx", "docker-compose", "containerd", "tini")
# Debian 12's Python 3.11 is the one the local torch wheel is for.
STANDIN_SUITE = "bookworm"
STANDIN_PACKAGES = ("ca-certificates", "python3", "python3-venv")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
HOST_CERTIFICATES = Path("/usr/local/share/ca-certificates")
COMMAND_SECONDS = 120
PROGRAM_MISSING = 127
START_SECONDS = 60
STOP_SECONDS = 30
# What the engine's data may have grown to over many runs; past it they begin anew, which costs one cold build.
MOST_DATA_BYTES = 16_000_000_000
# Longest path a Unix socket may have, less the terminating zero.
SOCKET_PATH_BYTES = 107


class CannotStart(Exception):
    """What this machine lacks, in one line."""


@dataclass(frozen=True)
class Engine:
    """Where one engine's things lie."""

    prefix: Path
    borrowed: bool = False
    """It is the user's: it is neither started nor stopped here, and only the stand-in is ours."""

    @property
    def unpacked(self) -> Path:
        return self.prefix / "unpacked"

    @property
    def socket(self) -> Path:
        return self.prefix / "docker.sock"

    @property
    def pid_file(self) -> Path:
        return self.prefix / "docker.pid"

    @property
    def log(self) -> Path:
        return self.prefix / "dockerd.log"

    @property
    def standin(self) -> Path:
        return self.prefix / "standin.tar"

    @property
    def number(self) -> int:
        """Tells the bridges of two engines on one machine apart."""
        return zlib.crc32(str(self.prefix).encode()) % 256

    @property
    def bridge(self) -> str:
        return f"easyllm{self.number}"

    def exports(self) -> dict[str, str]:
        """What a process needs to talk to this engine and no other."""
        if self.borrowed:
            return {}
        return {
            "DOCKER_HOST": f"unix://{self.socket}",
            "DOCKER_CONFIG": str(self.prefix / "config"),
            "PATH": f"{self.unpacked / 'usr/bin'}:{os.environ['PATH']}",
        }

    def environment(self) -> dict[str, str]:
        names = {"DOCKER_CONTEXT"} if not self.borrowed else set()  # a context would win over DOCKER_HOST
        return {key: value for key, value in os.environ.items() if key not in names} | self.exports()

    def docker(self, *words: str) -> str:
        return output(["docker", *words], self.environment())


def default_prefix() -> Path:
    asked = os.environ.get("EASYLLM_DOCKER_DIR")
    return Path(asked) if asked else Path.home() / ".cache" / "easyllm-docker"


def choose(prefix: Path) -> Engine:
    """The user's engine where one answers that is new enough, else our own."""
    own = Engine(prefix.absolute())
    if os.environ.get("DOCKER_HOST") == own.exports()["DOCKER_HOST"] or not shutil.which("docker"):
        return own
    borrowed = Engine(own.prefix, borrowed=True)
    fits = all(run(["docker", *words], quiet=True) == 0 for words in (["buildx", "version"], ["compose", "version"]))
    return borrowed if fits and server_version(borrowed) >= OLDEST_ENGINE else own


def server_version(engine: Engine) -> int:
    """The major version of the engine that answers, 0 where none does."""
    try:
        return int(engine.docker("version", "--format", "{{.Server.Version}}").split(".")[0])
    except (CannotStart, ValueError):
        return 0


# ---------------------------------------------------------------- up


def up(engine: Engine) -> bool:
    """The engine answers and has the stand-in image when this returns; tells whether it had to be started."""
    if not engine.borrowed:
        refuse_what_cannot_work(engine)
    engine.prefix.mkdir(parents=True, exist_ok=True)
    with only_one_at_a_time(engine):
        started = not server_version(engine)
        if started:
            with timed("engine packages"):
                install_missing({"iptables": "iptables", "ip": "iproute2", **bookworm_runc()})
                unpack_engine(engine)
            with timed("dockerd"):
                stop(engine)
                forget_old_builds(engine)
                make_bridge(engine)
                start(engine)
        if not has_standin(engine):
            with timed("stand-in image"):
                if not engine.standin.exists():
                    install_missing({"mmdebstrap": "mmdebstrap"})
                    make_standin(engine)
                engine.docker("import", "--change", 'CMD ["bash"]', str(engine.standin), STANDIN)
    return started


def refuse_what_cannot_work(engine: Engine) -> None:
    if sys.platform != "linux" or not Path("/etc/debian_version").exists():
        raise CannotStart(f"this is no Debian machine: start an engine ({OLDEST_ENGINE} or later) and try again")
    if os.geteuid() != 0:
        raise CannotStart(f"a Docker engine needs root: start one ({OLDEST_ENGINE} or later), or be root")
    if len(os.fsencode(engine.socket)) > SOCKET_PATH_BYTES:
        raise CannotStart(f"{engine.socket} is too long for a socket: choose a shorter --prefix or EASYLLM_DOCKER_DIR")


def suite() -> str:
    return platform.freedesktop_os_release().get("VERSION_CODENAME", "")


def bookworm_runc() -> dict[str, str]:
    """runc is the one program of trixie's that asks for a newer C library than bookworm's; bookworm's own serves."""
    return {"runc": "runc"} if suite() == "bookworm" else {}


def install_missing(package_of: Mapping[str, str]) -> None:
    missing = [package for program, package in package_of.items() if not shutil.which(program, path=system_path())]
    if not missing:
        return
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    if run(install, quiet) != 0:
        # New machines come without package lists. A foreign source that fails must not stop Debian's own.
        run(["apt-get", "update", "-qq"], quiet)
        if run(install, quiet) != 0:
            raise CannotStart(f"apt cannot install {' '.join(missing)}: install it yourself and try again")


def unpack_engine(engine: Engine) -> None:
    """Debian's engine packages, unpacked and not installed: the machine itself stays as it is."""
    if engine.unpacked.exists():
        return
    packages = (*ENGINE_PACKAGES, *(() if bookworm_runc() else ("runc",)))
    debs = engine.prefix / "debs"
    debs.mkdir(exist_ok=True)
    apt = ["apt-get", *apt_options(engine)]
    if not all(any(debs.glob(f"{package}_*.deb")) for package in packages):
        demand(run([*apt, "update", "-qq"]), f"apt finds no packages of Debian {ENGINE_SUITE} at {archive()}")
        demand(run([*apt, "download", "-qq", *packages], where=debs), f"apt cannot download {' '.join(packages)}")
    partial = engine.prefix / "unpacked.partial"
    shutil.rmtree(partial, ignore_errors=True)
    for package in packages:
        newest = max(debs.glob(f"{package}_*.deb"), key=lambda deb: deb.stat().st_mtime)
        demand(run(["dpkg-deb", "-x", str(newest), str(partial)]), f"{newest} is damaged: delete it and try again")
    partial.rename(engine.unpacked)


def apt_options(engine: Engine) -> list[str]:
    """apt with a package list of our own, so that the machine's stays what it is."""
    source = engine.prefix / "sources.list"
    source.write_text(f"deb [signed-by={KEYRING}] {archive()} {ENGINE_SUITE} main\n", encoding="utf-8")
    lists = engine.prefix / "lists"
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    options = {
        "Dir::Etc::sourcelist": source,
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::Lists": lists,
        # the folder of the tests belongs to root alone, where apt's own download user cannot write
        "APT::Sandbox::User": "root",
    }
    return [f"-o{key}={value}" for key, value in options.items()]


def archive() -> str:
    """The Debian archive that this machine's own sources name, a mirror where that is what they name."""
    for _attempt in range(2):
        lines = output(["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Identifier: Packages"])
        for release, _, address in (line.partition(" ") for line in lines.splitlines()):
            if release == suite():
                return address
        run(["apt-get", "update", "-qq"])  # apt lists only what it has fetched before
    raise CannotStart("no Debian archive stands in this machine's apt sources")


def make_bridge(engine: Engine) -> None:
    """Its own network, so that no other engine's is touched."""
    run(["ip", "link", "add", engine.bridge, "type", "bridge"], quiet=True)
    run(["ip", "addr", "add", f"172.31.{engine.number}.1/24", "dev", engine.bridge], quiet=True)
    demand(run(["ip", "link", "set", engine.bridge, "up"]), f"the network bridge {engine.bridge} cannot be made")


def start(engine: Engine) -> None:
    for folder in ("data", "exec", "config"):
        (engine.prefix / folder).mkdir(exist_ok=True)
    plugins = engine.prefix / "config" / "cli-plugins"
    plugins.unlink(missing_ok=True)
    plugins.symlink_to(engine.unpacked / "usr/libexec/docker/cli-plugins")
    settings = engine.prefix / "daemon.json"  # its own, so that the machine's is not read
    settings.write_text('{"log-opts": {"max-size": "10m"}, "features": {"buildkit": true}}\n', encoding="utf-8")
    command = [
        *("dockerd", "--config-file", str(settings), "--bridge", engine.bridge),
        *("--data-root", str(engine.prefix / "data"), "--exec-root", str(engine.prefix / "exec")),
        *("-H", f"unix://{engine.socket}", "--pidfile", str(engine.pid_file)),
    ]
    programs = [stub_folder(engine), engine.unpacked / "usr/sbin", engine.unpacked / "usr/bin", system_path()]
    environment = {**os.environ, "PATH": ":".join(map(str, programs))}
    with engine.log.open("wb") as log:
        # a session of its own: it must outlive the shell and the test run that asked for it
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/"
        )
    deadline = time.monotonic() + START_SECONDS
    while not engine.socket.exists() or not server_version(engine):
        if process.poll() is not None or time.monotonic() > deadline:
            raise CannotStart(f"dockerd does not start: {last_error(engine.log)} ({engine.log})")
        time.sleep(0.2)


def forget_old_builds(engine: Engine) -> None:
    """Every change of the images leaves its layers behind, which in the end fill the disk for all other tests."""
    data = engine.prefix / "data"
    sizes = output(["du", "--summarize", "--block-size=1", str(data)]).split() if data.exists() else ["0"]
    if int(sizes[0]) > MOST_DATA_BYTES:
        print(f"{data} holds {int(sizes[0]) / 1e9:.0f} GB: emptied", file=sys.stderr)
        shutil.rmtree(data)


def stub_folder(engine: Engine) -> Path:
    """Where dockerd finds nvidia's hook at start it accepts `--gpus` and compose's GPU reservation.

    The stub does nothing: containers get the variables and the device request of a GPU machine, and no GPU. So the very
    commands and files of the GPU image are run. dockerd looks for it once, when it starts.
    """
    folder = engine.prefix / "stub"
    folder.mkdir(exist_ok=True)
    hook = folder / "nvidia-container-runtime-hook"
    hook.write_text("#!/bin/sh\ncat >/dev/null\nexit 0\n", encoding="utf-8")
    hook.chmod(0o755)
    return folder


def has_standin(engine: Engine) -> bool:
    return bool(engine.docker("image", "ls", "-q", STANDIN).strip())


def make_standin(engine: Engine) -> None:
    """A plain Debian with Python and this machine's own certificates, as one tar file."""
    if not KEYRING.exists():
        raise CannotStart(f"the stand-in image is made on Debian: make {engine.standin} there and copy it here")
    partial = engine.standin.with_suffix(".partial.tar")
    partial.unlink(missing_ok=True)
    certificates = sorted(HOST_CERTIFICATES.glob("**/*.crt"))
    inside = "/usr/local/share/ca-certificates/"
    hooks = [f"--customize-hook=copy-in {' '.join(shlex.quote(str(file)) for file in certificates)} {inside}"]
    hooks += ['--customize-hook=chroot "$1" update-ca-certificates']
    command = [
        *("mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(STANDIN_PACKAGES)}"),
        *(hooks if certificates else ()),
        *(STANDIN_SUITE, str(partial), f"deb [signed-by={KEYRING}] {archive()} {STANDIN_SUITE} main"),
    ]
    demand(run(command), f"mmdebstrap cannot make a Debian {STANDIN_SUITE} from {archive()}")
    partial.rename(engine.standin)


# ---------------------------------------------------------------- down


def down(engine: Engine, purge: bool) -> None:
    """Ours alone: a borrowed engine goes on."""
    if engine.borrowed:
        return
    with only_one_at_a_time(engine) if engine.prefix.exists() else contextlib.nullcontext():
        stop(engine)
        run(["ip", "link", "delete", engine.bridge], quiet=True)
    if purge:
        shutil.rmtree(engine.prefix, ignore_errors=True)


def stop(engine: Engine) -> None:
    """Ends what an earlier start left: dockerd, and what a killed dockerd leaves behind."""
    pid = running_pid(engine)
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while running_pid(engine) is not None and time.monotonic() < deadline:
            time.sleep(0.2)
        if running_pid(engine) is not None:
            os.kill(pid, signal.SIGKILL)
    for child in left_behind(engine):
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    for mounted in mounts_below(engine.prefix):
        run(["umount", "--lazy", mounted], quiet=True)
    engine.pid_file.unlink(missing_ok=True)
    engine.socket.unlink(missing_ok=True)


def running_pid(engine: Engine) -> int | None:
    """The process in the pid file, where it really is this engine's dockerd and not a later process of that number."""
    try:
        pid = int(engine.pid_file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return pid if str(engine.prefix) in command_line(pid) else None


def left_behind(engine: Engine) -> list[int]:
    """containerd and its shims that outlived a killed dockerd: they hold the folder that the next one needs."""
    own = str(engine.prefix / "exec")
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if own in command_line(pid) and "containerd" in command_line(pid)]


def mounts_below(folder: Path) -> list[str]:
    """What a killed engine left mounted, innermost first: deleting the folder would reach through it."""
    fields = [line.split() for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    return sorted((field[1] for field in fields if field[1].startswith(f"{folder}/")), reverse=True)


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


# ---------------------------------------------------------------- processes, and what they say


def system_path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"


def last_error(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() or ["no word of it"]
    return next((line for line in reversed(lines) if "failed" in line or "error" in line), lines[-1])


def run(
    command: list[str], environment: Mapping[str, str] | None = None, where: Path | None = None, quiet: bool = False
) -> int:
    """Output goes to stderr: stdout is for `env`."""
    to = subprocess.DEVNULL if quiet else sys.stderr
    try:
        return subprocess.run(
            command, env=environment, cwd=where, stdin=subprocess.DEVNULL, stdout=to, stderr=to, check=False
        ).returncode
    except FileNotFoundError:
        return PROGRAM_MISSING


def output(command: list[str], environment: Mapping[str, str] | None = None) -> str:
    """What a command answers; one that hangs (a dead engine behind a live socket) counts as failed."""
    command = [shutil.which(command[0], path=(environment or os.environ).get("PATH")) or command[0], *command[1:]]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS
        )
    except (FileNotFoundError, subprocess.TimeoutExpired) as failed:
        raise CannotStart(str(failed)) from failed
    demand(done.returncode, f"{shlex.join(command)}: {done.stderr.strip()}")
    return done.stdout


def demand(code: int, otherwise: str) -> None:
    if code != 0:
        raise CannotStart(otherwise)


@contextlib.contextmanager
def timed(what: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - started:.1f} s", file=sys.stderr)


@contextlib.contextmanager
def only_one_at_a_time(engine: Engine) -> Iterator[None]:
    """Two test runs on one machine share the engine; the second waits until the first has made it."""
    with (engine.prefix / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["up", "env", "down"])
    parser.add_argument("--prefix", type=Path, default=default_prefix(), help="default: %(default)s")
    parser.add_argument("--purge", action="store_true", help="with down: delete the folder too")
    asked = parser.parse_args()
    engine = choose(asked.prefix)
    try:
        if asked.verb == "up":
            print("started" if up(engine) else "found running")
        elif asked.verb == "down":
            down(engine, asked.purge)
        else:
            print("\n".join(f"export {key}={shlex.quote(value)}" for key, value in engine.exports().items()))
    except CannotStart as why:
        print(why, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
