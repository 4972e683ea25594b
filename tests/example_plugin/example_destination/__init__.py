"""`kind: folder`: each event becomes a file of its own, named by the event's id."""

import asyncio
import os
from typing import Literal

from pydantic import Field

from reconciler.config.basics import FilePath
from reconciler.config.destinations import Destination
from reconciler.forwarding.kind import Kind
from reconciler.forwarding.message import ACCEPTED, Answer, DeliveryRejected, Message


class FolderDestination(Destination):
    """The keys that it takes: those of every destination, and its own."""

    kind: Literal["folder"] = "folder"
    path: FilePath = Field(description="The folder; relative to the config file.")
    largest: int = Field(1_000_000, description="A larger event is refused: it becomes a dead letter.")


class Folder(Kind):
    config = FolderDestination

    def __init__(self, destination: FolderDestination) -> None:
        self._path = destination.path
        self._largest = destination.largest

    @property
    def address(self) -> str:
        return str(self._path)

    async def send(self, message: Message) -> Answer:
        if len(message.body) > self._largest:
            raise DeliveryRejected(f"{len(message.body)} bytes are more than `largest`")
        await asyncio.to_thread(self._write, message)  # any error: it is tried again
        return ACCEPTED

    def _write(self, message: Message) -> None:
        """Whole and on disk, or not there: a repeat replaces the file with the same bytes."""
        part = self._path / f".{message.id}.part"
        with part.open("wb") as file:
            file.write(message.body)
            file.flush()
            os.fsync(file.fileno())
        part.rename(self._path / f"{message.id}.json")
