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
/* Nobody told us the scale: assume the largest (RFC 7323, 2.3). */
#define SCALE_MAX 14
#define WINDOW_UNSCALED_MAX 65535

#define TRACK_OK 0
#define TRACK_PASS 1 /* let through, change nothing */
#define TRACK_REOPEN 2 /* a new conversation under the old key */
#define TRACK_INVALID 3 /* nothing that this conversation can say now */
#define TRACK_WINDOW 4 /* outside the windows */
#define TRACK_FLAGS 5 /* flags that nobody combines */
#define TRACK_DOUBT 6 /* a reset that may be none: let through, and soon over if nothing follows */

static __always_inline int after(__u32 a, __u32 b)
{
	return (__s32)(a - b) > 0;
}

static __always_inline __u32 segment_end(const struct packet *p)
{
	return p->sequence + p->payload + !!(p->flags & FLAG_SYN) + !!(p->flags & FLAG_FIN);
}

/* Nothing acknowledges less than the SYN, and perhaps not its data (RFC 7413): until the answer,
 * end_max is the least that one may acknowledge and end the most.
 */
static __always_inline void tcp_syn_seen(struct session *s, __u8 side, const struct packet *p)
{
	struct session_end *end = &s->tcp[side & 1];

	end->end_max = p->sequence + 1;
	end->end = end->end_max + p->payload;
	end->window_max = p->window ? p->window : 1;
	end->acked = 0;
	s->scale[side & 1] = p->scale ? p->scale - 1 : 0;
	s->flags[side & 1] = END_KNOWN | END_SCALE_KNOWN | (p->scale ? END_SCALE_OFFERED : 0) |
			     (p->sack_permitted ? END_SACK : 0);
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

/* RFC 7323, 2.2: the window of a SYN is never scaled. */
static __always_inline __u32
tcp_advertised(const struct session *s, __u8 own, const struct packet *p)
{
	return (__u32)p->window << (p->flags & FLAG_SYN ? 0 : s->scale[own & 1] & 15);
}

/* How far beyond its acknowledgement a packet acknowledges bytes in blocks, if the other end
 * permits that (RFC 2018).
 */
static __always_inline __u32
tcp_sack_ahead(const struct session *s, __u8 own, const struct packet *p)
{
	__u8 flags = s->flags[!own];

	return flags & END_SACK || !(flags & END_KNOWN) ? p->sack_ahead : 0;
}

/* What a side has acknowledged. It only grows, and takes the place of the SYN that was noted. */
static __always_inline void tcp_acknowledges(struct session *s, __u8 own, __u32 ack)
{
	__u8 flags = s->flags[own & 1];

	if ((flags & (END_ACKED | END_NOTED)) == END_ACKED && !after(ack, s->tcp[own & 1].acked))
		return;
	s->tcp[own & 1].acked = ack;
	s->flags[own & 1] = (flags | END_ACKED) & ~END_NOTED;
}

/* A SYN that may or may not begin anew: only the other end can tell, and does so by its answer. */
static __always_inline int tcp_note(struct session *s, __u8 own, __u32 last)
{
	s->tcp[own & 1].acked = last;
	s->flags[own & 1] = (s->flags[own & 1] | END_NOTED) & ~END_ACKED;
	return TRACK_PASS;
}

static __always_inline int tcp_noted(const struct session *s, __u8 side, const struct packet *p)
{
	return p->flags & FLAG_ACK && s->flags[side & 1] & END_NOTED &&
	       s->tcp[side & 1].acked == p->acknowledgement;
}

/* RFC 7323, 2.2: scaling holds only if both sides offered it. */
static __always_inline void tcp_agree_on_scale(struct session *s)
{
	if (s->flags[0] & s->flags[1] & END_SCALE_OFFERED)
		return;
	s->scale[0] = s->scale[1] = 0;
	s->flags[0] |= END_SCALE_KNOWN;
	s->flags[1] |= END_SCALE_KNOWN;
}

/* The answer to the opener's SYN. */
static __always_inline int tcp_answered(struct session *s, const struct packet *p)
{
	__u8 o = s->opened & 1, r = !o;
	struct session_end *opener = &s->tcp[o], *other = &s->tcp[r];

	tcp_syn_seen(s, r, p);
	tcp_agree_on_scale(s);
	/* With Fast Open data may follow before the handshake ends. */
	other->end_max += opener->window_max;
	other->acked = p->acknowledgement;
	s->flags[r] |= END_ACKED;
	opener->end_max = p->acknowledgement + (p->window ? p->window : 1);
	/* What ends the handshake acknowledges the answer: a sender of forged SYNs doesn't know it. */
	opener->acked = p->sequence + 1;
	s->flags[o] = (s->flags[o] | END_ACKED) & ~END_NOTED;
	s->state = STATE_SYN_RECEIVED;
	return TRACK_OK;
}

/* The answer to a SYN of which no more is known than that this acknowledges it. */
static __always_inline int tcp_answered_anew(struct session *s, const struct packet *p)
{
	__u8 o = s->opened & 1;

	s->tcp[o].end = p->acknowledgement;
	s->tcp[o].window_max = WINDOW_UNSCALED_MAX;
	s->scale[o] = SCALE_MAX;
	/* Who answers with a scale was offered one. */
	s->flags[o] = END_KNOWN | END_SCALE_OFFERED | END_SACK;
	return tcp_answered(s, p);
}

/* A window that nobody told us, as after an import: learn from this packet and let it pass. */
static __always_inline void tcp_learn(struct session *s, __u8 own, const struct packet *p)
{
	struct session_end *sender = &s->tcp[own & 1], *receiver = &s->tcp[!own];
	__u32 last = segment_end(p), window, edge = p->acknowledgement + tcp_sack_ahead(s, own, p);

	if (!(s->flags[own & 1] & (END_KNOWN | END_SCALE_KNOWN)))
		s->scale[own & 1] = SCALE_MAX;
	window = tcp_advertised(s, own, p);
	if (!(s->flags[own & 1] & END_KNOWN)) {
		sender->end = last;
		/* What the other end has acknowledged was sent. */
		if (s->flags[!own] & END_ACKED && after(receiver->acked, last))
			sender->end = receiver->acked;
		sender->window_max = window ? window : 1;
		sender->end_max = sender->end + sender->window_max;
		s->flags[own & 1] |= END_KNOWN | END_SACK;
	} else if (after(last, sender->end)) {
		sender->end = last;
	}
	if (!(p->flags & FLAG_ACK))
		return;
	if (!(s->flags[!own] & END_KNOWN) || after(edge + window, receiver->end_max))
		receiver->end_max = edge + window;
	if (s->flags[!own] & END_KNOWN && after(edge, receiver->end))
		receiver->end = edge;
	tcp_acknowledges(s, own, p->acknowledgement);
}

/* Within twice the distance a packet is late, not forged. */
static __always_inline int late(__u32 end, __u32 at, __u32 window)
{
	__u32 most = window > ACK_LAG_MIN ? window : ACK_LAG_MIN;

	return (__s32)(end - at) < 0 || end - at <= 2 * most;
}

/* The four bounds of Guido van Rooij, "Real Stateful TCP Packet Filtering in IP Filter" (2000), as
 * the kernel's connection tracking applies them. Below the lower ones a packet is late: its
 * receiver has had it, or must tell its sender so, or both would wait for each other.
 */
static __always_inline int tcp_window(const struct session *s, __u8 own, const struct packet *p)
{
	const struct session_end *sender = &s->tcp[own & 1], *receiver = &s->tcp[!own];
	__u32 last = segment_end(p), ack = p->acknowledgement + tcp_sack_ahead(s, own, p);
	__u32 lag = sender->window_max > ACK_LAG_MIN ? sender->window_max : ACK_LAG_MIN;

	/* Some reset with an acknowledgement of zero. */
	if (!(p->flags & FLAG_ACK) || (p->flags & FLAG_RST && !p->acknowledgement))
		ack = receiver->end;
	if (after(p->sequence, sender->end_max) || after(ack, receiver->end))
		return TRACK_WINDOW;
	if (after(last, sender->end - receiver->window_max - 1) &&
	    after(ack, receiver->end - lag - 1))
		return TRACK_OK;
	if (p->flags & FLAG_RST || !late(sender->end, last, receiver->window_max) ||
	    !late(receiver->end, ack, sender->window_max))
		return TRACK_WINDOW;
	return TRACK_PASS;
}

static __always_inline void tcp_advance(struct session *s, __u8 own, const struct packet *p)
{
	struct session_end *sender = &s->tcp[own & 1], *receiver = &s->tcp[!own];
	__u32 last = segment_end(p), window = tcp_advertised(s, own, p);
	__u32 ahead = tcp_sack_ahead(s, own, p), edge = p->acknowledgement + ahead;

	if (after(last, sender->end))
		sender->end = last;
	if (after(last, sender->end_max))
		receiver->window_max += last - sender->end_max;
	/* From the highest block on, as in the kernel's connection tracking: a receiver may take what
	 * it holds out of its window.
	 */
	if (sender->window_max < window + ahead)
		sender->window_max = window + ahead;
	/* Not a reset, and no SYN without an answer: it acknowledges. */
	if (after(edge + window, receiver->end_max - 1))
		receiver->end_max = edge + (window ? window : 1);
	tcp_acknowledges(s, own, p->acknowledgement);
}

/* The SYN of the opener again, before the answer. After a time-out, or from another user of the
 * port, it may be another one.
 */
static __always_inline int tcp_syn_again(struct session *s, __u8 side, const struct packet *p)
{
	struct session_end *end = &s->tcp[side & 1];
	__u32 last = segment_end(p);

	if (p->sequence + 1 == end->end_max) {
		if (after(last, end->end))
			end->end = last;
		return TRACK_OK;
	}
	if (after(p->sequence + 1, end->end_max)) {
		tcp_syn_seen(s, side, p);
		return TRACK_OK;
	}
	return side == (s->opened & 1) ? tcp_note(s, side, last) : TRACK_INVALID;
}

/* Whether it acknowledges this side's SYN, before the answer. */
static __always_inline int
tcp_answers(const struct session *s, __u8 side, const struct packet *p)
{
	const struct session_end *end = &s->tcp[side & 1];

	return p->flags & FLAG_ACK && s->flags[side & 1] & END_KNOWN &&
	       !after(end->end_max, p->acknowledgement) && !after(p->acknowledgement, end->end);
}

static __always_inline int tcp_opener_again(struct session *s, const struct packet *p)
{
	__u8 o = s->opened & 1, r = !o;

	if (p->flags & FLAG_RST) {
		if (p->sequence == s->tcp[o].end) {
			s->state = STATE_CLOSED;
			return TRACK_PASS;
		}
		/* It answers what was let through below; the SYN still stands. */
		return s->flags[r] & END_ACKED && p->sequence == s->tcp[r].acked ? TRACK_PASS :
										 TRACK_WINDOW;
	}
	if (!(p->flags & FLAG_SYN))
		return TRACK_INVALID;
	if (!(p->flags & FLAG_ACK))
		return tcp_syn_again(s, o, p);
	/* Both opened at once (RFC 9293, figure 7). */
	return tcp_answers(s, r, p) ? TRACK_OK : TRACK_INVALID;
}

/* The other side's acknowledgement of a SYN-ACK, where both opened at once. */
static __always_inline int tcp_crossed(struct session *s, const struct packet *p)
{
	__u8 o = s->opened & 1, r = !o;
	struct session_end *opener = &s->tcp[o], *other = &s->tcp[r];

	tcp_agree_on_scale(s);
	opener->end_max = p->acknowledgement + tcp_advertised(s, r, p);
	other->end_max += opener->window_max;
	opener->acked = other->end;
	s->flags[o] = (s->flags[o] | END_ACKED) & ~END_NOTED;
	tcp_acknowledges(s, r, p->acknowledgement);
	s->state = STATE_ESTABLISHED;
	return TRACK_OK;
}

/* What the other side says to a SYN: an answer, a refusal, its own SYN, or leftovers of an older
 * conversation that the opener must see so that it can reset them.
 */
static __always_inline int tcp_answer(struct session *s, const struct packet *p)
{
	__u8 o = s->opened & 1, r = !o;
	int answers = tcp_answers(s, o, p);

	if (p->flags & FLAG_RST) {
		if (answers) {
			s->state = STATE_CLOSED;
			return TRACK_OK;
		}
		return tcp_noted(s, o, p) ? TRACK_PASS : TRACK_WINDOW;
	}
	if ((p->flags & (FLAG_SYN | FLAG_ACK)) == FLAG_SYN) {
		if (s->flags[r] & END_KNOWN)
			return tcp_syn_again(s, r, p);
		tcp_syn_seen(s, r, p);
		return TRACK_OK;
	}
	if (p->flags & FLAG_FIN)
		return TRACK_INVALID;
	if (p->flags & FLAG_SYN && answers)
		return tcp_answered(s, p);
	if (p->flags & FLAG_SYN && tcp_noted(s, o, p))
		return tcp_answered_anew(s, p);
	if (answers && s->flags[r] & END_KNOWN && p->sequence == s->tcp[r].end)
		return tcp_crossed(s, p);
	s->tcp[r].acked = p->acknowledgement;
	s->flags[r] |= END_ACKED;
	return TRACK_PASS;
}

/* A SYN once there was an answer, or where a move lost what was known of the first. */
static __always_inline int tcp_late_syn(struct session *s, const struct packet *p, __u8 own)
{
	__u8 o = s->opened & 1;
	struct session_end *opener = &s->tcp[o];
	int known = s->flags[o] & END_KNOWN, opens = s->state <= STATE_SYN_RECEIVED;

	if (!(p->flags & FLAG_ACK)) {
		if (s->state >= STATE_TIME_WAIT)
			return TRACK_REOPEN;
		if (own != o)
			return TRACK_INVALID;
		if (s->state == STATE_UNREPLIED) {
			tcp_syn_seen(s, o, p);
			return TRACK_OK;
		}
		/* RFC 5961, 4: the receiver challenges it unless it has forgotten the other. */
		if (opens && known && segment_end(p) == opener->end)
			return TRACK_PASS;
		return tcp_note(s, o, segment_end(p));
	}
	if (own == o)
		return s->state == STATE_UNREPLIED ? TRACK_INVALID : TRACK_PASS;
	if (opens && !known)
		return tcp_answered_anew(s, p);
	if (tcp_noted(s, o, p))
		return tcp_answered_anew(s, p);
	/* A stateless server answers the same SYN with another number. */
	if (s->state == STATE_SYN_RECEIVED && p->acknowledgement == opener->end &&
	    p->sequence + 1 != opener->acked)
		return tcp_answered(s, p);
	return TRACK_PASS;
}

/* RFC 5961, 3.2: a reset closes if it has exactly the number that is expected next. Another one in
 * the window is challenged by its receiver, if that is up to date.
 */
static __always_inline int tcp_reset(struct session *s, const struct packet *p, __u8 own)
{
	struct session_end *sender = &s->tcp[own & 1], *receiver = &s->tcp[!own];
	__u8 flags = s->flags[!own];
	int exact = p->sequence == sender->end, track;

	/* The ports may be in use again, and what is known outdated. */
	if (s->state >= STATE_TIME_WAIT)
		return TRACK_PASS;
	if (tcp_noted(s, !own, p)) {
		s->state = STATE_CLOSED;
		return TRACK_OK;
	}
	if (!(s->flags[own & 1] & flags & END_KNOWN))
		return TRACK_DOUBT;
	track = tcp_window(s, own, p);
	if (track)
		return track;
	if (flags & END_ACKED) {
		if (after(receiver->acked, p->sequence))
			return TRACK_WINDOW;
		exact |= p->sequence == receiver->acked;
	}
	/* Who has said that it will send no more may have no state left to be exact with. */
	if (!exact && s->state == STATE_ESTABLISHED)
		return TRACK_DOUBT;
	s->state = STATE_CLOSED;
	return TRACK_OK;
}

/* A segment within the windows, and what its FIN does. */
static __always_inline void tcp_pass(struct session *s, __u8 own, const struct packet *p)
{
	if (s->flags[own] & s->flags[!own] & END_KNOWN)
		tcp_advance(s, own, p);
	else
		tcp_learn(s, own, p);
	if (!(p->flags & FLAG_FIN))
		return;
	s->flags[own] |= END_FIN;
	/* A reset is the end; only a SYN begins anew. */
	if (s->state != STATE_CLOSED)
		s->state = s->flags[!own] & END_FIN ? STATE_TIME_WAIT : STATE_FIN_WAIT;
}

static __always_inline int
tcp_track(struct session *s, const struct packet *p, __u8 direction)
{
	__u8 own = direction & 1, o = s->opened & 1;
	int known, track;

	if (tcp_flags_impossible(p->flags))
		return TRACK_FLAGS;
	if (s->state == STATE_UNREPLIED && s->flags[o] & END_KNOWN)
		return own == o ? tcp_opener_again(s, p) : tcp_answer(s, p);
	if (p->flags & FLAG_SYN)
		return tcp_late_syn(s, p, own);
	if (p->flags & FLAG_RST)
		return tcp_reset(s, p, own);
	known = s->flags[own] & s->flags[!own] & END_KNOWN;
	if (known) {
		track = tcp_window(s, own, p);
		if (track)
			return track;
	}
	if (s->state <= STATE_SYN_RECEIVED && own == o) {
		if (known && (s->flags[o] & (END_ACKED | END_NOTED)) == END_ACKED &&
		    after(s->tcp[o].acked, p->acknowledgement))
			return TRACK_WINDOW;
		s->state = STATE_ESTABLISHED;
	}
	tcp_pass(s, own, p);
	return TRACK_OK;
}

#endif
