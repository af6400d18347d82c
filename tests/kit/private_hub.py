"""A private Postgres with the extension in it, for tests, benchmarks and the demo.

Invariant: nothing outside the hub's own directory is written, no installed cluster is touched, and the server never
runs as root. The installed Postgres tree is copied (Postgres finds its files relative to its binary), the extension is
installed into that copy only, and the server listens on a socket in the same directory, so that any number of hubs run
side by side.

Only the standard library is used here: the demo runs before anything else is installed.
"""

import atexit
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
SUPERUSER = "postgres"
DATABASE = "hub"

# Tests throw the database away, so it need not survive a power cut; `durable` leaves all of this at Postgres's defaults.
VOLATILE_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
}
SETTINGS = {
    "listen_addresses": "''",
    "unix_socket_permissions": "0700",
    "timezone": "'UTC'",
    "log_timezone": "'UTC'",
    "max_connections": "100",
    "max_prepared_transactions": "10",
    "shared_buffers": "'128MB'",
    "jit": "off",  # the copied tree leaves LLVM's bitcode behind
    "log_line_prefix": "'%m [%p] %d '",
}
# Big and not needed, but for pg_config: with the copy's in PATH, `make install` would go into the copy.
LEFT_OUT_OF_TREE = ("bitcode", "pgxs", "man", "doc", "pg_config")
# A socket's address holds 107 bytes; ".s.PGSQL.5432" and a slash need 14 of them.
SOCKET_DIRECTORY_BYTES_MAX = 107 - 14


class HubError(Exception):
    """The private hub could not be built or started; the text says what to do."""


def pg_config_path():
    return os.environ.get("PG_CONFIG") or shutil.which("pg_config") or "/usr/bin/pg_config"


def pg_config(option):
    try:
        return subprocess.run(
            [pg_config_path(), option], check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        raise HubError(f"cannot run {pg_config_path()}: {error}; `make deps` installs Postgres, "
                       "or name another with PG_CONFIG=...") from error


def server_account():
    """Whom the server runs as: initdb and postgres refuse root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise HubError("running as root, and there is neither a user 'postgres' nor 'nobody' to run the server as")


def traversable(directory, account):
    """Whether the server's account can reach `directory` (a checkout under /root cannot be reached)."""
    directory = Path(directory).resolve()
    if account is None:
        return True
    groups = set(os.getgrouplist(account.pw_name, account.pw_gid))
    for part in [*reversed(directory.parents), directory]:
        if not part.exists():
            continue
        status = part.stat()
        if status.st_uid == account.pw_uid:
            needed = stat.S_IXUSR
        elif status.st_gid in groups:
            needed = stat.S_IXGRP
        else:
            needed = stat.S_IXOTH
        if not status.st_mode & needed:
            return False
    return True


class PrivateHub:
    """One private Postgres in one directory. `with PrivateHub() as hub:` starts it and removes it afterwards."""

    def __init__(self, directory=None, durable=False, settings=None):
        self.account = server_account()
        self.durable = durable
        self.settings = dict(settings or {})
        self.temporary = directory is None
        if directory is None:
            directory = tempfile.mkdtemp(prefix="fieldsync-hub-")
            os.chmod(directory, 0o755)
        self.directory = Path(directory).resolve()
        if not traversable(self.directory, self.account):
            raise HubError(f"user {self.account.pw_name} cannot reach {self.directory}; choose a directory under /tmp")
        self.tree = self.directory / "tree"
        self.data = self.directory / "data"
        self.log = self.directory / "server.log"
        self.socket = self.directory / "socket"
        if len(os.fsencode(self.socket)) > SOCKET_DIRECTORY_BYTES_MAX:
            # Kept by name, so that a later `tests/hub stop` finds it again.
            remembered = self.directory / "socket-at"
            if remembered.exists():
                self.socket = Path(remembered.read_text())
            else:
                self.socket = Path(tempfile.mkdtemp(prefix="fieldsync-socket-", dir="/tmp"))
                self.directory.mkdir(parents=True, exist_ok=True)
                remembered.write_text(str(self.socket))
        self.bin = Path(f"{self.tree}{pg_config('--bindir')}")
        self._replaced_handlers = {}

    # -- its place on disk

    def copy_tree(self):
        """The server's own copy of Postgres, in the layout it was built with (about 25 MB)."""
        for option in ("--bindir", "--pkglibdir", "--sharedir"):
            source = pg_config(option)
            target = Path(f"{self.tree}{source}")
            if target.exists():
                continue
            shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True,
                            ignore=shutil.ignore_patterns(*LEFT_OUT_OF_TREE))

    def install_extension(self):
        """`make install` into the private tree: the very command a hub's operator uses."""
        environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
        done = subprocess.run(
            ["make", "-s", "-C", str(CHECKOUT), "install", f"DESTDIR={self.tree}", f"PG_CONFIG={pg_config_path()}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
        if done.returncode != 0:
            raise HubError(f"make install failed:\n{done.stdout}")

    def run(self, *command, check=True):
        """Runs one of the server's programs as the server's account."""
        identity = {}
        if self.account is not None:
            identity = {"user": self.account.pw_uid, "group": self.account.pw_gid,
                        "extra_groups": os.getgrouplist(self.account.pw_name, self.account.pw_gid)}
        environment = {"PATH": f"{self.bin}:/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC", "HOME": str(self.directory)}
        # A pipe would stay open in the server that pg_ctl leaves behind, and reading it would never end.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run([str(part) for part in command], cwd=self.directory, env=environment, umask=0o077,
                                  stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, **identity)
            output.seek(0)
            text = output.read()
        if check and done.returncode != 0:
            log = self.log.read_text(errors="replace")[-2000:] if self.log.exists() else ""
            raise HubError(f"{Path(command[0]).name} failed:\n{text}\n{log}")
        return done.returncode, text

    def create(self):
        previous_umask = os.umask(0o022)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self.copy_tree()
            self.install_extension()
            for path in (self.data, self.socket):
                path.mkdir(exist_ok=True)
                path.chmod(0o700)
                if self.account is not None:
                    os.chown(path, self.account.pw_uid, self.account.pw_gid)
            self.log.touch()
            if self.account is not None:
                os.chown(self.log, self.account.pw_uid, self.account.pw_gid)
        finally:
            os.umask(previous_umask)
        if (self.data / "PG_VERSION").exists():
            return
        unsafe_but_fast = [] if self.durable else ["--no-sync"]
        self.run(self.bin / "initdb", "-D", self.data, "-U", SUPERUSER, "--auth=trust", "--locale=C",
                 "--encoding=UTF8", *unsafe_but_fast)
        wanted = {**SETTINGS, **({} if self.durable else VOLATILE_SETTINGS),
                  "unix_socket_directories": f"'{self.socket}'", **self.settings}
        with open(self.data / "postgresql.conf", "a", encoding="utf-8") as conf:
            conf.write("\n# the private hub\n")
            conf.writelines(f"{name} = {value}\n" for name, value in wanted.items())

    # -- its life

    @property
    def running(self):
        if not (self.data / "PG_VERSION").exists():
            return False
        code, _ = self.run(self.bin / "pg_ctl", "-D", self.data, "status", check=False)
        return code == 0

    def start(self):
        self.create()
        if not self.running:
            self.run(self.bin / "pg_ctl", "-D", self.data, "-l", self.log, "-w", "-t", "60", "start")
        return self

    def stop(self, mode="fast"):
        if self.running:
            self.run(self.bin / "pg_ctl", "-D", self.data, "-m", mode, "-w", "-t", "60", "stop", check=False)

    def remove(self):
        self.stop("immediate")
        for path in {self.directory, self.socket}:
            shutil.rmtree(path, ignore_errors=True)

    def environment(self):
        """What psql and every other client needs to reach this hub."""
        return {
            "PGHOST": str(self.socket),
            "PGPORT": "5432",
            "PGUSER": SUPERUSER,
            "PGDATABASE": DATABASE,
            "PATH": f"{self.bin}:{os.environ.get('PATH', '/usr/bin:/bin')}",
        }

    def psql(self, script, database="postgres"):
        """Runs a script with the real psql; raises when a statement fails."""
        done = subprocess.run(
            [str(self.bin / "psql"), "-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-d", database], input=script,
            env={**os.environ, **self.environment()}, capture_output=True, text=True)
        if done.returncode != 0:
            raise HubError(done.stderr)
        return done.stdout

    def create_database(self, name=DATABASE):
        if not self.psql(f"SELECT 1 FROM pg_database WHERE datname = '{name}'"):
            self.psql(f'CREATE DATABASE "{name}"')

    def _on_signal(self, number, _frame):
        raise SystemExit(128 + number)

    def __enter__(self):
        # A signal becomes an exit, and an exit stops the server: nothing outlives the run that started it.
        for number in (signal.SIGTERM, signal.SIGHUP):
            try:
                self._replaced_handlers[number] = signal.signal(number, self._on_signal)
            except ValueError:  # not the main thread: its owner handles signals
                pass
        atexit.register(self.remove if self.temporary else self.stop)
        return self.start()

    def __exit__(self, *_):
        for number, handler in self._replaced_handlers.items():
            signal.signal(number, handler)
        if self.temporary:
            self.remove()
            atexit.unregister(self.remove)
        else:
            self.stop()
            atexit.unregister(self.stop)
