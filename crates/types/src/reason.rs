//! Why a verdict was given: one append-only numbered list, shared with `bpf/abi.h`.
//! A number is never reused; a test in `datapath` compares this list with the header.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $number:literal $name:ident $text:literal;)*) => {
        /// Why a packet got its verdict.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        #[repr(u8)]
        pub enum Reason {
            $($(#[$doc])* $name = $number,)*
        }

        impl Reason {
            /// Every reason, in the order of the numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The reason with this number, if it is known.
            #[must_use]
            pub const fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The name as the header, the API and the reports write it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

reasons! {
    /// A rule allowed a new session.
    1 PolicyAllow "policy-allow";
    /// The packet belongs to a live session.
    2 Session "session";
    /// ARP or neighbour discovery that tells the truth about its sender.
    3 Neighbour "neighbour";
    /// The announcement (RARP) that QEMU sends when a guest resumes.
    4 Announcement "announcement";
    /// An ICMP error whose inner packet belongs to a live session.
    5 Related "related";
    /// The policy would not allow it, but the guest is in observe mode.
    6 Observed "observed";
    /// The refusal that the firewall itself sent for a packet that a rule rejects.
    7 Answer "answer";
    /// A later fragment of a datagram whose first one was allowed.
    8 FragmentFollows "fragment-follows";
    /// DHCP between a guest and a server that the policy lets it reach.
    9 Dhcp "dhcp";
    /// A segment in the midst of a conversation whose host had died: the guest's owner chose that
    /// such conversations, if a rule allows them, are taken up.
    10 Adopted "adopted";
    /// A rule denies it.
    16 PolicyDeny "policy-deny";
    /// No rule names it: the default deny.
    17 DefaultDeny "default-deny";
    /// No release is loaded.
    18 NoRelease "no-release";
    /// The vnic is in hold.
    19 Hold "hold";
    /// The vnic's sessions were handed to another host.
    20 HandedOver "handed-over";
    /// The vnic was cut.
    21 Cut "cut";
    /// A rule denies it and has the sender told.
    22 Rejected "rejected";
    /// A rule allows it, but not so many new sessions in one second.
    23 Limited "limited";
    /// A rule allows it, but nobody has proven the program's verdicts for too long, and the guest's
    /// owner chose that no session begins then.
    24 Unproven "unproven";
    /// A rule allows it, but a newer release is known, and the guest's owner chose that no session
    /// begins then.
    25 Stale "stale";
    /// The source MAC is not the vnic's.
    32 SpoofedMac "spoofed-mac";
    /// The source address is not bound to the vnic.
    33 SpoofedAddress "spoofed-address";
    /// An ARP or ND message lies about its sender.
    34 SpoofedNeighbour "spoofed-neighbour";
    /// The destination MAC is not the vnic's: flooding must not let a guest sniff.
    35 ForeignMac "foreign-mac";
    /// The destination address is not bound to the vnic.
    36 ForeignAddress "foreign-address";
    /// The source is a guest of this host, but the packet did not come in by its device.
    37 SpoofedLocal "spoofed-local";
    /// A DHCP message names a station that is not the vnic's.
    38 SpoofedHardware "spoofed-hardware";
    /// A guest plays the DHCP server and may not.
    39 RogueServer "rogue-server";
    /// The frame is shorter than its headers say, or its lengths contradict each other.
    48 Truncated "truncated";
    /// Neither IPv4, IPv6, ARP nor QEMU's announcement, and no rule names it.
    49 EtherType "ether-type";
    /// A header field has a value that no sender may use.
    50 BadHeader "bad-header";
    /// A later fragment of a datagram whose first one was not seen, was denied or is too old.
    51 Fragment "fragment";
    /// An IPv6 extension header chain that is too long or has a header that is not followed.
    52 ExtensionHeader "extension-header";
    /// A VLAN tag that the vnic may not use, a provider's tag, or two tags.
    53 Vlan "vlan";
    /// An option of IPv4 or IPv6 that is malformed or changes what the packet means.
    54 IpOption "ip-option";
    /// A fragment that overlaps another, comes after a later one or makes too long a datagram.
    55 BadFragment "bad-fragment";
    /// A first fragment without its whole transport header, or one that could hold its rest.
    56 TinyFragment "tiny-fragment";
    /// A TCP packet that begins nothing and belongs to nothing.
    64 NoSession "no-session";
    /// A packet that its conversation has no place for in its present state.
    65 TcpInvalid "tcp-invalid";
    /// The vnic's session table is full.
    66 SessionTableFull "session-table-full";
    /// An ICMP error that matches no session.
    67 Unrelated "unrelated";
    /// A session whose rule was revoked or whose ends were re-bound.
    68 Revoked "revoked";
    /// A TCP packet outside its conversation's windows.
    80 TcpWindow "tcp-window";
    /// A TCP packet with flags that no sender combines.
    81 TcpFlags "tcp-flags";
    /// An SCTP packet with another tag than its association's, or out of place.
    82 SctpInvalid "sctp-invalid";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
