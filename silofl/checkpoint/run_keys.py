"""The keys of a run without a roster: one identity a silo, made at its first start and kept for all of it.

In the silo's own folder of the run directory lie its private key and everybody's public keys as it learned
them at the first start. A silo that returns is held to these by all others: trust on first use.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from silofl import private_files
from silofl.checkpoint.atomic_files import storage, write_bytes
from silofl.checkpoint.names import stem
from silofl.crypto.identity import Identity
from silofl.crypto.kdf import hkdf, key_info
from silofl.crypto.key_file import read_secret, silo_key
from silofl.crypto.roster import Roster
from silofl.crypto.secret import Secret
from silofl.crypto.signer import Signer
from silofl.errors import ConfigError

IDENTITY, ROSTER = "identity.pem", "keys.toml"


@dataclass(frozen=True)
class KeptKeys:
    """What a silo has of its own of a run's first start; None for what it has not."""

    identity: Identity | None = None
    roster: Roster | None = None


def identity_path(path: Path, silo: int) -> Path:
    """Where a silo's private key lies in its run directory."""
    return path / stem(silo) / IDENTITY


def keep(path: Path, silo: int, signer: Signer) -> None:
    """Have the keys on disk, readable by their owner alone. StorageError where the disk refuses."""
    folder = path / stem(silo)
    with storage(folder):
        private_files.make_folder(folder)
    write_bytes(folder / ROSTER, signer.roster.dumps().encode())
    write_bytes(folder / IDENTITY, signer.identity.to_pem())


def kept(path: Path, silo: int) -> KeptKeys:
    """What `keep` wrote. ConfigError where it cannot be read, is a link, or others may read it."""
    folder = path / stem(silo)
    if folder.is_symlink():
        raise ConfigError(
            f"{folder} is a symbolic link, and none is followed here: put the folder itself there"
        )
    identity, roster = folder / IDENTITY, folder / ROSTER
    return KeptKeys(
        Identity.load(identity) if _is_there(identity) else None,
        Roster.parse(read_secret(roster, "the list of keys"), roster) if _is_there(roster) else None,
    )


def derived(key_file: str, silo: int, run: str) -> Identity:
    """The identity of a silo in a run from `checkpoint.key_file`, for one that may lose its run directory.

    Raises ConfigError or StorageError as `silo_key` does.
    """
    info = key_info("identity of a run", bytes.fromhex(run), 0, silo)
    seed: Secret = hkdf(silo_key(key_file, silo), 32, salt=b"", info=info)
    return Identity.from_private_bytes(seed.expose())


def _is_there(path: Path) -> bool:
    return path.is_symlink() or path.exists()
