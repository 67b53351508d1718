"""Reads files of spans: both formats, plain or gzip, while they are being written, and past what is cut short."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Generic, TypeVar

from rlm_obs import _guard
from rlm_obs._exporters._made_back import UnknownVersionError, records_of
from rlm_obs._exporters._rotation import old_files
from rlm_obs.errors import ConfigError

if TYPE_CHECKING:
    from rlm_obs._record import Record

T = TypeVar("T")
CHUNK = 1 << 16
GZIP = b"\x1f\x8b"
#: How often a file that is followed is looked at.
PAUSE_S = 0.2


def read_records(path: str | os.PathLike[str]) -> Iterator[Record]:
    """Read the calls that FileExporter wrote, in the order of the file; equal to what was exported, digit for digit.

    Either format is read, plain or gzip, and `-` is the standard input. Other spans are passed over, and so are lines
    that are not whole (a crash, a full disk), with a warning in the log. Raises OSError where the file cannot be read,
    ConfigError where a newer rlm_obs has written it.
    """
    reader = Reader(os.fspath(path), records_of)
    for piece in pieces(path):
        yield from reader.feed(piece)
    yield from reader.end()


def pieces(path: str | os.PathLike[str]) -> Iterator[bytes]:
    """Yield the bytes of a file, as they come where it is a pipe; `-` is the standard input."""
    piped = os.fspath(path) == "-"
    with open(0 if piped else path, "rb", closefd=not piped) as file:
        while data := file.read1(CHUNK):
            yield data


class Reader(Generic[T]):
    """Makes spans (or records) of the bytes of a file as they come, and counts what it cannot: nothing is dropped unseen.

    `torn`: what a crash has cut short, at the end of a file. `unknown`: whole lines of no format of ours, and the rest of a
    gzip file that is damaged within.
    """

    def __init__(self, name: str, made_of: Callable[[bytes], Sequence[T]]) -> None:
        self.name, self._made_of = name, made_of
        self.torn = self.unknown = 0
        self._begin()

    def _begin(self) -> None:
        self._line = self._head = b""
        self._number = 0
        self._zipped: bool | None = None
        self._broken = False
        self._member = zlib.decompressobj(wbits=31)
        self._member_begun = False

    def feed(self, data: bytes) -> Iterator[T]:
        """Yield what the whole lines say that have come to their end."""
        *lines, self._line = (self._line + self._unzipped(data)).split(b"\n")
        for line in lines:
            yield from self._of_line(line)

    def end(self) -> Iterator[T]:
        """Yield what the last line says, if only its end is missing, and be ready for another file."""
        line, begun = self._line + (b"" if self._zipped else self._head), self._member_begun
        try:
            if line.strip():
                yield from self._made_of(line)
            self.torn += begun
        except UnknownVersionError as error:
            raise self._newer(error) from None
        except ValueError:
            self.torn += 1
        finally:
            self._begin()

    def left_out(self) -> str:
        """Return in words what was left out; empty where nothing was."""
        counts = ((self.torn, "cut short at the end of a file"), (self.unknown, "unreadable"))
        return ", ".join(f"{count} line{'s' * (count > 1)} {why}" for count, why in counts if count)

    def _of_line(self, line: bytes) -> Sequence[T]:
        self._number += 1
        try:
            return self._made_of(line) if line.strip() else ()
        except UnknownVersionError as error:
            raise self._newer(error) from None
        except ValueError:
            self.unknown += 1
            _guard.say_once(
                f"read {self.name}:{self._number}", "%s, line %d is not whole and is skipped", self.name, self._number
            )
            return ()

    def _newer(self, error: UnknownVersionError) -> ConfigError:
        where = f"{self.name}, line {self._number}"
        return ConfigError(f"{where}: format {error.version!r} is unknown here: pip install -U rlm-obs")

    def _unzipped(self, data: bytes) -> bytes:
        if self._zipped is None:
            data, self._head = self._head + data, b""
            if len(data) < len(GZIP) and GZIP.startswith(data):
                self._head = data
                return b""
            self._zipped = data.startswith(GZIP)
        if not self._zipped or self._broken:
            return b"" if self._broken else data
        plain = []
        try:
            while data:
                plain.append(self._member.decompress(data))
                self._member_begun = not self._member.eof
                if self._member_begun:
                    break
                data, self._member = self._member.unused_data.lstrip(b"\0"), zlib.decompressobj(wbits=31)
        except zlib.error:  # what follows cannot be told from noise
            self._broken, self._member_begun = True, False
            self.unknown += 1
            _guard.say_once(f"read {self.name} gzip", "%s is damaged: the rest of it is skipped", self.name)
        return b"".join(plain)


def followed(path: str | os.PathLike[str], reader: Reader[T]) -> Iterator[list[T] | None]:
    """Yield what a file says and then what it gets, for ever; when it is rotated, its rest and then the ones after it.

    It need not be there yet. None says that there is nothing new for now.
    """
    known = set(_olds(path))
    while True:
        for stamp, old in _olds(path).items():
            if stamp not in known:  # begun and full since we have looked last
                known.add(stamp)
                with suppress(FileNotFoundError):
                    for piece in pieces(old):
                        yield list(reader.feed(piece))
                yield list(reader.end())
        try:
            file = open(path, "rb")  # noqa: SIM115
        except FileNotFoundError:
            yield None
            time.sleep(PAUSE_S)
            continue
        with file:
            if _olds(path).keys() - known:
                continue
            yield from _followed_while_it_is_there(path, file, reader)
            yield list(reader.end())
            known.update(_name_of(file, path, known))


def _olds(path: str | os.PathLike[str]) -> dict[str, Path]:
    return dict(old_files(Path(path).absolute()))


def _name_of(file: BinaryIO, path: str | os.PathLike[str], known: set[str]) -> Iterator[str]:
    """Yield the time in the name that an open file was given when it was rotated: it is the oldest that is new."""
    for stamp, old in _olds(path).items():
        if stamp not in known:
            packed = old.name.endswith(".gz") and not os.fspath(path).endswith(".gz")
            with suppress(FileNotFoundError):
                if packed or os.path.samestat(old.stat(), os.fstat(file.fileno())):
                    yield stamp
            return


def _followed_while_it_is_there(
    path: str | os.PathLike[str], file: BinaryIO, reader: Reader[T]
) -> Iterator[list[T] | None]:
    last = False
    while True:
        while data := file.read(CHUNK):
            yield list(reader.feed(data))
        if last:
            return
        now = os.fstat(file.fileno())
        if now.st_size < file.tell():  # cut down to begin anew
            file.seek(0)
            yield list(reader.end())
            continue
        with suppress(FileNotFoundError):  # moved away, and the next one not yet begun
            last = not os.path.samestat(os.stat(path), now)
        if not last:
            yield None
            time.sleep(PAUSE_S)
