"""The AES S-box as a circuit of 113 gates, for any type that has `&` and `^`.

Boyar and Peralta, "A depth-16 circuit for the AES S-box" (IACR ePrint 2011/332), FIPS 197 section 5.1.1.
A circuit looks nothing up, so no memory access depends on a secret.
"""

from __future__ import annotations

from typing import Any


def sbox(b0: Any, b1: Any, b2: Any, b3: Any, b4: Any, b5: Any, b6: Any, b7: Any, ones: Any) -> Any:
    """S-box of bit-sliced bytes: plane j holds bit j (0 the lowest) of many bytes, `ones` all of them set.

    Returns the eight planes of the result in the same order.
    """
    # Linear layer in
    y14, y13, y9, y8, t0 = b4 ^ b2, b7 ^ b1, b7 ^ b4, b7 ^ b2, b6 ^ b5
    y1 = t0 ^ b0
    y4, y12, y2, y5 = y1 ^ b4, y13 ^ y14, y1 ^ b7, y1 ^ b1
    y3, t1 = y5 ^ y8, b3 ^ y12
    y15, y20 = t1 ^ b2, t1 ^ b6
    y6, y10, y11 = y15 ^ b0, y15 ^ t0, y20 ^ y9
    y7, y17, y19, y16 = b0 ^ y11, y10 ^ y11, y10 ^ y8, t0 ^ y11
    y21, y18 = y13 ^ y16, b7 ^ y16
    # Inversion in GF(2^8)
    t2, t7, t12 = y12 & y15, y13 & y16, y9 & y11
    t4, t6, t9, t11 = (y3 & y6) ^ t2, (y4 & b0) ^ t2, (y5 & y1) ^ t7, (y2 & y7) ^ t7
    t14, t16 = (y14 & y17) ^ t12, (y8 & y10) ^ t12
    t21, t22, t23, t24 = t4 ^ t14 ^ y20, t6 ^ t16 ^ y19, t9 ^ t14 ^ y21, t11 ^ t16 ^ y18
    t25, t26 = t21 ^ t22, t21 & t23
    t27, t31 = t24 ^ t26, t22 ^ t26
    t29, t33 = (t25 & t27) ^ t22, (t31 & (t23 ^ t24)) ^ t24
    t36 = t24 & (t27 ^ t33)
    t37, t38 = t36 ^ t23 ^ t33, t27 ^ t36
    t40 = t25 ^ (t29 & t38)
    t41, t42, t43, t44 = t40 ^ t37, t29 ^ t33, t29 ^ t40, t33 ^ t37
    t45 = t42 ^ t41
    z0, z1, z2, z3, z4, z5 = t44 & y15, t37 & y6, t33 & b0, t43 & y16, t40 & y1, t29 & y7
    z6, z7, z8, z9, z10, z11 = t42 & y11, t45 & y17, t41 & y10, t44 & y12, t37 & y3, t33 & y4
    z12, z13, z14, z15, z16, z17 = t43 & y13, t40 & y5, t29 & y2, t42 & y9, t45 & y14, t41 & y8
    # Linear layer out
    t46, t48, t53 = z15 ^ z16, z5 ^ z13, z0 ^ z3
    t57, t58, t59 = z2 ^ z12 ^ t53, z4 ^ t46, z3 ^ z6 ^ z7
    t62, t63, t64 = z7 ^ z8 ^ t58, z9 ^ z10 ^ t58, z4 ^ t59
    t65, t66 = z14 ^ t57 ^ t62, z1 ^ t63
    s3 = t53 ^ t66
    return (
        t48 ^ t46 ^ t57 ^ ones,
        z12 ^ t48 ^ t62 ^ ones,
        z10 ^ z11 ^ t65,
        z2 ^ z5 ^ t66,
        s3,
        z16 ^ z17 ^ t64 ^ t65 ^ ones,
        t64 ^ s3 ^ ones,
        t59 ^ t63,
    )
