"""Finds every secret that the stages of a round hold, and looks for them in text."""

import base64

from silofl.crypto.secret import Secret


def secrets_of(network):
    """The bytes of every Secret reachable from the stages, and the identities' seeds."""
    found = set()
    for stage in network.stages.values():
        _walk(stage, found, set())
    return found


def _walk(value, found, seen):
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Secret):
        found.add(value.expose())
    for part in parts(value):
        _walk(part, found, seen)


def parts(value):
    """What an object is made of, as far as silofl's own classes and containers go."""
    if isinstance(value, dict):
        return list(value.values()) + list(value)
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    if not type(value).__module__.startswith("silofl") or isinstance(value, Secret):
        return []
    names = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    return [getattr(value, name) for name in names] + list(getattr(value, "__dict__", {}).values())


def secrets_shown(text, secrets):
    """Those of the secrets that the text shows: in hex, base64, as Python bytes or as a number."""
    folded = text.lower()
    shown = []
    for secret in secrets:
        forms = (
            secret.hex(),
            repr(secret)[2:-1].lower(),
            base64.b64encode(secret).decode().rstrip("=").lower(),
            str(int.from_bytes(secret)),
            str(int.from_bytes(secret, "little")),
        )
        if any(form in folded for form in forms):
            shown.append(secret)
    return shown
