"""Who may rejoin: a silo that was started again says what it is, signed, and every survivor compares.

With a roster the signature is that of the silo's institution. Without one nothing says who answers, and what
is compared guards against mistakes alone: see `docs/threat-model.md`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import silofl
from silofl.comm.collective_errors import allgather_object, raise_on_all_ranks
from silofl.comm.protocol import Communicator
from silofl.config import Config, first_difference, for_silo, shared_tables
from silofl.crypto.identity import Identity, read_passphrase
from silofl.crypto.kdf import digest
from silofl.crypto.rejoin_proof import challenge, prove, proves
from silofl.crypto.roster import Roster
from silofl.crypto.session_id import SESSION_BYTES, session_id, session_nonce
from silofl.errors import ConfigError

Json = dict[str, Any]
WITHDRAWN = b"withdrawn"
"""The claim of a silo that cannot come back."""


class Admission:
    """One rank's part: what it says of its own silo, and what it knows of every other's from the start."""

    def __init__(self, config: Config, silo: int, model: str, columns: str = "") -> None:
        """`model` is its fingerprint, `columns` a digest. ConfigError where the roster cannot be read."""
        self._config, self._silo, self._model = for_silo(config, silo), silo, model
        self._columns = columns
        self._roster = Roster.load(Path(self._config.secure.roster)) if self._config.secure.roster else None
        self._session = b""
        self._data: list[str] = []
        """Of every silo, where its data lies, as a digest."""
        self._all_columns: list[str] = []
        """Of every silo, names and kinds of its columns, as a digest."""

    @classmethod
    def of(cls, comm: Communicator, config: Config, silo: int, model: str, columns: str = "") -> Admission:
        """Note what every silo is; collective, while all are there. Raises on all ranks what any would."""
        with raise_on_all_ranks(comm):
            own = cls(config, silo, model, columns)
        nonces = comm.allgather_bytes(session_nonce())
        own._session = session_id(dict(enumerate(nonces)))
        every = allgather_object(comm, [own._data_digest(), columns])
        own._data, own._all_columns = [data for data, _ in every], [named for _, named in every]
        return own

    def told(self) -> Json:
        """What a silo that rejoins has to know for the next that does."""
        return {"session": self._session.hex(), "data": self._data, "columns": self._all_columns}

    def take_over(self, told: Json) -> None:
        """Know what the survivors' `told` says."""
        self._session, self._data = bytes.fromhex(told["session"]), list(told["data"])
        self._all_columns = list(told["columns"])

    def challenge(self, comm: Communicator, silos: tuple[int, ...]) -> bytes:
        """What `silos` have to answer this time (48 bytes); collective over the survivors."""
        nonces = comm.allgather_bytes(session_nonce())
        return challenge(self._session, silos, dict(zip(comm.members, nonces, strict=True)))

    def claim(self, asked: bytes) -> bytes:
        """What this silo, started again, says of itself in answer to the challenge `asked`.

        Raises ConfigError where it has a roster without a key, or a key that cannot be read.
        """
        self._session = asked[:SESSION_BYTES]
        statement = {
            "version": silofl.__version__,
            "config": shared_tables(self._config),
            "data": self._data_digest(),
            "model": self._model,
            "columns": self._columns,
            "roster": "" if self._roster is None else self._roster.digest.hex(),
        }
        text, identity = json.dumps(statement), self._identity()
        signature = b"" if identity is None else prove(identity, asked, self._silo, text.encode())
        return json.dumps({"statement": text, "signature": signature.hex()}).encode()

    def refusal(self, silo: int, asked: bytes, claim: bytes) -> str:
        """Why this rank does not let `silo` in, as the rest of a sentence; empty where it does."""
        if claim == WITHDRAWN:
            return "its own standard error says why"
        try:
            content = json.loads(claim)
            statement, signature = content["statement"].encode(), bytes.fromhex(content["signature"])
            if self._roster and not proves(self._roster, asked, silo, statement, signature):
                return (
                    "it has not proved its identity: start it with the secure.identity whose key the roster "
                    f"has for silo {silo}"
                )
            return self._difference(silo, json.loads(statement))
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return "what it says of itself cannot be read: install one version of silofl everywhere"

    def _difference(self, silo: int, stated: Json) -> str:
        if stated["version"] != silofl.__version__:
            return "it has another version of silofl: install one everywhere"
        difference = first_difference(self._config, stated["config"])
        if difference:
            return difference.replace(" here", " in this run").replace(" there", f" at silo {silo}")
        if stated["roster"] != ("" if self._roster is None else self._roster.digest.hex()):
            return "its secure.roster has other institutions: give every silo the same file"
        if stated["data"] != self._data[silo]:
            return "its data.path names another place than at the start: name the one of before"
        if stated["columns"] != self._all_columns[silo]:
            return "the columns of its data have other names or kinds than at the start: restore them"
        other = stated["model"] != self._model
        return "its data or its task makes another model than the run's: restore them" if other else ""

    def _identity(self) -> Identity | None:
        secure = self._config.secure
        if bool(secure.identity) != bool(secure.roster):
            raise ConfigError("secure.identity and secure.roster belong together: set both, or neither")
        if not secure.identity:
            return None
        passphrase = read_passphrase(Path(secure.passphrase_file)) if secure.passphrase_file else None
        return Identity.load(Path(secure.identity), passphrase)

    def _data_digest(self) -> str:
        """Tells whether a path is the same, and not what it is."""
        path = self._config.data.path
        where = str(Path(path).absolute()) if path else ""
        return digest("data", self._session, where.encode()).hex()
