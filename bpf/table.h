/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The table of sessions: buckets of seven slots in a memory-mapped array, so that the agent exports
 * and imports without a system call for each session, and a hit costs one line of control words and
 * the slot itself.
 *
 * Each slot has a control word: the hash's tag, how many buckets were passed on the way, and a
 * state.
 * No lock is ever held. Whoever wants a slot swaps its control word from free to claimed; whoever
 * fills it publishes it by another swap; nobody reads a slot that is not live. Two processors that
 * insert the same key at once may publish it twice, so each looks along the whole way again after
 * publishing: the copy that lies first stays, and every other is taken out by whoever sees it. Both
 * publish before they look, so at least one of them sees the other.
 *
 * A bucket that is full counts those that passed it, and a search ends at a bucket that nobody
 * passed. A slot that was freed is not claimed again for a while if another is free: a processor
 * may still be writing into the session that it held.
 */
#ifndef LICTOR_TABLE_H
#define LICTOR_TABLE_H

#include "context.h"

/* Functions that are not static are verified once and by themselves, whoever calls them: loops in
 * loops would be walked for each call otherwise. The verifier wants each pointer of theirs checked.
 */
#define CONTROL_MATCH 0xffffffff0000000fULL
#define TICK_SHIFT 20
#define SPARE_SHIFT 40
/* Processors that may be quicker, one after the other, before a session is refused. */
#define CLAIM_TRIES 4

static __always_inline __u32 ticks(__u64 ns)
{
	return ns >> TICK_SHIFT;
}

/* Processors may be a tick apart: what is about to happen has just happened. */
static __always_inline __u32 ticks_since(__u32 then, __u32 now)
{
	return (__s32)(now - then) < 0 ? 0 : now - then;
}

static __always_inline __u64
table_hash(const struct table_info *info, const struct session_key *key)
{
	const __u32 *words = (const __u32 *)key;
	__u64 sum = info->hash_keys[HASH_WORDS];

#pragma unroll
	for (__u32 i = 0; i < HASH_WORDS; i++)
		sum += info->hash_keys[i] * words[i];
	return hash_mixed(sum);
}

static __always_inline __u64 control_word(__u64 hash, __u32 passed, __u32 state)
{
	return hash << 32 | passed << CONTROL_PASSED_SHIFT | state;
}

static __always_inline int same_key(const struct session_key *a, const struct session_key *b)
{
	const __u64 *x = (const __u64 *)a, *y = (const __u64 *)b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2] && x[3] == y[3] && x[4] == y[4];
}

/* No two steps of a way lead to the same bucket: in a table of 32 buckets or more each goes further
 * than a bucket is wide, and fifteen of them do not come around. An insertion would otherwise take
 * its own session for a second copy, and a way of short steps would see nothing but full buckets.
 */
static __always_inline __u32 bucket_index(__u32 buckets, __u64 hash, __u32 step)
{
	__u32 stride = STRIDE_MAX - ((__u32)hash * 0x9e3779b1 >> STRIDE_SHIFT);
	__u32 place = (__u32)(hash >> 32) + step * stride;

	return ((__u64)place * buckets) >> 32;
}

static __always_inline struct bucket *bucket_at(__u32 table, __u32 buckets, __u64 hash, __u32 step)
{
	__u32 index = bucket_index(buckets, hash, step);
	void *inner = bpf_map_lookup_elem(&sessions, &table);

	return inner ? bpf_map_lookup_elem(inner, &index) : 0;
}

/* Where in its bucket a session lies if it found that slot free: looked at first, so that the
 * processor fetches control word and slot at once instead of one after the other.
 */
static __always_inline __u32 slot_preferred(__u64 hash)
{
	__u32 slot = hash >> 4 & 7;

	/* The compiler knows this bound, the verifier has to be shown it. */
	asm volatile("" : "+r"(slot));
	return slot < BUCKET_SLOTS ? slot : 0;
}

/* The live slot of the key in a bucket. */
static __always_inline struct slot *
bucket_find(struct bucket *bucket, const struct session_key *key, __u64 wanted)
{
	__u32 first = slot_preferred(wanted >> 32);

	if ((bucket->control[first] & CONTROL_MATCH) == wanted &&
	    same_key(&bucket->slots[first].key, key))
		return &bucket->slots[first];
#pragma unroll
	for (__u32 i = 0; i < BUCKET_SLOTS; i++) {
		if ((bucket->control[i] & CONTROL_MATCH) != wanted)
			continue;
		if (same_key(&bucket->slots[i].key, key))
			return &bucket->slots[i];
	}
	return 0;
}

/* Whoever copies a table looks into the buckets of which anything was heard meanwhile, and into no
 * others. One store a tick, in a line that was read anyway. Returns whether it was the first one.
 */
static __always_inline int bucket_hear(struct bucket *bucket, __u64 now)
{
	if (*(volatile __u32 *)&bucket->heard == ticks(now))
		return 0;
	*(volatile __u32 *)&bucket->heard = ticks(now);
	return 1;
}

/* The same side by side for all buckets, while somebody copies: to look for the few that were heard
 * of takes no look into each bucket then. Before a session is changed, or after it was put in or
 * taken out.
 */
static __always_inline void heard_of(const struct table_info *info, __u32 index, __u64 now)
{
	__u32 table = TABLE_HEARD, value = index >> HEARD_SHIFT;
	__u32 *heard;
	void *inner;

	if (!*(volatile __u32 *)&info->copied)
		return;
	inner = bpf_map_lookup_elem(&sessions, &table);
	heard = inner ? bpf_map_lookup_elem(inner, &value) : 0;
	if (heard)
		*(volatile __u32 *)&heard[index & ((1 << HEARD_SHIFT) - 1)] = ticks(now);
}

__noinline int table_hear(__u32 index, __u64 now)
{
	__u32 zero = 0;
	const struct table_info *info = bpf_map_lookup_elem(&session_table, &zero);

	if (info)
		heard_of(info, index, now);
	return 0;
}

/* The same for a step of a hash's way in the current table. Of one that is being emptied nobody
 * asks: whoever copies looks into each bucket then. It calls nobody: those who call it have no
 * stack left.
 */
__noinline int way_hear(__u64 hash, __u32 step, __u64 now)
{
	__u32 zero = 0;
	const struct table_info *info = bpf_map_lookup_elem(&session_table, &zero);

	if (info)
		heard_of(info,
			 bucket_index(info->buckets[info->current & TABLE_CURRENT_MASK], hash,
				      step),
			 now);
	return 0;
}

/* One more than the number of the key's slot in a bucket; zero if it is not there. */
__noinline __u32 bucket_search(struct context *c, struct bucket *bucket)
{
	__u64 wanted;

	if (!c || !bucket)
		return 0;
	wanted = control_word(c->trace.hash, 0, SLOT_LIVE);
	for (__u32 i = 0; i < BUCKET_SLOTS; i++)
		if ((bucket->control[i] & CONTROL_MATCH) == wanted &&
		    same_key(&bucket->slots[i].key, &c->key))
			return i + 1;
	return 0;
}

/* The place of the key's slot, from one step of its way on: eight times the bucket, and one more
 * than the slot in it; zero if it is not there.
 */
__noinline __u64 table_search(struct context *c, __u32 table, __u32 buckets, __u32 from)
{
	if (!c)
		return 0;
	for (__u32 step = 0; step < BUCKET_STEPS; step++) {
		struct bucket *bucket;
		__u32 slot;

		if (step < from)
			continue;
		bucket = bucket_at(table, buckets, c->trace.hash, step);
		if (!bucket)
			return 0;
		slot = bucket_search(c, bucket);
		if (slot)
			return (__u64)bucket_index(buckets, c->trace.hash, step) << 3 | slot;
		/* In the half-open table a key has one bucket, and this is no count. */
		if (table == TABLE_HALF_OPEN || !*(volatile __u32 *)&bucket->passed)
			return 0;
	}
	return 0;
}

/* The slot at a place that a search gave. */
static __always_inline struct slot *slot_at(struct context *c, __u32 table, __u64 place)
{
	__u32 index = place >> 3, i = (place & 7) - 1;
	void *inner;
	struct bucket *bucket;

	if (!place)
		return 0;
	inner = bpf_map_lookup_elem(&sessions, &table);
	bucket = inner ? bpf_map_lookup_elem(inner, &index) : 0;
	/* The compiler knows this bound, the verifier has to be shown it, before it is used. */
	asm volatile("" : "+r"(i));
	if (!bucket || i >= BUCKET_SLOTS)
		return 0;
	asm volatile("" : "+r"(bucket));
	if (bucket_hear(bucket, c->now))
		table_hear(index, c->now);
	return &bucket->slots[i];
}

static __always_inline struct slot *
table_find(struct context *c, __u32 table, __u32 buckets)
{
	__u64 hash = c->trace.hash;
	struct bucket *bucket = bucket_at(table, buckets, hash, 0);
	struct slot *slot;

	if (!bucket)
		return 0;
	slot = bucket_find(bucket, &c->key, control_word(hash, 0, SLOT_LIVE));
	if (slot && bucket_hear(bucket, c->now))
		way_hear(hash, 0, c->now);
	if (slot || !*(volatile __u32 *)&bucket->passed)
		return slot;
	return slot_at(c, table, table_search(c, table, buckets, 1));
}

/* Whether a slot with this control word may be taken. In need also one that should still rest: a
 * session that finds no place is refused for certain, one that a straggler writes into is not.
 */
static __always_inline int slot_free(__u64 control, __u32 now, int in_need)
{
	__u32 state = control & CONTROL_STATE_MASK;
	__u32 age = (now - (__u32)(control >> CONTROL_STAMP_SHIFT)) & CONTROL_STAMP_MASK;

	if (state == SLOT_DEAD)
		return in_need ||
		       (age >= SLOT_REST_TICKS && age <= CONTROL_STAMP_MASK - SLOT_REST_TICKS);
	return state == SLOT_EMPTY;
}

static __always_inline __u64 dead_word(__u32 now)
{
	return (__u64)(now & CONTROL_STAMP_MASK) << CONTROL_STAMP_SHIFT | SLOT_DEAD;
}

/* Takes one live slot out. Returns whether it was this caller who did. Another processor may have
 * heard of it meanwhile, which changes the word once a tick.
 */
static __always_inline int slot_kill(__u64 *control, __u64 seen, __u32 now)
{
	__u64 found = __sync_val_compare_and_swap(control, seen, dead_word(now));

	if (found == seen)
		return 1;
	return (found & CONTROL_MATCH) == (seen & CONTROL_MATCH) &&
	       __sync_val_compare_and_swap(control, found, dead_word(now)) == found;
}

/* Takes back what an insertion, or a session that goes, counted in the buckets that it passed. */
__noinline int table_unpass(__u32 table, __u32 buckets, __u64 hash, __u32 steps)
{
	for (__u32 step = 0; step < BUCKET_STEPS; step++) {
		struct bucket *bucket;

		if (step >= steps)
			break;
		bucket = bucket_at(table, buckets, hash, step);
		if (bucket)
			__sync_fetch_and_add(&bucket->passed, -1);
	}
	return 0;
}

/* Whether more than one live slot of a bucket may be the key's. */
static __always_inline int bucket_twice(const struct bucket *bucket, __u64 hash)
{
	__u64 wanted = control_word(hash, 0, SLOT_LIVE);
	__u32 found = 0;

#pragma unroll
	for (__u32 i = 0; i < BUCKET_SLOTS; i++)
		found += (*(volatile const __u64 *)&bucket->control[i] & CONTROL_MATCH) == wanted;
	return found > 1;
}

/* Takes out the live slots of the key in one bucket, after the first `keep` of them. */
__noinline int bucket_remove(struct context *c, struct bucket *bucket, __u32 keep)
{
	__u64 wanted;
	__u32 now;

	if (!c || !bucket)
		return 0;
	wanted = control_word(c->trace.hash, 0, SLOT_LIVE);
	now = ticks(c->now);
	c->removed = 0;
	for (__u32 i = 0; i < BUCKET_SLOTS; i++) {
		__u64 seen = *(volatile __u64 *)&bucket->control[i];

		if ((seen & CONTROL_MATCH) != wanted || !same_key(&bucket->slots[i].key, &c->key))
			continue;
		if (keep)
			keep--;
		else if (slot_kill(&bucket->control[i], seen, now))
			c->removed++;
	}
	return keep;
}

/* Takes out every live slot of the key after the first `keep` of them. Returns how many went. */
__noinline int table_remove(struct context *c, __u32 table, __u32 buckets, __u32 keep)
{
	__u32 removed = 0;
	__u64 hash;

	if (!c)
		return 0;
	hash = c->trace.hash;
	for (__u32 step = 0; step < BUCKET_STEPS; step++) {
		struct bucket *bucket = bucket_at(table, buckets, hash, step);

		if (!bucket)
			break;
		keep = bucket_remove(c, bucket, keep);
		if (c->removed)
			way_hear(hash, step, c->now);
		for (__u32 i = 0; i < BUCKET_SLOTS && i < c->removed; i++)
			table_unpass(table, buckets, hash, step);
		removed += c->removed;
		if (!*(volatile __u32 *)&bucket->passed)
			break;
	}
	return removed;
}

#define INSERT_DONE 0
#define INSERT_EXISTS 1
#define INSERT_FULL 2

/* Claims a free slot of the bucket for the session in the context, fills and publishes it. */
__noinline int bucket_insert(struct context *c, struct bucket *bucket, __u32 step)
{
	__u64 word;
	__u32 now;

	if (!c || !bucket)
		return INSERT_FULL;
	word = control_word(c->trace.hash, step, SLOT_CLAIMED);
	now = ticks(c->now);
	for (__u32 k = 0; k <= BUCKET_SLOTS; k++) {
		__u32 i = k ? k - 1 : slot_preferred(c->trace.hash);
		__u64 seen = *(volatile __u64 *)&bucket->control[i];

		if (!slot_free(seen, now, c->in_need) ||
		    __sync_val_compare_and_swap(&bucket->control[i], seen, word) != seen)
			continue;
		bucket->slots[i].key = c->key;
		bucket->slots[i].session = c->fresh;
		bucket_hear(bucket, c->now);
		__sync_lock_test_and_set(&bucket->control[i],
					 control_word(c->trace.hash, step, SLOT_LIVE));
		return INSERT_DONE;
	}
	return INSERT_FULL;
}

/* One round along the way of the session in the context. */
__noinline int table_place(struct context *c, __u32 table, __u32 buckets)
{
	__u64 hash;

	if (!c)
		return INSERT_FULL;
	hash = c->trace.hash;
	for (__u32 step = 0; step < BUCKET_STEPS; step++) {
		struct bucket *bucket = bucket_at(table, buckets, hash, step);

		if (bucket_insert(c, bucket, step) == INSERT_DONE) {
			way_hear(hash, step, c->now);
			return INSERT_DONE;
		}
		if (bucket)
			__sync_fetch_and_add(&bucket->passed, 1);
	}
	table_unpass(table, buckets, hash, BUCKET_STEPS);
	return INSERT_FULL;
}

/* Puts the session of the context into the table, unless one of its key is there. */
__noinline int table_insert(struct context *c, __u32 table, __u32 buckets)
{
	struct bucket *first;
	int placed;

	if (!c)
		return INSERT_FULL;
	c->in_need = 0;
	placed = table_place(c, table, buckets);
	if (placed == INSERT_FULL) {
		c->in_need = 1;
		placed = table_place(c, table, buckets);
	}
	if (placed == INSERT_FULL)
		return INSERT_FULL;
	/* A way that nobody went further has no other copy than in its first bucket. */
	first = bucket_at(table, buckets, c->trace.hash, 0);
	if (first && !*(volatile __u32 *)&first->passed && !bucket_twice(first, c->trace.hash))
		return INSERT_DONE;
	/* Whatever lies behind the first copy of this key goes. */
	c->removed = table_remove(c, table, buckets, 1);
	return c->removed ? INSERT_EXISTS : INSERT_DONE;
}

/* Takes out what has expired in the bucket whose turn it is. Returns how many went. */
__noinline int
table_sweep(struct context *c, struct table_info *info, __u32 table, __u32 buckets)
{
	void *inner = bpf_map_lookup_elem(&sessions, &table);
	__u32 turn, now, removed = 0;
	struct bucket *bucket;

	if (!c || !info || !inner || !buckets)
		return 0;
	now = ticks(c->now);
	turn = __sync_fetch_and_add(&info->hand, 1) % buckets;
	bucket = bpf_map_lookup_elem(inner, &turn);
	if (!bucket)
		return 0;
	for (__u32 i = 0; i < BUCKET_SLOTS; i++) {
		__u64 seen = *(volatile __u64 *)&bucket->control[i];
		struct slot *slot = &bucket->slots[i];

		if ((seen & CONTROL_STATE_MASK) != SLOT_LIVE || slot->session.expires_ns > c->now)
			continue;
		if (!slot_kill(&bucket->control[i], seen, now))
			continue;
		removed++;
		table_unpass(table, buckets, table_hash(info, &slot->key),
			     seen >> CONTROL_PASSED_SHIFT & CONTROL_PASSED_MASK);
	}
	if (removed) {
		__sync_fetch_and_add(&info->live, -removed);
		table_hear(turn, c->now);
	}
	return removed;
}

/* In the half-open table a live slot's control word tells when it was last heard of, so that
 * whoever looks for the one to give up reads no session.
 */
static __always_inline __u64 half_word(__u64 hash, __u32 now)
{
	return control_word(hash, 0, SLOT_LIVE) |
	       (__u64)(now & CONTROL_STAMP_MASK) << CONTROL_STAMP_SHIFT;
}

static __always_inline __u32 stamp_age(__u64 control, __u32 now)
{
	return (now - (__u32)(control >> CONTROL_STAMP_SHIFT)) & CONTROL_STAMP_MASK;
}

/* What speaks for giving up a slot: that nobody is in it, then how long it was idle. The least
 * speaks for one that is just being filled. No branches: which slot it will be is what no processor
 * can foresee, and the verifier would walk each way. Processors may be a few ticks apart.
 */
static __always_inline __u64 slot_spare(__u32 control, __u32 now)
{
	/* Claimed, live, dead, empty, from zero on. */
	__u64 vacant = (control - 1) & 3;
	__u32 idle = ((now + SLOT_REST_TICKS) << CONTROL_STAMP_SHIFT | SLOT_LIVE) - control;

	return vacant << SPARE_SHIFT | (__u64)idle << 8;
}

/* The greater one, neither of them having the highest bit. The compiler would make a branch of it.
 */
static __always_inline __u64 greater(__u64 a, __u64 b)
{
	__u64 more = a - b, keep = (__s64)more >> 63;

	asm volatile("" : "+r"(keep));
	return b + (more & ~keep);
}

/* The slot of a bucket that makes room, below what speaks for that. Of those that are alike another
 * one each time, or the first would always have to go.
 */
static __always_inline __u64 half_victim(const struct bucket *bucket, __u32 turn, __u32 now)
{
	__u64 most = 0;

	turn = (turn & 7) << 3;
#pragma unroll
	for (__u32 i = 0; i < BUCKET_SLOTS; i++) {
		__u32 control = *(volatile const __u64 *)&bucket->control[i];

		most = greater(most, slot_spare(control, now) | (turn ^ (i << 3 | i)));
	}
	return most;
}

/* One that was heard of again. If another processor has changed the word, it is not this one's. */
static __always_inline void half_hear(__u64 *control, __u64 hash, __u64 now)
{
	__u64 seen = *(volatile __u64 *)control;

	if ((seen & CONTROL_MATCH) == control_word(hash, 0, SLOT_LIVE) &&
	    stamp_age(seen, ticks(now)))
		__sync_val_compare_and_swap(control, seen, half_word(hash, ticks(now)));
}

static __always_inline void half_heard(struct context *c, __u32 buckets)
{
	struct bucket *bucket = bucket_at(TABLE_HALF_OPEN, buckets, c->trace.hash, 0);

	if (!bucket)
		return;
#pragma unroll
	for (__u32 i = 0; i < BUCKET_SLOTS; i++)
		half_hear(&bucket->control[i], c->trace.hash, c->now);
}

/* Claims the slot that makes room, which is then the caller's alone, or gives BUCKET_SLOTS. Whoever
 * finds another word there than the one that was chosen, or a copy of its own session, has been
 * slower than another processor, and chooses again.
 */
static __always_inline __u32 half_claim(struct bucket *bucket, __u64 hash, __u32 now)
{
	__u32 turn = bucket->passed, at;
	__u64 most, seen;

	/* A turn that two processors take at once is no harm. */
	*(volatile __u32 *)&bucket->passed = turn + 1;
#pragma clang loop unroll(disable)
	for (__u32 tries = 0; tries < CLAIM_TRIES; tries++) {
		most = half_victim(bucket, turn, now);
		at = most & 7;
		/* The compiler knows this bound, the verifier has to be shown it. */
		asm volatile("" : "+r"(at));
		if (!(most >> SPARE_SHIFT) || at >= BUCKET_SLOTS)
			break;
		seen = *(volatile __u64 *)&bucket->control[at];
		if (slot_spare(seen, now) == (most & ~0xffULL) &&
		    (seen & CONTROL_MATCH) != control_word(hash, 0, SLOT_LIVE) &&
		    __sync_val_compare_and_swap(&bucket->control[at], seen,
						control_word(hash, 0, SLOT_CLAIMED)) == seen)
			return at;
	}
	return BUCKET_SLOTS;
}

/* The half-open table: one bucket for each key, and in it whoever was idle longest makes room. */
__noinline int half_insert(struct context *c, __u32 buckets)
{
	struct bucket *bucket;
	__u32 at, now;

	if (!c)
		return INSERT_FULL;
	now = ticks(c->now);
	bucket = bucket_at(TABLE_HALF_OPEN, buckets, c->trace.hash, 0);
	if (!bucket)
		return INSERT_FULL;
	at = half_claim(bucket, c->trace.hash, now);
	asm volatile("" : "+r"(at));
	if (at >= BUCKET_SLOTS)
		return INSERT_FULL;
	bucket->slots[at].key = c->key;
	bucket->slots[at].session = c->fresh;
	__sync_lock_test_and_set(&bucket->control[at], half_word(c->trace.hash, now));
	/* Another processor may have done the same: whoever takes a copy out has begun nothing. */
	if (!bucket_twice(bucket, c->trace.hash))
		return INSERT_DONE;
	bucket_remove(c, bucket, 1);
	return c->removed ? INSERT_EXISTS : INSERT_DONE;
}

#endif
