"""Types of config values: names, URLs, secrets, files."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import os
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from reconciler.config.mistakes import Misplaced
from reconciler.events.texts import without_credentials
from reconciler.location import problem


class Section(BaseModel):
    """Base of all sections. Unknown keys are refused: a misspelt one would silently leave a default in place."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _nothing_below(cls, values: Any) -> Any:
        """Treat an empty section or list, with all its content commented out for example, as absent."""
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if value is not None or not cls._may_be_left_out(name)}

    @classmethod
    def _may_be_left_out(cls, name: str) -> bool:
        field = cls.model_fields.get(name)
        return field is not None and field.default_factory is not None

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Remove passwords from URLs. Secrets have their own type, which hides them."""
        for name, value in super().__repr_args__():
            yield name, _without_credentials(value)


def _without_credentials(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_credentials(one) for one in value]
    return without_credentials(value) if isinstance(value, str) else value


def _http_url(url: str) -> str:
    check_url(url, ("http", "https"), "https://host/path")
    return url


def check_url(url: str, schemes: tuple[str, ...], example: str) -> None:
    """Require a URL with one of these schemes, a host and a valid port. Raises ValueError."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # its message may contain part of a password
        raise ValueError(f"should be a URL like {example}: is the port a number?") from None
    if parts.scheme not in schemes or not host or re.search(r"[\s\x00-\x1f\x7f]", url):
        raise ValueError(f"should be a URL like {example}")
    if port == 0:
        raise ValueError(f"should be a URL like {example}: there is no port 0")
    try:
        host.encode("idna")
    except UnicodeError:
        raise ValueError(f"should be a URL like {example}: {host!r} is not a valid host name") from None


def _base_url(url: str) -> str:
    """A base URL, to which paths are added: GitLab's or ours."""
    _http_url(url)
    if urlsplit(url).query or urlsplit(url).fragment:
        raise ValueError("should be a URL like https://host, with no `?` and no `#`")
    return url


def _gitlab_url(url: str) -> str:
    found = re.search(r"/api(/v\d+)?/*$", _base_url(url))
    if found:
        raise ValueError(
            f"should be GitLab's own URL, without {found[0]}: {without_credentials(url[: found.start()])}"
        )
    return url


def _receiver_url(url: str) -> str:
    found = re.search(r"/webhooks(/gitlab(/[^/]+)?)?/*$", _base_url(url))
    if found:
        base = without_credentials(url[: found.start()])
        raise ValueError(f"should be the URL that /webhooks/gitlab/… is below, without {found[0]}: {base}")
    return url


def _host(text: str) -> str:
    """An address to listen on, or a name of this machine."""
    try:
        ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", text):
            raise ValueError(
                "should be an address or a name, like 127.0.0.1; the port has a key of its own"
            ) from None
    return text


def host_and_port(url: str, default: int) -> tuple[str, int]:
    """Host and port of a URL that passed `check_url`."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or default


def check_address(text: str, example: str) -> None:
    """Require `host:port`. Raises ValueError."""
    if "://" in text or "/" in text:
        raise ValueError(f"should be an address like {example}")
    try:
        check_url(f"tcp://{text}", ("tcp",), example)
    except ValueError as error:
        raise ValueError(str(error).replace("a URL", "an address")) from None


def check_header_value(text: str) -> None:
    """Refuse text that can't be the value of an HTTP header. Raises ValueError."""
    if not re.fullmatch(r"[\x20-\x7e\t]*", text) or text != text.strip():
        raise ValueError("can't be sent in a header: only ASCII can, with no line breaks, and no space around it")


def _header_secret(secret: SecretStr) -> SecretStr:
    check_header_value(secret.get_secret_value())
    return secret


def _signing_key(secret: SecretStr) -> SecretStr:
    """Check the key, and add the base64 padding that some leave out."""
    text = secret.get_secret_value().removeprefix("whsec_").rstrip("=")
    padded = text + "=" * (-len(text) % 4)
    try:
        key = base64.b64decode(padded, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise ValueError("should be a Standard Webhooks secret: `whsec_` and base64")
    return SecretStr(f"whsec_{padded}")


def _postgres_uri(secret: SecretStr) -> SecretStr:
    if (wrong := problem(secret.get_secret_value())) is not None:
        raise ValueError(wrong)
    return secret


def _text(value: Any) -> Any:
    """Require quotes: YAML reads digits as a number, `007` as 7, and `yes` as true."""
    if value is None or isinstance(value, str | SecretStr):
        return value
    raise ValueError("should be text: put it in quotes")


def number_in_text(value: Any) -> Any:
    """Convert an ID given as text, as values from the environment are."""
    return int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value) else value


NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Url = Annotated[str, AfterValidator(_http_url)]
GitLabUrl = Annotated[str, AfterValidator(_gitlab_url)]
ReceiverUrl = Annotated[str, AfterValidator(_receiver_url)]
Host = Annotated[str, Field(min_length=1), AfterValidator(_host)]
SigningKey = Annotated[SecretStr, AfterValidator(_signing_key)]
Secret = Annotated[SecretStr, Field(min_length=1), BeforeValidator(_text)]
PostgresUri = Annotated[SecretStr, AfterValidator(_postgres_uri), BeforeValidator(_text)]
HeaderSecret = Annotated[SecretStr, AfterValidator(_header_secret), BeforeValidator(_text)]
"""A secret that is sent in a header."""


def _anchored(path: Path, info: ValidationInfo) -> Path:
    folder = (info.context or {}).get("folder", Path())
    try:
        return Path(folder) / path.expanduser()
    except RuntimeError:  # `~somebody`
        raise ValueError(f"{path}: there is no such user") from None


def _no_folder(path: Path) -> Path:
    if "\0" in str(path):
        raise ValueError("should be a file's path: no file's name has a zero byte")
    if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises where the path can't be looked at
        raise ValueError(f"should be a file: {path} is a folder")
    return path


def _networks(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, list):
        try:
            return [ipaddress.ip_network(str(one)) for one in value]
        except ValueError as error:
            raise ValueError(f"should list networks like 10.0.0.0/8: {error}") from None
    raise ValueError("should be true, false, or a list of networks like [10.0.0.0/8]")


def _proxy(url: SecretStr) -> SecretStr:
    _http_url(url.get_secret_value())
    return url


def _certificates(path: Path) -> Path:
    try:
        ssl.create_default_context(cafile=path)
    except ssl.SSLError:  # OpenSSL's message would not help
        raise ValueError(f"{path}: holds no certificates (PEM)") from None
    except OSError as error:
        raise ValueError(f"{path}: can't be read: {error.strerror or error}") from None
    return path


def _readable(path: Path) -> Path:
    try:
        with path.open("rb"):
            return path
    except OSError as error:
        raise ValueError(f"{path}: can't be read: {error.strerror}") from None


Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Networks = Annotated[
    bool | list[Any],
    BeforeValidator(_networks),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"type": "array", "items": {"type": "string"}}]}),
]
"""True for all, or a list of `Network`."""

ProxyUrl = Annotated[SecretStr, AfterValidator(_proxy)]
"""May hold a password."""

FilePath = Annotated[Path, AfterValidator(_anchored)]
"""A path. A relative one is relative to the config file's folder."""

FileToWrite = Annotated[FilePath, AfterValidator(_no_folder)]
"""Path of a file that may not exist yet. Not a folder."""

ReadFile = Annotated[Path, AfterValidator(_anchored), AfterValidator(_readable)]
"""Path of an existing file that can be read."""

CaFile = Annotated[Path, AfterValidator(_anchored), AfterValidator(_certificates)]
"""Path of an existing file with CA certificates."""


class Tls(Section):
    """TLS settings. Server certificates are always verified."""

    ca_file: CaFile | None = Field(
        None, description="CA certificates (PEM) to trust instead of the system's, for a private CA."
    )
    cert_file: ReadFile | None = Field(None, description="Client certificate (PEM), for servers that require one.")
    key_file: ReadFile | None = Field(
        None, description="Key of the client certificate (PEM), if it is not in `cert_file`."
    )

    @model_validator(mode="after")
    def _fit(self) -> Tls:
        if self.key_file is not None and self.cert_file is None:
            raise Misplaced((("key_file",), "is the key of a client certificate: `cert_file` is missing", None))
        try:
            self.context()
        except (OSError, ssl.SSLError):
            key = "of its own" if self.key_file is None else f"in {self.key_file}"
            what = (
                f"{self.cert_file}: can't be used: it should hold a certificate (PEM), with its key {key}, unlocked"
            )
            raise Misplaced((("cert_file",), what, None)) from None
        return self

    def context(self) -> ssl.SSLContext:
        """These settings as an SSLContext. Raises OSError or ssl.SSLError if a file can't be used."""
        context = ssl.create_default_context(cafile=self.ca_file)
        if self.cert_file is not None:
            context.load_cert_chain(self.cert_file, self.key_file)
        return context
