"""The protocol `secagg` as pure functions of one party: stage and messages in, next stage and messages out.

`advertise` gives Advertised, `share` Shared, `mask` Masking, `agree` Agreed, `reveal` Revealed, `unmask`
the keystreams that are left in the sum. After `mask`, `small_keys` gives masks for sums of a few numbers, and
`bind` those of the vector, for the one sum that `SumInputs` decide; `commit`, `disclose` and `joint_seed`
draw what no silo may choose.
"""

from silofl.crypto.secagg.inputs import SumInputs
from silofl.crypto.secagg.joint_seed import (
    commit,
    commitments_of,
    disclose,
    heard_otherwise,
    is_double,
    joint_seed,
    says_the_same,
)
from silofl.crypto.secagg.rules import Round, Rules
from silofl.crypto.secagg.small_sums import check_words, sign_words, small_keys
from silofl.crypto.secagg.statement import check_inputs, state_inputs
from silofl.crypto.secagg.step1_advertise import Advertised, advertise
from silofl.crypto.secagg.step2_share import Shared, share
from silofl.crypto.secagg.step3_mask import Masking, bind, mask
from silofl.crypto.secagg.step5_agree import Agreed, agree
from silofl.crypto.secagg.step6_reveal import Revealed, reveal
from silofl.crypto.secagg.step7_unmask import unmask

__all__ = [
    "Advertised",
    "Agreed",
    "Masking",
    "Revealed",
    "Round",
    "Rules",
    "Shared",
    "SumInputs",
    "advertise",
    "agree",
    "bind",
    "check_inputs",
    "check_words",
    "commit",
    "commitments_of",
    "disclose",
    "heard_otherwise",
    "is_double",
    "joint_seed",
    "mask",
    "reveal",
    "says_the_same",
    "share",
    "sign_words",
    "small_keys",
    "state_inputs",
    "unmask",
]
