/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A multilinear hash with secret keys is strongly universal in its upper half (Lemire and Kaser,
 * 2014): whoever does not know the keys can't aim at a bucket. The mixing that follows spreads the
 * upper half over all bits.
 */
#ifndef LICTOR_HASH_H
#define LICTOR_HASH_H

#include "abi.h"

static __always_inline __u64 hash_mixed(__u64 sum)
{
	sum ^= sum >> 32;
	sum *= HASH_MIX;
	return sum ^ (sum >> 29);
}

#endif
