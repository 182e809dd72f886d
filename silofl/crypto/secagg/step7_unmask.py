"""Step 7, unmask: which keystreams are left in the sum over the survivors (Bonawitz et al. 2017, round 4)."""

from __future__ import annotations

from collections.abc import Mapping

from silofl.crypto import shamir
from silofl.crypto.agreement import KeyPair
from silofl.crypto.masks import MaskKeys, Sign, flipped, mask_keys
from silofl.crypto.secagg.messages import Reveal, receive
from silofl.crypto.secagg.step2_share import seed_commitment, share_digest
from silofl.crypto.secagg.step3_mask import Masking, mask_salt, pair_key, pair_sign, self_key
from silofl.crypto.secagg.step6_reveal import Revealed, called_for
from silofl.crypto.secret import Secret
from silofl.crypto.shamir import Share
from silofl.errors import ProtocolError, ThresholdError


def unmask(stage: Revealed, reveals: Mapping[int, bytes]) -> MaskKeys:
    """Take the reveals that arrived; give what to add to the masked sum to have the plain one.

    Every share is checked against its dealer's commitment and every secret against the dealer's advert.
    ProtocolError names the silo that told a wrong share or dealt wrong ones; ThresholdError when the shares
    that are left open some secret no more. Without the sender at fault it can be called again.
    """
    masking, survivors = stage.masking, stage.survivors
    pool: dict[int, list[Share]] = {silo: [] for silo in masking.deals}
    for silo, message in _messages(stage, reveals).items():
        for dealer, _, value in message.shares:
            pool[dealer].append(Share(silo + 1, value))
    salt = mask_salt(masking.participants, stage.inputs)
    left, whose = list[tuple[Secret, Sign]](), list[tuple[int, ...]]()
    for silo in sorted(masking.deals):
        peers = sorted(masking.participants.neighbours[silo] & survivors)
        if silo in survivors:
            left.append(_self_mask(masking, salt, silo, pool[silo]))
            whose.append((silo,))
        elif peers:
            left += _pair_masks(masking, salt, silo, peers, pool[silo])
            whose += [(silo, peer) for peer in peers]
    return mask_keys(masking.party.context.rules.prg, left, whose)


def _messages(stage: Revealed, reveals: Mapping[int, bytes]) -> dict[int, Reveal]:
    messages = {stage.me: stage.reveal}
    for silo, data in reveals.items():
        if silo != stage.me:
            messages[silo] = _check_reveal(stage, silo, data)
    return dict(sorted(messages.items()))


def _check_reveal(stage: Revealed, silo: int, data: bytes) -> Reveal:
    masking = stage.masking
    if silo not in masking.deals:
        raise ProtocolError(f"silo {silo} reveals without having shared", sender=silo)
    message = receive(Reveal, data, masking.party.context, silo)
    if message.transcript != stage.reveal.transcript:
        raise ProtocolError(f"silo {silo} reveals in another transcript of the round", sender=silo)
    held = [dealer for dealer in masking.participants.holders[silo] if dealer in masking.deals]
    due = [(dealer, called_for(dealer, stage.survivors)) for dealer in held]
    if [(dealer, kind) for dealer, kind, _ in message.shares] != due:
        raise ProtocolError(f"silo {silo} reveals other shares than the survivors call for", sender=silo)
    for dealer, kind, value in message.shares:
        committed = masking.commitments[dealer][silo][kind - 1]
        if share_digest(masking.party.context, dealer, kind, Share(silo + 1, value)) != committed:
            raise ProtocolError(f"silo {silo} reveals a wrong share of silo {dealer}'s secret", sender=silo)
    return message


def _open(masking: Masking, dealer: int, shares: list[Share]) -> Secret:
    threshold = masking.participants.threshold
    if len(shares) < threshold:
        raise ThresholdError(
            f"{len(shares)} of the {threshold} shares that open silo {dealer}'s mask are left: "
            "the round is void"
        )
    try:
        return shamir.reconstruct(shares[:threshold], threshold)
    except ProtocolError:
        raise _wrong_dealer(dealer) from None


def _self_mask(masking: Masking, salt: bytes, silo: int, shares: list[Share]) -> tuple[Secret, Sign]:
    context = masking.party.context
    seed = _open(masking, silo, shares)
    if seed_commitment(context, silo, seed) != masking.deals[silo].seed_commitment:
        raise _wrong_dealer(silo)
    return self_key(context, salt, silo, seed), -1


def _pair_masks(
    masking: Masking, salt: bytes, lost: int, peers: list[int], shares: list[Share]
) -> list[tuple[Secret, Sign]]:
    context, participants = masking.party.context, masking.participants
    pair = KeyPair.from_private_bytes(_open(masking, lost, shares))
    if pair.public != participants.adverts[lost].mask_public:
        raise _wrong_dealer(lost)
    masks: list[tuple[Secret, Sign]] = []
    for peer in peers:
        secret = pair.agree(participants.adverts[peer].mask_public, sender=peer)
        masks.append((pair_key(context, salt, lost, peer, secret), flipped(pair_sign(peer, lost))))
    return masks


def _wrong_dealer(dealer: int) -> ProtocolError:
    message = f"the shares that silo {dealer} dealt do not give the secret that it advertised"
    return ProtocolError(message, sender=dealer)
