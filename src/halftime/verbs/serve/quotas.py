"""Keys with names and limits: pictures a minute, and pictures in hand at once."""

from __future__ import annotations

import math
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from halftime.base.errors import BadInput
from halftime.http.access import ApiKey
from halftime.http.errors import ApiError

_MINUTE = 60.0
_ROUNDING = 1e-9  # of pictures


class KeySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key of a `--keys` file. None: no limit. A key of weight 2 gets two turns for one of a
    key of weight 1 while both wait."""

    secret: Annotated[str, Meta(min_length=1)]
    pictures_per_minute: Annotated[float, Meta(gt=0)] | None = None
    waiting: Annotated[int, Meta(ge=1)] | None = None  # pictures that wait or are drawn
    weight: Annotated[float, Meta(gt=0)] = 1.0


def check_secret(secret: str, where: str) -> None:
    """Raises BadInput for what no client can send in a header."""
    if not secret.isascii() or not secret.isprintable() or " " in secret:
        raise BadInput(f"{where} holds a key that no header can carry: printable ASCII, no spaces.")


def keys_in(variable: str, text: str | None) -> tuple[str, ...]:
    """The keys of an environment variable, with commas between. Raises BadInput where it is set and
    holds none: whoever set it does not mean to serve everybody."""
    if text is None:
        return ()
    keys = tuple(key.strip() for key in text.split(",") if key.strip())
    if not keys:
        raise BadInput(f"{variable} is set and holds no key. Set one, or unset it.")
    for key in keys:
        check_secret(key, variable)
    return keys


def read_keys(path: Path) -> dict[str, KeySettings]:
    """Name -> key of a TOML file with a table for each. Raises BadInput."""
    try:
        keys = msgspec.convert(tomllib.loads(path.read_text()), dict[str, KeySettings])
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise BadInput(
            f'{path} is no file of keys: {error}. For each key write [NAME], secret = "...", and '
            "where it has limits pictures_per_minute = 60 and waiting = 8; for more or fewer turns "
            "than others weight = 2."
        ) from error
    if not keys:
        raise BadInput(f"{path} holds no key: nobody could ask.")
    secrets = Counter(key.secret for key in keys.values())
    if max(secrets.values()) > 1:
        raise BadInput(f"{path} gives two names to one key.")
    for key in keys.values():
        check_secret(key.secret, str(path))
    return keys


def all_keys(
    anonymous: tuple[str, ...], keys: Mapping[str, KeySettings]
) -> tuple[ApiKey | str, ...]:
    """The keys of the environment and those of a file, by name."""
    return (*anonymous, *(ApiKey(name, key.secret) for name, key in keys.items()))


@dataclass
class Quotas:
    """What each key has used of its limits. `clock` is monotonic.

    The minute is a bucket that fills steadily: after a pause a minute's pictures may come at once.
    """

    keys: Mapping[str, KeySettings]
    clock: Callable[[], float]
    _spent: dict[str, float] = field(default_factory=dict)  # pictures, as of the time beside
    _since: dict[str, float] = field(default_factory=dict)
    _in_hand: Counter[str] = field(default_factory=Counter)

    def weight(self, client: str) -> float:
        """Turns of this client for one of any other."""
        return self.keys[client].weight if client in self.keys else 1.0

    def take(self, client: str, pictures: int) -> None:
        """Count these. Raises ApiError: 429 where they are too many now, 400 where they always
        are."""
        key = self.keys.get(client)
        if key is None:
            return
        _check_possible(key, pictures)
        self._check_rate(client, key, pictures)
        if key.waiting is not None and self._in_hand[client] + pictures > key.waiting:
            raise ApiError(
                429,
                f"{self._in_hand[client]} pictures of this key wait or are drawn, of "
                f"{key.waiting} at most.",
                code="too_many_waiting",
                retry_after=1.0,
            )
        self._in_hand[client] += pictures
        if key.pictures_per_minute is not None:
            self._spent[client] += pictures

    def _check_rate(self, client: str, key: KeySettings, pictures: int) -> None:
        limit, now = key.pictures_per_minute, self.clock()
        if limit is None:
            return
        refilled = (now - self._since.get(client, now)) * limit / _MINUTE
        self._spent[client] = max(0.0, self._spent.get(client, 0.0) - refilled)
        self._since[client] = now
        over = self._spent[client] + pictures - max(1.0, limit)
        if over > _ROUNDING:
            raise ApiError(
                429,
                f"This key may draw {limit:g} pictures a minute.",
                code="rate_limit_exceeded",
                retry_after=over * _MINUTE / limit,
            )

    def done(self, client: str, pictures: int, *, refused: bool = False) -> None:
        """These are answered; where the engine refused them they do not count."""
        if client not in self.keys:
            return
        self._in_hand[client] -= pictures
        if refused and client in self._spent:
            self._spent[client] -= pictures


def _check_possible(key: KeySettings, pictures: int) -> None:
    """Raises ApiError (400) for more pictures than this key could ever ask for at once."""
    burst = max(1.0, key.pictures_per_minute or math.inf)
    most = min(burst, key.waiting or math.inf)
    if pictures > most:
        message = f"This key may ask for {most:.0f} pictures at once; n is {pictures}."
        raise ApiError(400, message, code="unsupported_value", param="n")
