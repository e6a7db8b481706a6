use super::*;
use crate::output::{Colour, Output};
use std::fs;

const POLICY: &str = "policy \"p\" version 3
label zone : one-of cde corp dmz required
label app : string
set users = 198.51.100.0/24
service web = tcp/443
tier guard ordered owner \"net@example.com\" {
  deny office from zone:corp to zone:cde service tcp/22
  pass known from set:users to zone:dmz service web
}
tier pay allow-only owner \"pay@example.com\" {
  allow portal from set:users or zone:corp to zone:dmz service web
  allow admin from zone:dmz to zone:cde service tcp/22
}
observe app:trial owner \"it@example.com\" expires 2029-01-31
";
const ESTATE: &str = r#"{ "guests": [
    { "name": "office", "labels": { "zone": "corp" }, "addresses": ["10.0.0.1", "10.0.0.9"] },
    { "name": "jump", "labels": { "zone": "dmz" }, "addresses": ["10.0.0.2"] },
    { "name": "try", "labels": { "zone": "dmz", "app": "trial" }, "addresses": ["10.0.0.4"] },
    { "name": "cards", "labels": { "zone": "cde" }, "addresses": ["10.0.0.3", "10.0.0.9"] },
    { "name": "lost", "labels": {} } ] }"#;

struct Typed<'a> {
    packet: Option<&'a str>,
    from: Option<&'a str>,
    to: Option<&'a str>,
    service: Option<&'a str>,
}

const NOTHING: Typed<'_> = Typed {
    packet: None,
    from: None,
    to: None,
    service: None,
};

fn packet(text: &str) -> Typed<'_> {
    Typed {
        packet: Some(text),
        ..NOTHING
    }
}

fn flow<'a>(from: &'a str, to: &'a str, service: &'a str) -> Typed<'a> {
    let some = |text: &'a str| Some(text).filter(|text| !text.is_empty());
    Typed {
        packet: None,
        from: some(from),
        to: some(to),
        service: some(service),
    }
}

fn ask(typed: &Typed<'_>) -> Result<Answer, CliError> {
    let folder = tempfile::tempdir().expect("a folder");
    let (policy, estate) = (folder.path().join("p.lictor"), folder.path().join("e.json"));
    fs::write(&policy, POLICY).expect("written");
    fs::write(&estate, ESTATE).expect("written");
    let owned = |text: Option<&str>| text.map(str::to_owned);
    let args = Explain {
        policy: vec![policy],
        estate,
        packet: typed.packet.map(|text| text.parse().expect("a packet")),
        from: owned(typed.from),
        to: owned(typed.to),
        service: owned(typed.service),
        release: None,
        date: None,
    };
    let setting = Setting {
        now_ms: 1_790_000_000_000,
        user: "test".into(),
        colour: Colour::Off,
    };
    run(&args, &setting)
}

fn check(typed: &Typed<'_>, ending: Ending, texts: &[&str]) {
    let answer = ask(typed).expect("an answer");
    let text = answer.text(Output::Table, Colour::Off).expect("a page");
    assert_eq!(answer.ending, ending, "{text}");
    for expected in texts {
        assert!(text.contains(expected), "no {expected:?} in\n{text}");
    }
}

#[test]
fn a_packet_is_explained_at_both_ends_with_every_tier_and_rule() {
    check(
        &packet("tcp 198.51.100.7:40000 > 10.0.0.2:443"),
        Ending::Done,
        &[
            "p version 3",
            "toward the guest: allow (policy-allow) by pay/portal",
            "guard (ordered)   guard/known  pass    hands over to the next tier  net@example.com",
            "pay (allow-only)  pay/portal   allow   decides",
            "198.51.100.7, outside",
        ],
    );
    check(
        &packet("tcp 10.0.0.2:40000 > 10.0.0.3:443"),
        Ending::No,
        &[
            "deny (default-deny) by no rule",
            "would allow, but for one clause",
            "pay/admin  service tcp/22",
        ],
    );
    check(
        &flow("office", "cards", "tcp/22"),
        Ending::No,
        &[
            "from the guest: deny (policy-deny) by guard/office",
            "from zone:dmz",
        ],
    );
    check(
        &flow("10.0.0.2", "cards", "tcp/22"),
        Ending::Done,
        &["by pay/admin"],
    );
    check(
        &flow("try", "198.51.100.1", "web"),
        Ending::Done,
        &["allow (observed) by no rule; in enforce mode deny by no rule"],
    );
}

#[test]
fn who_can_reach_what_is_listed_with_the_rules_of_both_ends() {
    check(
        &flow("", "cards", ""),
        Ending::Done,
        &["jump  cards  tcp/22", "by pay/admin", "in quarantine: lost"],
    );
    check(
        &flow("", "zone:dmz", "web"),
        Ending::Done,
        &["office", "198.51.100.0 and others in users", "jump"],
    );
    check(
        &flow("try", "", ""),
        Ending::Done,
        &["allow (observed) by no rule"],
    );
    check(&flow("office", "lost", ""), Ending::No, &["none"]);
}

#[test]
fn programs_get_the_same() {
    let answer = ask(&flow("office", "cards", "tcp/22")).expect("an answer");
    let value = &answer.value["explained"];
    assert_eq!(value["verdict"], "deny");
    assert_eq!(value["egress"]["steps"][0]["part"], "decides");
    assert_eq!(value["egress"]["near"][0]["clause"], "from");
    let answer = ask(&flow("", "cards", "")).expect("an answer");
    assert_eq!(
        answer.value["reaches"][0]["ingress"]["rule"]["name"],
        "pay/admin"
    );
}

#[test]
fn what_cannot_be_asked_is_refused_with_what_was_expected() {
    let check = |typed: Typed<'_>, expected: &str| {
        let error = ask(&typed).err().expect("refused").to_string();
        assert!(error.contains(expected), "no {expected:?} in {error}");
    };
    check(flow("", "zone:moon", ""), "expected one of cde, corp, dmz");
    check(flow("", "nobody", ""), "no guest of the estate");
    check(flow("", "cards", "wep"), "services of the policy: web");
    check(
        packet("tcp 10.0.0.9:1 > 10.0.0.2:2"),
        "10.0.0.9 is office's and cards's",
    );
}
