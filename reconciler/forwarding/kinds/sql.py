"""`kind: sql`: a row of a table for each event. Delivered means that the database has committed it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo

from reconciler.config.basics import Secret
from reconciler.config.destinations import BatchedDestination, WrittenFile
from reconciler.forwarding.kind import Connected
from reconciler.forwarding.message import ACCEPTED, Answer, Message
from reconciler.forwarding.reach import bracketed

if TYPE_CHECKING:
    from sqlalchemy import URL

    from reconciler.forwarding.sql_session import Session

_DRIVERS = {
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}
_PORTS = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306}
_EXTRAS = {"psycopg": "sql,postgresql", "pymysql": "sql,mysql"}
_EXAMPLE = "should be a URL like postgresql://user:password@host/database"


def _database(secret: SecretStr, info: ValidationInfo) -> SecretStr:
    """The URL with its driver, and a file's path from the config's folder. No message shows any of a URL's login."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    try:
        url = make_url(secret.get_secret_value())
    except (ArgumentError, ValueError):  # its message may contain part of a password
        raise ValueError(
            f"{_EXAMPLE}: is the port a number, and is every special character of the password written as %XX?"
        ) from None
    url = url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))
    if "@" in (url.host or "") + ("" if url.drivername.startswith("sqlite") else url.database or ""):
        raise ValueError(f"{_EXAMPLE}, with every special character of the password written as %XX")
    try:
        dialect = url.get_dialect()
        dialect.import_dbapi()
    except NoSuchModuleError:
        raise ValueError(f"{_EXAMPLE}: SQLAlchemy has no dialect {url.drivername}") from None
    except ImportError:
        extra = _EXTRAS.get(url.get_driver_name())
        what = f"pip install 'gitlab-reconciler[{extra}]'" if extra else f"the one that {url.drivername} names"
        raise ValueError(f"needs a driver: {what}") from None
    if dialect.is_async:
        raise ValueError(f"{url.drivername} is a driver for asyncio: name one that is not, or none")
    if url.get_backend_name() in (*_PORTS, "sqlite") and url.database in (None, "", ":memory:"):
        raise ValueError(f"{_EXAMPLE}, or sqlite:///events.db: it names no database")
    if url.get_backend_name() == "sqlite" and not str(url.database).startswith("file:"):
        folder = (info.context or {}).get("folder", Path())
        url = url.set(database=str(folder / Path(str(url.database))))
    return SecretStr(url.render_as_string(hide_password=False))


DatabaseUrl = Annotated[Secret, AfterValidator(_database)]
"""May hold a password."""


class SqlDestination(BatchedDestination):
    """A table in PostgreSQL, MySQL, MariaDB, SQLite, or another database that SQLAlchemy knows."""

    kind: Literal["sql"] = "sql"
    url: DatabaseUrl = Field(
        description="Database, like postgresql://user:password@127.0.0.1:5432/database, mysql://…, mariadb://…, or "
        "sqlite:///events.db (relative to the config file)."
    )
    url_file: Path | None = Field(None, description="File that contains the URL.")
    table: str = Field(
        "gitlab_events",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}(\.[A-Za-z_][A-Za-z0-9_]{0,62})?$",
        description="Table, or schema.table. It is created if it is missing; a schema is not.",
    )

    @property
    def written_file(self) -> WrittenFile | None:
        """The file of SQLite's. Several destinations may have tables in it."""
        from sqlalchemy import make_url

        url = make_url(self.url.get_secret_value())
        if url.get_backend_name() != "sqlite":
            return None
        name = str(url.database)
        path = unquote(urlsplit(name).path) if name.startswith("file:") else name
        return WrittenFile("url", Path(path), is_shared=True)


class Sql(Connected["Session"]):
    """An event that is sent again overwrites its row. A batch is one transaction.

    All calls are made one after the other on one connection.
    """

    config = SqlDestination
    requires = ("sqlalchemy", "sql")

    def __init__(self, destination: SqlDestination) -> None:
        super().__init__(destination)
        self._destination = destination

    @property
    def _url(self) -> URL:
        from sqlalchemy import make_url

        return make_url(self._destination.url.get_secret_value())

    @property
    def address(self) -> str:
        return f"{self._where}: {self._destination.table}"

    @property
    def _where(self) -> str:
        url = self._url
        if not url.host:
            return url.database or url.get_backend_name()
        port = url.port or _PORTS.get(url.get_backend_name())
        return bracketed(url.host) + (f":{port}" if port else "") + (f"/{url.database}" if url.database else "")

    @property
    def endpoints(self) -> list[tuple[str, int]]:
        url = self._url
        port = url.port or _PORTS.get(url.get_backend_name())
        return [(url.host, port)] if url.host and port else []

    async def connect(self) -> Session:
        from reconciler.forwarding.sql_session import Session

        wanted = self._destination
        session = Session(self._url, wanted.table, timeout_s=wanted.timeout / 1000)
        try:
            await session.run(session.connect)
        except BaseException:
            session.abandon()
            raise
        return session

    async def check(self) -> str:
        """Connect as for messages, and look at the table."""
        await self._check_listening()
        session = await self.connect()
        try:
            is_there = await session.run(session.look)
        finally:
            await self.disconnect(session)
        return f"{self.address}: connected, the table " + ("is there" if is_there else "will be created")

    async def publish(self, connection: Session, message: Message) -> None:
        await connection.run(lambda: connection.write([message]))

    async def publish_batch(self, connection: Session, messages: Sequence[Message]) -> Sequence[Answer]:
        await connection.run(lambda: connection.write(messages))
        return [ACCEPTED] * len(messages)

    def target(self, message: Message) -> Hashable:
        return self.address  # a transaction has all of a batch, or none

    async def disconnect(self, connection: Session) -> None:
        await connection.close()
