/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a rule keeps at a vnic: what it decided, and what is used of its limits in this second. */
#ifndef LICTOR_RULES_H
#define LICTOR_RULES_H

#include <linux/errno.h>

#include "context.h"

static __always_inline void host_count(__u32 index)
{
	__u64 *value = bpf_map_lookup_elem(&host_counters, &index);

	if (value)
		__sync_fetch_and_add(value, 1);
}

static __always_inline struct rule_set *rule_set(__u32 rule)
{
	__u32 index = rule * FIRST_RULES_MIX >> FIRST_RULES_SHIFT;

	return bpf_map_lookup_elem(&first_rules, &index);
}

/* What is kept of a rule that has, or now takes, a place of its own. */
static __always_inline struct rule_state *rule_first(struct rule_set *set, __u32 rule)
{
	__u64 wanted = RULE_SLOT_TAKEN | rule, found;

#pragma unroll
	for (__u32 i = 0; i < FIRST_RULES_EACH; i++) {
		found = *(volatile __u64 *)&set->slots[i].rule;
		if (!found)
			found = __sync_val_compare_and_swap(&set->slots[i].rule, 0, wanted);
		if (!found || found == wanted)
			return &set->slots[i].state;
	}
	return 0;
}

/* What is kept of a rule whose set is full. If there are as many rules as a vnic may have, it is
 * not tried for a while to make room for another: a policy with very many rules would pay for it
 * with each packet.
 */
static __always_inline struct rule_state *
rule_later(struct context *c, struct rule_set *set, __u32 rule)
{
	__u64 bit = 1ULL << (rule * LATER_RULES_MIX >> LATER_RULES_SHIFT);
	__u64 *later = &set->slots[0].later;
	struct rule_state fresh = {}, *state;
	int full = c->now < c->rules_full_until_ns, failed;

	if (full && !(*(volatile __u64 *)later & bit))
		return 0;
	state = bpf_map_lookup_elem(&rules, &rule);
	if (state || full)
		return state;
	failed = bpf_map_update_elem(&rules, &rule, &fresh, BPF_NOEXIST);
	if (!failed)
		__sync_fetch_and_or(later, bit);
	else if (failed == -E2BIG)
		c->rules_full_until_ns = c->now + RULES_FULL_NS;
	return bpf_map_lookup_elem(&rules, &rule);
}

/* What a vnic keeps of a rule. */
static __always_inline struct rule_state *rule_find(struct context *c, __u32 rule)
{
	struct rule_set *set = rule_set(rule);
	struct rule_state *state = set ? rule_first(set, rule) : 0;

	return state || !set ? state : rule_later(c, set, rule);
}

/* Takes one of `max` in the current second. Whoever is always too late is refused: a limit that
 * fails open is none.
 */
static __always_inline int limit_take(__u64 *window, __u64 now, __u32 max)
{
	__u64 second = (__u32)(now / 1000000000ULL);

	for (int i = 0; i < LIMIT_TRIES; i++) {
		__u64 old = *(volatile __u64 *)window, next = second << 32 | 1;

		if (old >> 32 == second) {
			if ((__u32)old >= max)
				return 0;
			next = old + 1;
		}
		if (__sync_val_compare_and_swap(window, old, next) == old)
			return 1;
	}
	return 0;
}

/* A new session under a rule with a limit. Where the rule can't be kept track of, it has none left.
 */
static __always_inline void rule_limit(struct context *c)
{
	struct judgement *judgement = &c->judgement;
	struct rule_state *state;

	if (judgement->reason != REASON_POLICY_ALLOW || !judgement->limit)
		return;
	state = rule_find(c, judgement->rule);
	if (state && limit_take(&state->limit, c->now, judgement->limit))
		return;
	judgement->reason = REASON_LIMITED;
	observe(judgement);
}

static __always_inline void rule_count(struct context *c, __u32 bytes)
{
	struct rule_state *state = rule_find(c, c->judgement.rule);

	if (!state) {
		host_count(HOST_RULES_UNCOUNTED);
		return;
	}
	__sync_fetch_and_add(&state->packets, 1);
	__sync_fetch_and_add(&state->bytes, bytes);
	if (c->new_session)
		__sync_fetch_and_add(&state->sessions, 1);
}

static __always_inline void rule_count_observed(struct context *c)
{
	struct rule_state *state = rule_find(c, c->judgement.would_rule);

	if (state)
		__sync_fetch_and_add(&state->observed, 1);
	else
		host_count(HOST_RULES_UNCOUNTED);
}

/* Whether a rule may report one more event in this second. */
static __always_inline int rule_may_report(struct context *c)
{
	const struct judgement *judgement = &c->judgement;
	struct rule_state *state;

	if (!judgement->log_limit)
		return 1;
	state = rule_find(c, judgement->rule);
	return state && limit_take(&state->log_limit, c->now, judgement->log_limit);
}

#endif
