"""Masks of small sums beside the round's vector: pairs alone, by keys that are never opened."""

from __future__ import annotations

from collections.abc import Collection

from silofl.crypto.framing import pack_header
from silofl.crypto.identity import SIGNATURE_BYTES
from silofl.crypto.masks import MaskKeys, mask_keys
from silofl.crypto.secagg.participants import refuse_thin_neighbourhoods, refuse_too_few
from silofl.crypto.secagg.step3_mask import Masking, pair_sign
from silofl.errors import ProtocolError, ThresholdError


def small_keys(stage: Masking, among: Collection[int], decided: bytes, fewest: int | None = None) -> MaskKeys:
    """This silo's masks with its neighbours in `among`; they cancel in a sum over exactly these silos.

    Any number of sums may be hidden by them, each at positions of its own: words at a position used twice
    would show their difference. Nothing opens these masks, so a sum in which a silo is missing is void; the
    caller takes it again over the survivors, at new positions. The sum over fewer silos, next to one
    that was complete, shows the lost silo's words.

    `decided` is a digest (32 bytes) of what the numbers were made from: silos that were given different
    models have masks that do not cancel. `fewest`: of how many silos, all of them neighbours, such a sum may
    be; None: of as many as the round's.

    ProtocolError when this silo is not in `among`, or names one that did not share; ThresholdError when
    `among` are too few.
    """
    chosen, me = frozenset(among), stage.me
    if me not in chosen:
        raise ProtocolError(f"silo {me} is not among the silos of the small sum that it takes part in")
    strangers = chosen - set(stage.deals)
    if strangers:
        silo = min(strangers)
        raise ProtocolError(
            f"silo {silo} is in a small sum of a round in which it shared nothing", sender=silo
        )
    peers = sorted(stage.participants.neighbours[me] & chosen)
    if fewest is None:
        refuse_too_few(stage.party.context, len(chosen), "are in a small sum")
        refuse_thin_neighbourhoods(stage.participants, chosen)
    elif 1 + len(peers) < max(fewest, len(chosen)):
        raise ThresholdError(f"silo {me} has masks with {len(peers)} silos alone; nothing was revealed")
    return mask_keys(
        stage.party.context.rules.prg,
        [(stage.channels.small_key(peer, decided), pair_sign(me, peer)) for peer in peers],
    )


def sign_words(stage: Masking, position: int, decided: bytes, words: bytes) -> bytes:
    """Masked words of a small sum as they travel where no later vote vouches for the sum."""
    return words + stage.party.identity.sign(_signed(stage, stage.me, position, decided) + words)


def check_words(stage: Masking, silo: int, position: int, decided: bytes, message: bytes) -> bytes:
    """The masked words in what `silo` sent; ProtocolError, naming it, unless it signed them for here."""
    words, signature = message[:-SIGNATURE_BYTES], message[-SIGNATURE_BYTES:]
    if not stage.party.context.roster.verify(
        silo, signature, _signed(stage, silo, position, decided) + words
    ):
        raise ProtocolError(
            f"silo {silo}'s words of a small sum are refused: its signature is not that of the silo in the "
            "roster, or it was given another model than this silo",
            sender=silo,
        )
    return words


def _signed(stage: Masking, silo: int, position: int, decided: bytes) -> bytes:
    context = stage.party.context
    header = pack_header(0, context.session, context.number, silo)
    return b"silofl/2 small sum\0" + header + position.to_bytes(8) + decided
