/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* TCP: windows and states of one session, as strict as the kernel's own connection tracking. Pure:
 * nothing here reads a map.
 */
#ifndef LICTOR_TCP_H
#define LICTOR_TCP_H

#include "parse.h"

/* What an acknowledgement may lag behind, as in the kernel's connection tracking: the largest
 * unscaled window and one segment.
 */
#define ACK_LAG_MIN 66000

static __always_inline int after(__u32 a, __u32 b)
{
	return (__s32)(a - b) > 0;
}

static __always_inline void tcp_syn_seen(struct session_end *end, const struct packet *p)
{
	end->end = p->sequence + p->payload + 1;
	end->window_max = p->window ? p->window : 1;
	end->end_max = end->end + end->window_max;
	end->scale = p->scale ? p->scale - 1 : 0;
	end->flags = END_KNOWN | END_SCALE_KNOWN | (p->scale ? END_SCALE_OFFERED : 0);
}

/* RFC 9293, 3.10.7: flags that no sender combines. */
static __always_inline int tcp_flags_impossible(__u8 flags)
{
	if (flags & FLAG_SYN)
		return flags & (FLAG_FIN | FLAG_RST);
	/* Only a SYN or a RST may come without an acknowledgement. */
	return !(flags & (FLAG_ACK | FLAG_RST)) || (flags & (FLAG_FIN | FLAG_RST)) ==
						   (FLAG_FIN | FLAG_RST);
}

/* A window that nobody told us, as after an import: learn from this packet and let it pass. */
static __always_inline void
tcp_learn(struct session_end *sender, struct session_end *receiver, const struct packet *p)
{
	__u32 last = p->sequence + p->payload + !!(p->flags & (FLAG_SYN | FLAG_FIN));
	__u32 window = p->window;

	if (!(sender->flags & (END_KNOWN | END_SCALE_KNOWN)))
		sender->scale = 14;
	/* RFC 7323, 2.2: the window of a SYN is never scaled. */
	if (!(p->flags & FLAG_SYN))
		window <<= sender->scale & 15;
	if (!(sender->flags & END_KNOWN)) {
		sender->end = last;
		sender->window_max = window ? window : 1;
		sender->end_max = last + sender->window_max;
		sender->flags |= END_KNOWN;
	} else if (after(last, sender->end)) {
		sender->end = last;
	}
	if (p->flags & FLAG_ACK && (!(receiver->flags & END_KNOWN) ||
				    after(p->acknowledgement + window, receiver->end_max)))
		receiver->end_max = p->acknowledgement + window;
}

/* The four bounds of Guido van Rooij, "Real Stateful TCP Packet Filtering in IP Filter" (2000), as
 * the kernel's connection tracking applies them. Returns whether the packet lies inside.
 */
static __always_inline int
tcp_window(struct session_end *sender, struct session_end *receiver, const struct packet *p)
{
	__u32 seq = p->sequence, last = seq + p->payload + !!(p->flags & (FLAG_SYN | FLAG_FIN));
	__u32 ack = p->acknowledgement, window = p->window, lag;

	if (!(p->flags & FLAG_ACK))
		ack = receiver->end;
	if (!(p->flags & FLAG_SYN))
		window <<= sender->scale & 15;
	lag = sender->window_max > ACK_LAG_MIN ? sender->window_max : ACK_LAG_MIN;
	if (after(seq, sender->end_max) ||
	    !after(last, sender->end - receiver->window_max - 1) ||
	    after(ack, receiver->end) || !after(ack, receiver->end - lag - 1))
		return 0;
	if (p->flags & FLAG_RST)
		return 1;
	if (after(last, sender->end))
		sender->end = last;
	if (after(last, sender->end_max))
		receiver->window_max += last - sender->end_max;
	if (sender->window_max < window)
		sender->window_max = window;
	if (after(ack + window, receiver->end_max - 1))
		receiver->end_max = ack + (window ? window : 1);
	return 1;
}

#define TRACK_OK 0
#define TRACK_PASS 1 /* let through, change nothing */
#define TRACK_REOPEN 2 /* a new conversation under the old key */
#define TRACK_INVALID 3

/* Before the answer: the SYN again, a SYN-ACK, a refusal, or leftovers of an older conversation
 * that the other end must see so that it can reset them.
 */
static __always_inline int
tcp_track_unreplied(struct session *s, const struct packet *p, __u8 direction)
{
	struct session_end *opener = &s->tcp[s->opened & 1], *other = &s->tcp[!(s->opened & 1)];
	int acknowledges = p->acknowledgement == opener->end || !(opener->flags & END_KNOWN);

	if (direction == s->opened) {
		if ((p->flags & (FLAG_SYN | FLAG_ACK)) == FLAG_SYN) {
			tcp_syn_seen(opener, p);
			return TRACK_OK;
		}
		if (p->flags & FLAG_RST) {
			if (p->sequence == opener->end)
				s->state = STATE_CLOSED;
			return TRACK_PASS;
		}
		return TRACK_INVALID;
	}
	if (p->flags & FLAG_RST) {
		if (!(p->flags & FLAG_ACK) || !acknowledges)
			return TRACK_INVALID;
		s->state = STATE_CLOSED;
		return TRACK_OK;
	}
	if ((p->flags & (FLAG_SYN | FLAG_ACK)) == FLAG_SYN)
		return TRACK_INVALID;
	if (!(p->flags & FLAG_SYN) || !acknowledges)
		return TRACK_PASS;
	tcp_syn_seen(other, p);
	/* RFC 7323, 2.2: scaling holds only if both sides offered it. */
	if (!(opener->flags & other->flags & END_SCALE_OFFERED))
		opener->scale = other->scale = 0;
	opener->end_max = p->acknowledgement + (p->window ? p->window : 1);
	s->state = STATE_SYN_RECEIVED;
	return TRACK_OK;
}

static __always_inline int
tcp_track(struct session *s, const struct packet *p, __u8 direction)
{
	__u8 own = direction & 1;
	struct session_end *sender = &s->tcp[own], *receiver = &s->tcp[!own];

	if (tcp_flags_impossible(p->flags))
		return TRACK_INVALID;
	if (s->state == STATE_UNREPLIED && (s->tcp[s->opened & 1].flags & END_KNOWN))
		return tcp_track_unreplied(s, p, direction);
	if ((p->flags & (FLAG_SYN | FLAG_ACK)) == FLAG_SYN) {
		if (s->state >= STATE_TIME_WAIT)
			return TRACK_REOPEN;
		/* RFC 5961, 4.2: the receiver challenges it and tells us by its answer. */
		return direction == s->opened ? TRACK_PASS : TRACK_INVALID;
	}
	if (p->flags & FLAG_SYN && direction == s->opened)
		return TRACK_INVALID;
	if (!(sender->flags & END_KNOWN) || !(receiver->flags & END_KNOWN))
		tcp_learn(sender, receiver, p);
	else if (!tcp_window(sender, receiver, p))
		return TRACK_INVALID;
	if (p->flags & FLAG_RST) {
		s->state = STATE_CLOSED;
	} else if (p->flags & FLAG_FIN) {
		sender->flags |= END_FIN;
		/* A reset is the end; only a SYN begins anew. */
		if (s->state != STATE_CLOSED)
			s->state = receiver->flags & END_FIN ? STATE_TIME_WAIT : STATE_FIN_WAIT;
	} else if (s->state <= STATE_SYN_RECEIVED && direction == s->opened) {
		s->state = STATE_ESTABLISHED;
	}
	return TRACK_OK;
}

#endif
