//! Proxmox VE's files, and policies of Aerleon and Capirca, in the forms that their parsers take.

mod support;

use lictor_import::{Effect, Format, import};
use support::{check, imported, noted, policy, source};

#[test]
fn hosts_of_proxmox_have_their_own_rules_first_and_then_the_clusters() {
    let cluster = "[OPTIONS]\nenable: 1\npolicy_in: DROP\n[IPSET management]\n10.9.0.0/24\n\
        [RULES]\nin ACCEPT -p tcp -dport 9100 -source 10.0.0.0/8\nIN REJECT -p udp\n";
    let host = "[RULES]\nIN DROP -p tcp -dport 9100 -source 10.1.0.0/16\n\
        IN ACCEPT -p icmp -icmp-type port-unreachable\nIN ACCEPT -p 112\n";
    let files = [
        source("pve/nodes/one/host.fw", host.as_bytes()),
        source("pve/firewall/cluster.fw", cluster.as_bytes()),
        source("pve/nodes/two/host.fw", b"[OPTIONS]\nenable: 0\n"),
    ];
    let found = imported(Format::Proxmox, &files);
    for (question, expected) in [
        ("10.1.0.1 host:one tcp/9100", "- deny"),
        ("10.1.0.1 host:three tcp/9100", "- allow"),
        ("10.2.0.1 host:one tcp/9100", "- allow"),
        ("10.2.0.1 host:one icmp/3/3", "- allow"),
        ("10.2.0.1 host:one icmp/3/4", "- deny"),
        ("10.2.0.1 host:one ip/112", "- allow"),
        ("10.2.0.1 host:one udp/1", "- reject"),
        ("10.9.0.1 host:one tcp/8006", "- allow"),
        ("10.8.0.1 host:one tcp/8006", "- deny"),
        ("host:one 192.0.2.1 tcp/1", "allow -"),
        ("192.0.2.1 host:two tcp/1", "- allow"),
    ] {
        check(&found, question, expected);
    }
    noted(&found, Effect::Closes, "management");
}

#[test]
fn guests_of_proxmox_have_the_addresses_that_their_filters_let_them_use() {
    let cluster = "[RULES]\n";
    let guest = "[OPTIONS]\nenable: 1\ndhcp: 1\n[IPSET ipfilter-net0]\n10.3.0.5\n10.3.0.0/24\n\
        [RULES]\nIN Ping(ACCEPT) -source 10.3.0.6\nIN SSH(ACCEPT) -p tcp -dport 2222\n\
        IN SixXS(ACCEPT)\n";
    let other = "[OPTIONS]\nenable: 1\n[IPSET ipfilter-net0]\n10.3.0.6\n[RULES]\n";
    let files = [
        source("cluster.fw", cluster.as_bytes()),
        source("100.fw", guest.as_bytes()),
        source("101.fw", other.as_bytes()),
    ];
    let found = imported(Format::Proxmox, &files);
    check(&found, "vm-101 vm-100 icmp/8", "allow allow");
    check(&found, "vm-101 vm-100 icmpv6/128", "allow allow");
    check(&found, "vm-101 vm-100 tcp/22", "allow deny");
    check(&found, "vm-101 vm-100 ip/41", "allow allow");
    noted(&found, Effect::Closes, "DHCP");
    noted(&found, Effect::Closes, "off there");
    noted(&found, Effect::Closes, "2222");
}

#[test]
fn policies_of_aerleon_are_read_by_their_words_and_not_by_their_lines() {
    let text = "# a policy\nheader { comment:: \"two\n lines # and no comment\"\n\
        target:: juniper x target:: cisco y }\n\
        term one { protocol:: tcp udp destination-port:: DNS\n # comment\n action:: accept }\n\
        #include 'more.inc'\n\
        term either { address:: WEB protocol:: tcp destination-port:: HTTP action:: deny }\n\
        term v6 { protocol:: icmpv6 icmp-type:: packet-too-big action:: accept }\n\
        term vrrp { protocol:: vrrp action:: accept }\n\
        term tagged { target-resources:: (p, n) action:: accept }\n\
        term odd { option:: is-fragment action:: accept }\n\
        term off { option:: inactive action:: accept }\n\
        term some { platform:: cisco protocol:: tcp destination-port:: LATE action:: accept }\n\
        term other { platform:: srx action:: accept }\n\
        term most { platform-exclude:: srx protocol:: tcp destination-port:: LAST\n\
        action:: accept }\n";
    let files = [
        source("p/a.pol", text.as_bytes()),
        source("p/more.inc", b"#include 'deep.inc'\n"),
        source(
            "p/deep.inc",
            b"term deep { protocol:: udp destination-port:: LATE expiration:: 2026-11-27\n\
              action:: accept }\nterm kept { protocol:: udp destination-port:: LAST\n\
              expiration:: 2026-11-28 action:: accept }\n",
        ),
        source("d/a.net", b"WEB = 10.1.0.0/16\n"),
        source(
            "d/a.svc",
            b"DNS = 53/tcp 53/udp\nHTTP = 80/tcp\nLATE = 7/tcp 7/udp\nLAST = 8/udp 8/tcp\n",
        ),
    ];
    let found = imported(Format::Aerleon, &files);
    for (question, expected) in [
        ("192.0.2.1 in.WEB:yes udp/53", "- allow"),
        ("192.0.2.1 in.WEB:yes tcp/80", "- deny"),
        ("in.WEB:yes 192.0.2.1 tcp/80", "deny -"),
        ("x:y 192.0.2.1 icmpv6/2", "allow -"),
        ("x:y 192.0.2.1 icmp/0", "deny -"),
        ("x:y 192.0.2.1 ip/112", "allow -"),
        ("x:y 192.0.2.1 tcp/9", "deny -"),
        // On the day of its expiration a term is left out there.
        ("x:y 192.0.2.1 udp/7", "deny -"),
        ("x:y 192.0.2.1 udp/8", "allow -"),
        ("x:y 192.0.2.1 tcp/7", "allow -"),
        ("x:y 192.0.2.1 tcp/8", "allow -"),
    ] {
        check(&found, question, expected);
    }
    for part in ["tagged", "odd"] {
        noted(&found, Effect::Closes, part);
    }
    noted(&found, Effect::Opens, "only for some platforms");
    noted(&found, Effect::None, "term other");
    assert_eq!(policy(&found).tiers[0].rules.len(), 9);
    for wrong in [
        "term x { }",
        "header { target:: x",
        "header { } term x y { }",
        "}",
    ] {
        let error = import(Format::Aerleon, "n", &[source("a.pol", wrong.as_bytes())]);
        assert!(
            error.is_err_and(|error| error.to_string().contains("expected")),
            "{wrong}"
        );
    }
}

#[test]
fn a_file_of_proxmox_has_as_many_lines_as_are_read_and_no_more() {
    for (lines, refused) in [(262_144, false), (262_145, true)] {
        let text = format!("[ALIASES]\n{}", "a 10.0.0.1\n".repeat(lines));
        let files = [source("cluster.fw", text.as_bytes())];
        let error = import(Format::Proxmox, "p", &files).err();
        let error = error.map(|error| error.to_string()).unwrap_or_default();
        let said = "cluster.fw: more than 262144 lines; import a part of the file";
        assert_eq!(error == said, refused, "{error}");
    }
}

/// As `aerleon` itself writes them for iptables.
#[test]
fn what_no_term_matches_is_accepted_where_the_chain_of_the_only_filter_does() {
    let filter = |target: &str| {
        format!("header {{ target:: {target} }}\nterm t {{ protocol:: tcp action:: deny }}\n")
    };
    let check_all = |text: &str, expected: [&str; 2]| {
        let found = imported(Format::Aerleon, &[source("a.pol", text.as_bytes())]);
        check(&found, "192.0.2.1 x:y tcp/9", expected[0]);
        check(&found, "192.0.2.1 x:y udp/9", expected[1]);
        found
    };
    check_all(&filter("iptables INPUT ACCEPT"), ["- deny", "- allow"]);
    check_all(&filter("iptables INPUT DROP"), ["- deny", "- deny"]);
    check_all(&filter("juniper ACCEPT"), ["- deny", "- deny"]);
    let two = filter("speedway INPUT ACCEPT") + &filter("speedway OUTPUT ACCEPT");
    let found = check_all(&two, ["- deny", "- deny"]);
    noted(
        &found,
        Effect::Closes,
        "what no term matches is accepted there",
    );
}
