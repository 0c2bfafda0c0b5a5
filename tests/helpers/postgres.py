"""A PostgreSQL server on loopback, of Debian's package, started by hand in a temporary folder as a user of its own."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from helpers.command import free_ports

USER, PASSWORD = "sweeper", "opensesame"


def programs() -> Path | None:
    """The folder of initdb and pg_ctl, which Debian keeps out of PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    pg_ctl = str(found[-1]) if found else shutil.which("pg_ctl")
    return Path(pg_ctl).parent if pg_ctl else None


def missing() -> list[str]:
    """What is not installed."""
    return [*([] if programs() else ["postgresql"]), *([] if find_spec("psycopg") else ["psycopg"])]


class Postgres:
    """``address``: for sweep.storage, without the password, which is in ``environment``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (self.port,) = free_ports(1)
        self.address = f"postgresql://{USER}@127.0.0.1:{self.port}/postgres"
        self.address_with_password = self.address.replace(USER, f"{USER}:{PASSWORD}")
        self.environment = {**os.environ, "PGPASSWORD": PASSWORD}

    def run(self, program: str, *arguments: str) -> None:
        bin_dir = programs()
        assert bin_dir is not None
        user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []  # the server refuses to run as root
        with (self.folder / "output").open("ab") as output:
            subprocess.run([*user, str(bin_dir / program), *arguments], check=True, cwd=self.folder, stdout=output,
                           stderr=output)  # fmt: skip

    def create(self) -> None:
        if os.getuid() == 0:
            os.chown(self.folder, pwd.getpwnam("postgres").pw_uid, -1)
        password = self.folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        self.run("initdb", "--pgdata=data", f"--username={USER}", "--auth=scram-sha-256", f"--pwfile={password}",
                 "--no-sync", "--locale=C", "--encoding=UTF8")  # fmt: skip

    def start(self) -> None:
        options = f"-c listen_addresses=127.0.0.1 -p {self.port} -k {self.folder} -c fsync=off"
        self.run("pg_ctl", "start", "--wait", "--pgdata=data", "--log=log", f"--options={options}")

    def stop(self) -> None:
        """At once, whatever clients are doing."""
        self.run("pg_ctl", "stop", "--pgdata=data", "--mode=immediate")

    def execute(self, statement: str) -> None:
        import psycopg  # not everybody has it

        with psycopg.connect(self.address, password=PASSWORD) as connection:
            connection.execute(statement)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        self.stop()
        try:
            yield
        finally:
            self.start()


@contextmanager
def server() -> Iterator[Postgres]:
    """In a folder that the server's user can reach, unlike pytest's."""
    with tempfile.TemporaryDirectory(prefix="postgres") as name:
        postgres = Postgres(Path(name))
        postgres.create()
        postgres.start()
        try:
            yield postgres
        finally:
            if (postgres.folder / "data/postmaster.pid").is_file():
                postgres.stop()
