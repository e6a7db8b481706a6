/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* On which terms a conversation may begin, as the guest's owner chose for the case that protection
 * is impaired. Asked where there is no session: what is established goes on.
 */
#ifndef LICTOR_TERMS_H
#define LICTOR_TERMS_H

#include "rules.h"

static __always_inline const struct terms *terms_now(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&terms, &zero);
}

/* Whether this is the agent's own packet, which asks for a verdict to prove that it is given. It
 * carries a number that nobody else knows, where no frame from a device can write.
 */
static __always_inline int terms_proof(const struct __sk_buff *skb)
{
	const struct terms *now = terms_now();
	__u64 proof = now ? now->proof : 0;

	return proof && skb->cb[0] == (__u32)proof && skb->cb[1] == (__u32)(proof >> 32);
}

/* What a rule allows does not begin if the owner wants that only under proven verdicts, or only
 * under the newest release.
 */
static __always_inline void terms_keep(struct context *c)
{
	struct judgement *judgement = &c->judgement;
	const struct terms *now = terms_now();
	/* Volatile: the agent writes while programs run. */
	__u64 until = now ? *(volatile const __u64 *)&now->lease_until_ns : 1;

	if (judgement->reason != REASON_POLICY_ALLOW)
		return;
	if (now && now->flags & TERMS_STALE)
		judgement->reason = REASON_STALE;
	else if (until && c->now >= until)
		judgement->reason = REASON_UNPROVEN;
	observe(judgement);
}

/* Whether a segment is one of a conversation that its ends take for established, and such may be
 * taken up now.
 */
static __always_inline int terms_adopt(const struct context *c)
{
	const struct terms *now = terms_now();
	__u64 until = now ? *(volatile const __u64 *)&now->adopt_until_ns : 0;

	return c->now < until && (c->packet.flags & (FLAG_SYN | FLAG_ACK | FLAG_RST | FLAG_FIN)) ==
					 FLAG_ACK;
}

#endif
