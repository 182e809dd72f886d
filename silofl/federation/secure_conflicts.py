"""What contradicts [secure], asked of its protocol: keys that do nothing, and sums that hide nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from silofl.aggregation.protocols import AUTO, PROTOCOLS, choose_protocol, possible_protocols
from silofl.compression.registry import CODECS
from silofl.config import Config, SecureConfig
from silofl.config.mistakes import either
from silofl.errors import ConfigError
from silofl.privacy.places import PLACES
from silofl.topologies.arrangements.registry import build

OF_EVERY_RUN = frozenset({"protocol", "identity", "passphrase_file", "roster"})
"""Keys that mean the same under every protocol: checkpoints and silos that return are always signed for."""
_OF_SUMS_OVER_ALL = frozenset({"bits", "range", "rounding", "recompute"})
_PRIVATE_GRID = frozenset({"range", "rounding"})


def refuse_conflicts(config: Config) -> None:
    """Raise ConfigError, of one sentence, where a key of [secure] was set that does nothing here."""
    idle, secure = idle_keys(config), config.secure
    for key in SecureConfig.model_fields:
        value = getattr(secure, key)
        if key in idle and key in secure.model_fields_set and value not in ("", None):
            shown = f'"{value}"' if isinstance(value, str) else str(value).lower()
            raise ConfigError(f"secure.{key} = {shown} does nothing {idle[key]}")
    privacy, protocols = config.privacy, possible_protocols(secure)
    if config.compress.bits is not None and not any(one.private for one in protocols.values()):
        raise ConfigError(
            f"compress.bits = {config.compress.bits} are those of a secure sum, and secure.protocol = "
            f'"{secure.protocol}" adds floats up: set secure.protocol = '
            f"{_either(name for name, one in PROTOCOLS.items() if one.private)}, or remove compress.bits"
        )
    arrangement = build(config.topology)
    if arrangement.moves_sums and not all(one.arranged for one in protocols.values()):
        raise ConfigError(
            f'topology.name = "{config.topology.name}" has ranks add up what others send, and '
            f'secure.protocol = "{secure.protocol}" hides it from its committee alone: set secure.protocol = '
            f"{_either(name for name, one in PROTOCOLS.items() if one.arranged)}"
        )
    name = config.compress.name
    if not CODECS[name].linear and any(one.private for one in protocols.values()):
        bits, whom = (
            ("", "neighbours") if arrangement.own_models else (" or compress.bits without a name,", "all")
        )
        raise ConfigError(
            f'compress.name = "{name}" makes a packet of each silo\'s own, of which a masked sum means '
            f'nothing, and secure.protocol is "{secure.protocol}": set compress.name = "random_k",{bits} or '
            f'secure.protocol = "plain", which shows every packet to {whom}'
        )
    needed = privacy.unit != "none" and PLACES[privacy.place].needs_private_sum
    if needed and not any(one.private for one in protocols.values()):
        raise ConfigError(
            f'privacy.place = "{privacy.place}" hides noisy parts in a secure sum, secure.protocol = '
            f'"{secure.protocol}" shows each: set secure.protocol = '
            f'{_either(name for name, one in PROTOCOLS.items() if one.private)}, or privacy.place = "local"'
        )


def in_the_clear(secure: SecureConfig, silos: int) -> list[str]:
    """A notice where `auto` means that updates of so many silos are added up in the clear."""
    if secure.protocol != "auto" or choose_protocol(secure, silos).private:
        return []
    why = f"among {silos} silos a sum hides nothing, for it less one's own update is the other's; "
    why += "three or more are protected"
    if silos == 1:
        why = "one silo trains alone; start all by one `silofl launch -n N` or `mpirun -n N`"
    return [f"updates are added up in the clear: {why}"]


def idle_keys(config: Config) -> Mapping[str, str]:
    """Every key of [secure] that this configuration makes no use of, with why and what to do instead."""
    secure, privacy = config.secure, config.privacy
    protocols = possible_protocols(secure)
    read = OF_EVERY_RUN.union(*(one.reads for one in protocols.values()))
    idle = {key: _under(secure, key) for key in SecureConfig.model_fields if key not in read}
    if build(config.topology).own_models:
        why = f'under topology.name = "{config.topology.name}", which opens no sum of updates over all silos'
        idle |= dict.fromkeys(_OF_SUMS_OVER_ALL, f"{why}: leave it out")
    if not secure.identity:
        idle["passphrase_file"] = "without secure.identity, the key that it opens: set that, or leave it out"
    if config.compress.active or config.prune.active:
        section = "[compress]" if config.compress.active else "[prune]"
        why = f"under {section}, which rounds at random, or to nearest with error feedback: leave it out"
        idle.setdefault("rounding", why)
    if privacy.unit == "none":
        return idle
    place = PLACES[privacy.place]
    under = f'under privacy.place = "{privacy.place}"'
    if not place.alone:
        why = f"{under}, where sums are of whole numbers on the grid of the noise: leave it out"
        idle = dict.fromkeys(_PRIVATE_GRID, why) | idle
    if not place.repeatable:
        idle.setdefault("recompute", f"{under}: each server adds its own noise; leave it out")
    return idle


def _under(secure: SecureConfig, key: str) -> str:
    which = f", which is {_either(AUTO)}" if secure.protocol == "auto" else ""
    readers = [name for name, one in PROTOCOLS.items() if key in one.reads]
    return (
        f'under secure.protocol = "{secure.protocol}"{which}: leave it out, or set secure.protocol = '
        f"{_either(readers)}"
    )


def _either(names: Iterator[str] | list[str] | tuple[str, ...]) -> str:
    return either(list(names)).replace("'", '"')
