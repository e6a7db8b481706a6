//! What the parser says of each kind of mistake, as data.

use lictor_policy::{Part, Severity, parse, parse_parts, render};

const HEAD: &str = "policy \"p\" version 1
label zone : one-of cde corp dmz required
label app : string
set users = 10.0.0.0/8
service https = tcp/443
scope cde = zone:cde sensitive
";
const HEAD_LINES: usize = 6;

/// Expects `code line:column` of every diagnostic, with lines counted behind [`HEAD`].
fn check(text: &str, expected: &[&str]) {
    let whole = format!("{HEAD}{text}");
    let (policy, diagnostics) = parse("p.lictor", whole.as_bytes());
    let found: Vec<String> = diagnostics
        .iter()
        .map(|diagnostic| {
            let line = diagnostic.span.line as isize - HEAD_LINES as isize;
            format!("{} {line}:{}", diagnostic.code, diagnostic.column)
        })
        .collect();
    assert_eq!(
        found,
        expected,
        "{text}\n{}",
        render(&diagnostics, whole.as_bytes())
    );
    let failed = diagnostics
        .iter()
        .any(|diagnostic| diagnostic.severity == Severity::Error);
    assert_eq!(policy.is_none(), failed, "{text}");
}

/// A rule in an allow-only tier.
fn check_rule(rule: &str, expected: &[&str]) {
    check(
        &format!("tier t allow-only owner \"o\" {{\n{rule}\n}}\n"),
        expected,
    );
}

#[test]
fn sound_texts_have_no_diagnostics() {
    check("", &[]);
    check_rule(
        "allow a from any to zone:dmz service https justification \"j\" expires 2029-01-01",
        &[],
    );
    check_rule("allow a from zone:corp to zone:dmz service https", &[]);
    check(
        "tier baseline { deny all }\r\nrequire zone:cde controls firewall\r\n",
        &[],
    );
    check(
        "assert a : never path from zone:corp to scope:cde\nservice x = tcp/1\n",
        &[],
    );
}

#[test]
fn statements_name_what_they_expect() {
    check("lable x : string\n", &["syntax 1:1"]);
    check("label x string\n", &["syntax 1:9"]);
    check("label x : strin\n", &["syntax 1:11"]);
    check("label x : one-of\n", &["syntax 2:1"]);
    check("label scope : string\n", &["reserved-name 1:7"]);
    check("label app : string\n", &["defined-twice 1:7"]);
    check("label q : one-of a b a\n", &["defined-twice 1:22"]);
    check("set x =\n", &["syntax 2:1"]);
    check("set x = 10.0.0.1/8\n", &["host-bits 1:9"]);
    check("set x = 2001:db8::1/32\n", &["host-bits 1:9"]);
    check(
        "set x = 10.0.0.0/33 ::ffff:10.0.0.0/104 hello\n",
        &["bad-prefix 1:9", "bad-prefix 1:21", "bad-prefix 1:41"],
    );
    check("service x = tcp/0-65536\n", &["bad-service 1:13"]);
    check(
        "service x = tcp/9-1 icmp/256 udp/ ip/6 ip gre/1 ether/1 ether\n",
        &[
            "bad-service 1:13",
            "bad-service 1:21",
            "bad-service 1:30",
            "bad-service 1:35",
            "bad-service 1:40",
            "bad-service 1:43",
            "bad-service 1:49",
            "bad-service 1:57",
        ],
    );
    check(
        "tier t allow-only { allow a from zone:dmz to zone:corp service ether/0x88cc\n\
         allow b from zone:dmz to outside service ether/0x88cc }\n",
        &["ether-peer 1:27"],
    );
    check("service tcp = tcp/1\n", &["reserved-name 1:9"]);
    check_rule(
        "allow a from zone:corp to zone:dmz service tcp limit 0/s",
        &["bad-rate 2:54"],
    );
    check_rule(
        "allow a from zone:corp to zone:dmz service tcp limit 5",
        &["bad-rate 2:54"],
    );
    check_rule(
        "allow a from zone:corp to zone:dmz service tcp log-limit 5/s",
        &["log-limit-off 2:7"],
    );
    check_rule(
        "allow a from zone:corp to zone:dmz service tcp log new log-limit 1025/s",
        &["bad-rate 2:66"],
    );
    check_rule(
        "reject a from any to any service any",
        &["deny-in-allow-only 2:1"],
    );
    check(
        "tier guard ordered observe {\nreject a from any to any service any\n\
         deny b from any to any service any limit 5/s\n}\n",
        &["deny-limit 3:6"],
    );
    check("observe zone:corp\n", &["no-owner 1:1"]);
    check("observe zone:corp owner \"o\"\n", &[]);
    check(
        "observe guests owner \"o\" expires 2029-01-01\n",
        &["incomplete-metadata 1:9"],
    );
    check(
        "observe scope:cde owner \"o\" expires 2029-01-01 justification \"j\"\n",
        &[],
    );
    check("policy \"again\" version 2\n", &["defined-twice 1:1"]);
    check("}\n{{{\nset x = 1.2.3.4\n", &["syntax 1:1"]);
    check("scope x = computed one-hop moon\n", &["unknown-scope 1:28"]);
    check("scope x = computed two cde\n", &["unknown-word 1:20"]);
    check(
        "scope x = computed one-hop cde\nscope y = computed closure x\n",
        &["computed-of-computed 2:28"],
    );
    check(
        "scope x = computed one-hop cde\n\
         tier t allow-only { allow a from scope:x to zone:dmz service tcp }\n",
        &["computed-in-allow 1:7"],
    );
    check(
        "require zone:cde controls firewal\n",
        &["unusual-control 1:27"],
    );
    check("require zone:cde controls\n", &["syntax 2:1"]);
}

#[test]
fn unknown_names_are_reported_once_each_with_what_was_meant() {
    check(
        "scope x = zon:cde or scope:cd or set:user or zone:ced\n",
        &[
            "unknown-label 1:11",
            "unknown-scope 1:22",
            "unknown-set 1:34",
            "unknown-value 1:46",
        ],
    );
    check("scope x = cde\n", &["syntax 1:11"]);
    check("scope x = scope:x\n", &["unknown-scope 1:11"]);
    check(
        "scope x = 10.0.0.0/8 or 2001:db8::1\n",
        &["bare-address 1:11", "bare-address 1:25"],
    );
    check("scope x = host:h1 or hosts or app:*\n", &[]);
    check("scope x = host:\n", &["syntax 1:11"]);
    check("label hosts : string\n", &["reserved-name 1:7"]);
    check("set x = www.example.com\n", &["not-supported 1:9"]);
    check(
        "set x = 10.0.0.0/8 *.example.com\n",
        &["not-supported 1:20"],
    );
    check(
        "scope x = zone:cde or www.example.com\n",
        &["not-supported 1:23"],
    );
    check("scope x = fqdn:www.example.com\n", &["not-supported 1:11"]);
    check("scope x = zone:cde and zone:dmz\n", &["syntax 1:20"]);
    check("scope x = (zone:cde\nset y = 1.2.3.4\n", &["syntax 2:1"]);
    check_rule(
        "allow a from zone:corp to zone:dmz service htps",
        &["unknown-service 2:44"],
    );
    // A broken definition is reported where it is broken, not again at its uses.
    check(
        "service s = tcp/x\nscope d = s:1\nscope e = scope:d\n",
        &["bad-service 1:13", "unknown-label 2:11"],
    );
}

#[test]
fn rules_are_checked_and_reading_goes_on_behind_each_mistake() {
    let good = "from zone:corp to zone:dmz service https";
    check_rule(
        "allow a from zone:corp service https",
        &["incomplete-rule 2:7"],
    );
    check_rule(&format!("deny a {good}"), &["deny-in-allow-only 2:1"]);
    check_rule(
        &format!("alow a {good}\nallow b {good} log loud\nallow b {good}"),
        &["unknown-word 2:1", "unknown-word 3:54", "defined-twice 4:7"],
    );
    check_rule(
        &format!("allow a {good} from any"),
        &["incomplete-metadata 2:7", "defined-twice 2:50"],
    );
    check_rule(
        &format!("allow a {good} exipres 2029-01-01"),
        &["unknown-clause 2:50"],
    );
    check_rule(
        &format!(
            "allow a {{ {good} review 0d expires 2029-02-30 requirement x justification \"\" }}"
        ),
        &[
            "bad-review 2:59",
            "bad-date 2:70",
            "bad-requirement 2:93",
            "bad-text 2:109",
        ],
    );
    check_rule(
        "allow a {\n from $ to any\n}\nallow b from any",
        &["syntax 3:7", "syntax 3:9", "incomplete-rule 5:7"],
    );
    check_rule(
        &format!("allow a {good} \"stray\"\nallow b {good} justification \"open\n"),
        &["syntax 2:50", "syntax 3:64", "syntax 5:1"],
    );
    check(
        "tier t allow-only {\nallow a from any to zone:dmz",
        &["incomplete-rule 2:7", "syntax 2:29"],
    );
}

#[test]
fn what_touches_a_sensitive_scope_needs_owner_justification_and_expiry() {
    let tier = |rule: &str| format!("tier t allow-only {{\n{rule}\n}}\n");
    let end = "service https";
    let missing = &["incomplete-metadata 2:7"];
    check(
        &tier(&format!("allow a from zone:corp to zone:cde {end}")),
        missing,
    );
    check(
        &tier(&format!("allow a from zone:cde to set:users {end}")),
        missing,
    );
    check(
        &tier(&format!("allow a from app:x to zone:dmz {end}")),
        missing,
    );
    check(
        &tier(&format!("allow a from not zone:corp to zone:dmz {end}")),
        missing,
    );
    check(
        &tier(&format!("allow a from not zone:cde to zone:dmz {end}")),
        &[],
    );
    check(
        &tier(&format!("allow a from app:x & zone:corp to zone:dmz {end}")),
        &[],
    );
    check(
        &tier(&format!("allow a from outside to zone:dmz {end}")),
        &[],
    );
    for kept in [
        "owner \"o\" justification \"j\"",
        "owner \"o\" expires 2029-01-01",
        "justification \"j\" expires 2029-01-01",
    ] {
        check(
            &tier(&format!("allow a from zone:corp to zone:cde {end} {kept}")),
            missing,
        );
    }
    let guard = "tier g ordered {\ndeny a from any to scope:cde service any\n}\n";
    check(guard, &[]);
    // A scope that is marked below its rules counts as well.
    let late = format!(
        "{}scope late = zone:dmz sensitive\n",
        tier(&format!("allow a from zone:corp to zone:dmz {end}"))
    );
    check(&late, missing);
}

#[test]
fn owners_open_their_own_guests_only() {
    let within = |rule: &str| {
        format!(
            "tier t allow-only owner \"o\" within app:pay & zone:dmz {{\n{rule} service https\n}}\n"
        )
    };
    let own = "app:pay & zone:dmz";
    check(&within(&format!("allow a from zone:corp to {own}")), &[]);
    check(&within(&format!("allow a from set:users to {own}")), &[]);
    check(&within(&format!("allow a from {own} to set:users")), &[]);
    check(
        &within("allow a from zone:corp to zone:dmz"),
        &["outside-within 2:27"],
    );
    check(
        &within("allow a from zone:corp to app:pay & zone:corp"),
        &["outside-within 2:27"],
    );
    check(
        &within("allow a from zone:corp to set:users"),
        &["outside-within 2:14"],
    );
    check(
        &within("allow a from set:users to set:users"),
        &["outside-within 2:14"],
    );
    check(
        &within(&format!("allow a from {own} to not zone:cde")),
        &["outside-within 2:36"],
    );
}

#[test]
fn tiers_keep_their_order_and_the_baseline_denies() {
    let app = "tier t allow-only { }\n";
    check(&format!("{app}tier g ordered {{ }}\n"), &["late-guard 2:6"]);
    check("tier g ordered { }\ntier h ordered { }\n", &[]);
    check(
        "tier g ordered within zone:cde { }\n",
        &["guard-within 1:6"],
    );
    check(&format!("{app}{app}"), &["defined-twice 2:6"]);
    check("tier t sorted { }\n", &["syntax 1:8"]);
    check(
        "tier t allow-only on-expiry open { }\n",
        &["unknown-word 1:29"],
    );
    check("tier baseline { allow all }\n", &["open-baseline 1:17"]);
    check(
        "tier baseline { deny all }\ntier baseline { deny all }\n",
        &["defined-twice 2:6"],
    );
    let expiring = |action| {
        format!(
            "tier g ordered {{\n{action} a from any to any service any expires 2029-01-01\n}}\n"
        )
    };
    check(&expiring("deny"), &["deny-expires 2:6"]);
    check(&expiring("pass"), &["deny-expires 2:6"]);
}

#[test]
fn choices_are_those_of_their_cause_and_weak_ones_are_justified() {
    let when = |text: &str| format!("when {text}\n");
    check(
        &when("host-unprotected for zone:dmz choose allow-with-alarm owner \"o\""),
        &[],
    );
    check(
        &when("host-unprotected for zone:cde choose block owner \"o\""),
        &[],
    );
    check(
        &when("host-unprotected for zone:dmz choose block"),
        &["no-owner 1:1"],
    );
    check(
        &when("host-unprotected for zone:dmz choose adopt owner \"o\""),
        &["unknown-word 1:43"],
    );
    check(
        &when("host-unprotekted for zone:dmz choose block owner \"o\""),
        &["unknown-word 1:6"],
    );
    let weak = "host-unprotected for zone:cde choose allow-with-alarm owner \"o\"";
    check(&when(weak), &["incomplete-metadata 1:43"]);
    check(
        &when(&format!("{weak} justification \"j\"")),
        &["incomplete-metadata 1:43"],
    );
    check(
        &when(&format!("{weak} justification \"j\" expires 2029-01-01")),
        &[],
    );
    let named = "ids-missing for zone:dmz choose allow-with-expiry owner \"o\"";
    check(&when(named), &["incomplete-metadata 1:38"]);
    check(&when(&format!("{named} expires 2029-01-01")), &[]);
}

#[test]
fn intents_name_what_they_expect() {
    check("assert a : sometimes path\n", &["syntax 1:12"]);
    check("assert a : never path from zone:cde\n", &["syntax 2:1"]);
    check(
        "assert a : never path from any to any within 0 hops\n",
        &["bad-number 1:46"],
    );
    check(
        &"assert a : only any reaches any service https\n".repeat(2),
        &["defined-twice 2:8"],
    );
    check(
        "assert a : host never runs (any with any) interpretation loose\n",
        &["unknown-word 1:58"],
    );
}

#[test]
fn the_header_comes_first() {
    let check = |text: &str, expected: &[&str]| {
        let (policy, diagnostics) = parse("p", text.as_bytes());
        let codes: Vec<&str> = diagnostics
            .iter()
            .map(|found| found.code.as_str())
            .collect();
        assert_eq!(
            (policy.is_none(), codes.as_slice()),
            (!expected.is_empty(), expected),
            "{text}"
        );
    };
    check("policy \"p\" version 1", &[]);
    check("\u{feff}policy \"p\" version 1\r\n", &[]);
    check("", &["no-header"]);
    check("label a : string", &["no-header"]);
    check("policy p version 1", &["syntax"]);
    check("policy \"p p\" version 1", &["bad-name"]);
    check("policy \"p\" version 0", &["bad-number"]);
    check("policy \"p\" version 18446744073709551616", &["bad-number"]);
}

#[test]
fn a_name_that_is_defined_below_its_use_is_pointed_at() {
    let text = "policy \"p\" version 1\nscope a = zone:x\nlabel zone : string\n";
    let (_, diagnostics) = parse("p", text.as_bytes());
    let help = diagnostics[0].help.as_deref();
    assert_eq!(
        help,
        Some("it is defined on line 3; move that above its use")
    );
}

#[test]
fn bytes_that_are_not_text_are_refused_and_control_characters_are_not_rendered() {
    let bytes = b"policy \"p\" version 1\nlabel \xff : string\n";
    let (policy, diagnostics) = parse("p", bytes);
    assert!(policy.is_none());
    let rendered = render(&diagnostics, bytes);
    assert!(
        rendered.contains("byte 0xff is not UTF-8 text"),
        "{rendered}"
    );
    assert!(rendered.contains("p:2:7"), "{rendered}");
    let escape = b"policy \"p\" version 1\n\x1b[31m\x07 x\n";
    let rendered = render(&parse("p", escape).1, escape);
    assert!(
        rendered.chars().all(|c| c == '\n' || !c.is_control()),
        "{rendered:?}"
    );
}

#[test]
fn what_stands_above_every_tier_is_answered_for() {
    let whole = "owner \"o\" justification \"j\" expires 2029-01-01";
    for word in ["isolate", "exclude"] {
        check(&format!("{word} a zone:dmz {whole}\n"), &[]);
        check(
            &format!("{word} a zone:dmz owner \"o\"\n"),
            &["incomplete-metadata 1:9"],
        );
        check(
            &format!("{word} a zone:moon {whole}\n"),
            &["unknown-value 1:11"],
        );
        check(
            &format!("{word} a zone:dmz {whole}\n{word} a zone:cde {whole}\n"),
            &["defined-twice 2:9"],
        );
        check(
            &format!("tier {word} ordered {{ }}\n"),
            &["reserved-name 1:6"],
        );
    }
}

#[test]
fn windows_are_days_and_belong_to_application_rules() {
    let rule = "tier t allow-only { allow a from zone:dmz to zone:corp service tcp during w }\n";
    check(&format!("window w = mon-fri, sun\n{rule}"), &[]);
    check(rule, &["unknown-window 1:75"]);
    check("window w =\n", &["syntax 2:1"]);
    check("window w = monday\n", &["bad-days 1:12"]);
    check("window w = 08:00-18:00\n", &["bad-hours 1:12"]);
    check("window w = mon 18-08\n", &["bad-hours 1:16"]);
    check(&format!("window w = mon-fri 08-12, 13-18\n{rule}"), &[]);
    check(
        "window w = mon\n\
         tier g ordered { allow a from zone:dmz to zone:corp service tcp during w }\n",
        &["ordered-window 2:24"],
    );
}

#[test]
fn delegations_are_lists_of_label_sets() {
    let good = "delegate d to \"key\" bind zone:dmz & app:* or zone:corp guests 5 \
                prefixes 10.1.0.0/16 segments 1 2\n";
    check(good, &[]);
    check(
        "delegate d to \"key\" bind not zone:dmz guests 5\n",
        &["bad-delegation 1:26"],
    );
    check(
        "delegate d to \"key\" bind host:h guests 5\n",
        &["bad-delegation 1:26"],
    );
    check(
        "delegate d to \"key\" bind zone:dmz guests 0\n",
        &["bad-number 1:42"],
    );
    check(
        "delegate d to \"key\" bind zone:dmz guests 5 prefixes 10.0.0.1/8\n",
        &["host-bits 1:53"],
    );
    check(&good.repeat(2), &["defined-twice 2:10"]);
}

#[test]
fn services_whose_sessions_beget_sessions_are_warned_of() {
    let rule = |service: &str| format!("allow a from zone:corp to zone:dmz service {service}");
    for service in [
        "tcp/21",
        "tcp/20-22",
        "udp/69",
        "udp/111, tcp/80",
        "tcp/135",
    ] {
        check_rule(&rule(service), &["related-sessions 2:7"]);
    }
    for service in ["tcp", "any", "tcp/22", "udp/21"] {
        check_rule(&rule(service), &[]);
    }
}

#[test]
fn a_rule_says_at_which_end_it_speaks() {
    let rule = |at: &str| format!("allow a from zone:corp to zone:dmz service tcp at {at}");
    check_rule(&rule("ingress"), &[]);
    check_rule(&rule("both"), &["unknown-word 2:51"]);
}

#[test]
fn every_intent_may_speak_of_any_host_and_of_failures() {
    for claim in [
        "never path from zone:corp to scope:cde within 3 hops",
        "always path from zone:corp to zone:dmz service tcp/1",
        "only zone:corp reaches zone:dmz service tcp/1",
        "scope:cde requires host control firewall ids",
        "host never runs (zone:cde with zone:corp) interpretation strict",
    ] {
        check(
            &format!("assert a : {claim} on any-host under failures 2\n"),
            &[],
        );
    }
    check(
        "assert a : only any reaches any service tcp on any-host on any-host\n",
        &["defined-twice 1:57"],
    );
}

#[test]
fn several_files_are_one_policy_and_each_place_names_its_file() {
    let parts = |texts: [(&'static str, &'static str); 3]| {
        let parts = texts.map(|(name, text)| Part {
            name,
            bytes: text.as_bytes(),
        });
        let (policy, found) = parse_parts(&parts);
        let places = found
            .iter()
            .map(|one| format!("{} {}:{}:{}", one.code, one.file, one.span.line, one.column));
        (policy, places.collect::<Vec<_>>())
    };
    let head = ("a.lictor", "policy \"p\" version 1\nlabel zone : string");
    let rule = "\u{feff}tier t allow-only {\n allow r from zone:a to zone:b service tcp }";
    let (policy, found) = parts([head, ("b.lictor", rule), ("c.lictor", "# nothing\n")]);
    assert_eq!(found, Vec::<String>::new());
    let policy = policy.expect("sound");
    let (_, rule_read) = policy.rules().next().expect("one rule");
    assert_eq!(
        (rule_read.file.as_deref(), rule_read.line),
        (Some("b.lictor"), 2)
    );
    let (policy, found) = parts([
        head,
        ("b.lictor", "set x = 10.0.0.1/8"),
        ("c.lictor", "\n tier"),
    ]);
    assert!(policy.is_none());
    assert_eq!(found, ["host-bits b.lictor:1:9", "syntax c.lictor:3:1"]);
}
