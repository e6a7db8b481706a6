/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The packets of the bench. One frame is the template; `plan` says which of its conversations each
 * copy belongs to. bench/src/injector.rs mirrors the plan.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define IP_TCP 6

/* How the next conversation is chosen. */
#define CHOOSE_RANDOM 0 /* any of `flows`, each as likely */
#define CHOOSE_NEXT 1 /* one after the other, never the same twice */

/* Which end of the frame the conversation's far address replaces. */
#define FAR_DESTINATION 0
#define FAR_SOURCE 1

/* A far prefix has 64 addresses, of which 32 are used, with 32768 near ports each. */
#define PREFIX_ADDRESSES 64
#define HOSTS 32
#define PORTS 32768
#define PORT_FIRST 1024

struct plan {
	__u64 random;
	__u32 next;
	__u32 choose;
	__u32 flows;
	__u32 prefixes;
	__u32 far_first; /* host order */
	__u32 far;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct plan);
} plan SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} sunk SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} target SEC(".maps");

static __always_inline __u32 choose(struct plan *p)
{
	__u64 x = p->random;

	if (p->choose == CHOOSE_NEXT)
		return p->next++;
	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	p->random = x;
	return ((x >> 32) * p->flows) >> 32;
}

static __always_inline __u16 folded(__u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* A listener answers no SYN with a wrong checksum. The segment is a bare header. */
static __always_inline void tcp_checksum(struct iphdr *ip, struct tcphdr *tcp)
{
	__u16 *words = (__u16 *)tcp;
	__u64 sum = bpf_htons(IP_TCP) + bpf_htons(sizeof(*tcp));

	sum += (ip->saddr & 0xffff) + (ip->saddr >> 16);
	sum += (ip->daddr & 0xffff) + (ip->daddr >> 16);
	tcp->check = 0;
#pragma unroll
	for (unsigned int i = 0; i < sizeof(*tcp) / 2; i++)
		sum += words[i];
	tcp->check = folded(sum);
}

static __always_inline int rewrite(void *data, void *end)
{
	struct iphdr *ip = data + sizeof(struct ethhdr);
	struct udphdr *ports = (void *)(ip + 1); /* TCP begins with the same four bytes */
	__u16 *words = (__u16 *)ip;
	__u32 zero = 0, index, far;
	struct plan *p = bpf_map_lookup_elem(&plan, &zero);
	__u64 sum = 0;

	if (!p || (void *)(ports + 1) > end)
		return 0;
	index = choose(p);
	far = p->far_first + index % p->prefixes * PREFIX_ADDRESSES + 1 + index / PORTS % HOSTS;
	if (p->far == FAR_DESTINATION)
		ip->daddr = bpf_htonl(far);
	else
		ip->saddr = bpf_htonl(far);
	ports->source = bpf_htons(PORT_FIRST + index % PORTS);
	ip->check = 0;
#pragma unroll
	for (unsigned int i = 0; i < sizeof(*ip) / 2; i++)
		sum += words[i];
	ip->check = folded(sum);
	if (ip->protocol == IP_TCP) {
		struct tcphdr *tcp = (void *)ports;

		if ((void *)(tcp + 1) > end)
			return 0;
		tcp_checksum(ip, tcp);
	}
	return 1;
}

/* Run with live frames on a device: each passes up as if the device had received it. */
SEC("xdp")
int generate(struct xdp_md *context)
{
	void *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;

	return rewrite(data, end) ? XDP_PASS : XDP_DROP;
}

/* veth takes frames from XDP only where a program is attached. */
SEC("xdp")
int pass(struct xdp_md *context)
{
	(void)context;
	return XDP_PASS;
}

/* The far end of the path: counts what arrives and drops it. Neighbour discovery is no payload and
 * goes on to the stack.
 */
SEC("tc")
int sink(struct __sk_buff *skb)
{
	__u32 zero = 0;
	__u64 *count = bpf_map_lookup_elem(&sunk, &zero);

	if (skb->protocol != bpf_htons(ETH_P_IP))
		return -1;
	if (count)
		(*count)++;
	return 2;
}

/* Rewrites and hands over to another program of its kind: the cost of that program alone is the
 * difference to `nothing` as the target.
 */
SEC("tc")
int replay(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (rewrite(data, end))
		bpf_tail_call(skb, &target, 0);
	/* Only reached without a target: no program of ours returns this. */
	return 99;
}

SEC("tc")
int nothing(struct __sk_buff *skb)
{
	(void)skb;
	return -1;
}

char _license[] SEC("license") = "Dual BSD/GPL";
