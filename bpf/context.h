/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is known of the packet at hand. It does not fit on the 512 bytes of stack that a program
 * has, so it lies in a map with one value per CPU: programs run with softirqs off and do not nest
 * within a vnic and direction.
 */
#ifndef LICTOR_CONTEXT_H
#define LICTOR_CONTEXT_H

#include <stddef.h>

#include "parse.h"
#include "policy.h"

/* What was learnt of the packet's key so far. */
struct trace {
	__u64 hash;
	__u64 absent; /* TRACE_ABSENT: among the sessions there is none of that key */
};

struct context {
	struct packet packet;
	struct session_key key;
	struct tables tables;
	struct judgement judgement;
	struct trace trace;
	__u64 now;
	__u32 peer; /* of the session, as there */
	__u32 removed; /* copies that an insertion took out again */
	__u32 vnic;
	__u8 direction;
	__u8 new_session;
	__u8 passes; /* denied, but only observed */
	__u8 begins; /* the packet would begin a conversation, if the policy let it */
	__u8 in_need; /* no slot has rested long enough */
	__u8 proves; /* nobody sent it: the agent asks what would be said of it */
	__u8 pad[2];
	struct session fresh; /* the one that this packet opens; not cleared */
	struct known own; /* kept from packet to packet */
	__u64 rules_full_until_ns; /* likewise */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct context);
} scratch SEC(".maps");

#endif
