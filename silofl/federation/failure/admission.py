"""Who may rejoin: a silo that was started again says what it is, signed, and every survivor compares.

The signature is that of the silo's institution in the roster; without a roster, of the silo of the run's
first start: see `docs/threat-model.md`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import silofl
from silofl.checkpoint.names import stem
from silofl.comm.collective_errors import allgather_parsed, texts
from silofl.comm.protocol import Communicator
from silofl.config import Config, first_difference, for_silo, shared_tables
from silofl.crypto.kdf import digest
from silofl.crypto.rejoin_proof import challenge, prove, proves
from silofl.crypto.session_id import SESSION_BYTES, session_id, session_nonce
from silofl.crypto.signer import Signer

Json = dict[str, Any]
WITHDRAWN = b"withdrawn"
"""The claim of a silo that cannot come back."""


class Admission:
    """One rank's part: what it says of its own silo, and what it knows of every other's from the start."""

    def __init__(self, config: Config, silo: int, model: str, columns: str, signer: Signer) -> None:
        """`model` is its fingerprint, `columns` a digest, `signer` this silo's in the run."""
        self._config, self._silo, self._model = for_silo(config, silo), silo, model
        self._columns, self._signer = columns, signer
        self._session = b""
        self._data: list[str] = []
        """Of every silo, where its data lies, as a digest."""
        self._all_columns: list[str] = []
        """Of every silo, names and kinds of its columns, as a digest."""

    @classmethod
    def of(
        cls, comm: Communicator, config: Config, silo: int, model: str, columns: str, signer: Signer
    ) -> Admission:
        """Note what every silo is; collective, while all are there."""
        own = cls(config, silo, model, columns, signer)
        nonces = comm.allgather_bytes(session_nonce())
        own._session = session_id(dict(enumerate(nonces)))
        every = allgather_parsed(comm, [own._data_digest(), columns], _pair, "its data")
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
        """What this silo, started again, says of itself in answer to the challenge `asked`."""
        self._session = asked[:SESSION_BYTES]
        statement = {
            "version": silofl.__version__,
            "config": shared_tables(self._config),
            "data": self._data_digest(),
            "model": self._model,
            "columns": self._columns,
            "roster": self._signer.roster.digest.hex(),
        }
        text = json.dumps(statement)
        signature = prove(self._signer.identity, asked, self._silo, text.encode())
        return json.dumps({"statement": text, "signature": signature.hex()}).encode()

    def refusal(self, silo: int, asked: bytes, claim: bytes) -> str:
        """Why this rank does not let `silo` in, as the rest of a sentence; empty where it does."""
        if claim == WITHDRAWN:
            return "its own standard error says why"
        try:
            content = json.loads(claim)
            statement, signature = content["statement"].encode(), bytes.fromhex(content["signature"])
            if not proves(self._signer.roster, asked, silo, statement, signature):
                return f"it has not proved its identity: {self._remedy(silo)}"
            return self._difference(silo, json.loads(statement))
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return "what it says of itself cannot be read: install one version of silofl everywhere"

    def _difference(self, silo: int, stated: Json) -> str:
        if stated["version"] != silofl.__version__:
            return "it has another version of silofl: install one everywhere"
        difference = first_difference(self._config, stated["config"])
        if difference:
            return difference.replace(" here", " in this run").replace(" there", f" at silo {silo}")
        if stated["roster"] != self._signer.roster.digest.hex():
            if self._signer.of_first_start:
                return f"it has other public keys than those of the run's first start: {self._remedy(silo)}"
            return "its secure.roster has other institutions: give every silo the same file"
        return self._other_data(silo, stated)

    def _other_data(self, silo: int, stated: Json) -> str:
        if stated["data"] != self._data[silo]:
            return "its data.path names another place than at the start: name the one of before"
        if stated["columns"] != self._all_columns[silo]:
            return "the columns of its data have other names or kinds than at the start: restore them"
        other = stated["model"] != self._model
        return "its data or its task makes another model than the run's: restore them" if other else ""

    def _remedy(self, silo: int) -> str:
        if self._signer.of_first_start:
            return f"put the keys of the run's first start back into {stem(silo)} of its run directory"
        return f"start it with the secure.identity whose key the roster has for silo {silo}"

    def _data_digest(self) -> str:
        """Tells whether a path is the same, and not what it is."""
        path = self._config.data.path
        where = str(Path(path).absolute()) if path else ""
        return digest("data", self._session, where.encode()).hex()


def _pair(told: Any) -> tuple[str, str]:
    data, columns = texts(told)
    return data, columns
