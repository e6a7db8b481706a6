//! What single constructs mean, on policies small enough to read.

use lictor_policy::evaluate::{Question, evaluate};
use lictor_policy::{
    CompileError, CompileInput, Compiled, Date, End, Labels, Policy, compile, parse, render,
};
use lictor_types::{Protocol, Verdict};

const HEAD: &str = "policy \"p\" version 1\nlabel app : string\nscope cde = app:cde\n";

fn policy(text: &str) -> Policy {
    let text = format!("{HEAD}{text}");
    let (policy, diagnostics) = parse("p", text.as_bytes());
    policy.unwrap_or_else(|| panic!("{}", render(&diagnostics, text.as_bytes())))
}

fn labels(text: &str) -> Labels {
    let pair = text.split_once(':').expect("label:value");
    Labels::from([(pair.0.to_owned(), pair.1.to_owned())])
}

fn end(text: &str) -> End {
    text.parse()
        .map_or_else(|_| End::Guest(labels(text)), End::Address)
}

fn date(text: &str) -> Date {
    text.parse().expect("a date")
}

fn compiled(policy: &Policy, guests: &[&str]) -> Result<Compiled, CompileError> {
    let label_sets = guests.iter().map(|guest| labels(guest)).collect();
    let date = date("2026-11-27");
    compile(policy, &CompileInput { label_sets, date })
}

/// `from to port day`, and the verdicts at egress and ingress: `allow deny`, `-` where no guest is.
fn check(policy: &Policy, question: &str, expected: &str) {
    let words: Vec<&str> = question.split(' ').collect();
    let answer = evaluate(
        policy,
        &Question {
            source: end(words[0]),
            destination: end(words[1]),
            protocol: Protocol::Tcp,
            port: words[2].parse().expect("a port"),
            date: date(words[3]),
        },
    );
    let word = |verdict: Option<Verdict>| verdict.map_or("-".to_owned(), |one| one.to_string());
    let said = [answer.egress, answer.ingress].map(|one| word(one.map(|one| one.verdict)));
    assert_eq!(said.join(" "), expected, "{question}");
}

fn all_rows(compiled: &Compiled) -> Vec<lictor_types::Decision> {
    let tables = lictor_policy::Tables::of(compiled).expect("as compiled");
    let ids = compiled.identities.iter().map(|one| one.id);
    ids.flat_map(|id| tables.decisions(id)).collect()
}

#[test]
fn a_computed_scope_is_who_the_rules_that_allow_join_with_it() {
    let text = "scope one = computed one-hop cde\nscope two = computed two-hops cde\n\
        scope all = computed closure cde\n\
        tier g ordered { deny d from scope:all to app:none service tcp/9 }\n\
        tier t allow-only {\n\
        allow a from app:web to app:cde service tcp/1\n\
        allow b from app:cde to app:log service tcp/2\n\
        allow c from app:front to app:web service tcp/3\n\
        allow d from app:user to app:front service tcp/4\n\
        allow e from app:x to app:y service tcp/5\n}\n";
    let policy = policy(text);
    let guests = [
        "app:web",
        "app:cde",
        "app:log",
        "app:front",
        "app:user",
        "app:x",
        "app:y",
    ];
    let compiled = compiled(&policy, &guests).expect("small");
    let members = |scope: &str| {
        let row = compiled
            .computed
            .iter()
            .find(|row| row.scope == scope)
            .expect("computed");
        let inside = |guest: &&&str| {
            let id = compiled.identity_of(&labels(guest)).expect("compiled in");
            row.members.contains(&id)
        };
        let found: Vec<&str> = guests.iter().filter(inside).copied().collect();
        found.join(" ")
    };
    assert_eq!(members("one"), "app:web app:log");
    assert_eq!(members("two"), "app:web app:log app:front");
    assert_eq!(members("all"), "app:web app:log app:front app:user");
    check(&policy, "app:user app:none 9 2026-11-27", "deny deny");
}

#[test]
fn isolation_cuts_both_ends_and_an_exclusion_opens_its_own_only_until_its_last_day() {
    let text = "isolate bad app:bad owner \"o\" justification \"j\" expires 2026-11-27\n\
        exclude old app:old or app:bad owner \"o\" justification \"j\" expires 2026-11-27\n\
        tier t allow-only { allow a from any to any service tcp/1 }\n";
    let policy = policy(text);
    check(&policy, "app:bad app:a 1 2026-11-27", "deny deny");
    check(&policy, "192.0.2.1 app:bad 1 2026-11-27", "- deny");
    check(&policy, "app:bad app:a 1 2026-11-28", "allow allow");
    check(&policy, "app:old app:a 2 2026-11-27", "allow deny");
    check(&policy, "app:a app:old 2 2026-11-27", "deny allow");
    check(&policy, "app:old 192.0.2.1 2 2026-11-27", "allow -");
    check(&policy, "app:old 192.0.2.1 2 2026-11-28", "deny -");
    check(&policy, "app:bad 192.0.2.1 2 2026-11-27", "deny -");
}

#[test]
fn a_tier_passes_to_the_next_one_and_a_rule_may_speak_at_one_end() {
    let text = "tier one ordered {\n\
        pass a from app:a to any service tcp/1\ndeny b from app:a to any service tcp/1-2 }\n\
        tier two ordered {\n\
        allow c from any to app:b service tcp/1 at ingress\n\
        allow d from app:a to any service any at egress }\n";
    let policy = policy(text);
    check(&policy, "app:a app:b 1 2026-11-27", "allow allow");
    check(&policy, "app:a app:b 2 2026-11-27", "deny deny");
    check(&policy, "app:a app:c 1 2026-11-27", "allow deny");
    check(&policy, "app:c app:b 1 2026-11-27", "deny allow");
}

#[test]
fn a_window_closes_on_other_days_and_two_windows_do_not_meet() {
    let text = "window work = mon-fri\nwindow rest = sat sun\ntier t allow-only {\n\
        allow a from app:a to app:b service tcp/1-5 during work\n\
        allow b from app:a to app:b service tcp/2\n";
    let sound = policy(&format!("{text}}}\n"));
    check(&sound, "app:a app:b 1 2026-11-27", "allow allow");
    check(&sound, "app:a app:b 1 2026-11-28", "deny deny");
    check(&sound, "app:a app:b 2 2026-11-28", "allow allow");
    let tables = compiled(&sound, &["app:a", "app:b"]).expect("small");
    let ended = tables.ended_by(date("2026-11-28"));
    let rows = all_rows(&tables);
    let open: Vec<&str> = rows
        .iter()
        .filter(|row| !ended.contains(&row.rule))
        .filter_map(|row| tables.rule(row.rule))
        .map(|rule| rule.name.as_str())
        .collect();
    assert_eq!(open, ["t/b", "t/b"]);
    let meets = |port: &str| {
        let rule = format!("allow c from app:a to app:b service {port} during rest\n}}\n");
        compiled(&policy(&format!("{text}{rule}")), &["app:a", "app:b"])
    };
    assert!(meets("tcp/2").is_ok() && meets("tcp/6").is_ok());
    let refused = meets("tcp/3").expect_err("two windows").to_string();
    assert!(
        refused.contains("t/a") && refused.contains("t/c"),
        "{refused}"
    );
}

#[test]
fn a_host_is_an_end_of_its_own() {
    let text = "label zone : one-of x required\nset admins = 192.0.2.0/24\n\
        tier g ordered { deny g from guests to hosts service any }\n\
        tier t allow-only {\n\
        allow a from set:admins to host:h1 service tcp/22\n\
        allow b from any to app:* service tcp/80 }\n";
    let policy = policy(text);
    check(&policy, "192.0.2.1 host:h1 22 2026-11-27", "- allow");
    check(&policy, "192.0.2.1 host:h2 22 2026-11-27", "- deny");
    // A guest without its required label is in quarantine; a host has none to lack.
    check(&policy, "host:h1 app:a 80 2026-11-27", "deny deny");
    assert!(!policy.quarantines(&labels("host:h1")) && policy.quarantines(&labels("app:a")));
}

#[test]
fn an_expired_rule_says_what_only_it_allows() {
    let text = "set out = 192.0.2.0/24\ntier g ordered {\n\
        deny d from app:c to any service tcp/1\n\
        allow g from app:b to app:c service tcp/7 expires 2026-11-26\n\
        deny late from app:b to app:c service tcp/8 }\n\
        tier kept allow-only on-expiry keep-and-alarm {\n\
        allow old from app:a or app:c to app:b service tcp/1-3 expires 2026-11-26\n\
        allow new from app:a to app:b service tcp/2 }\n\
        tier gone allow-only {\n\
        allow dropped from app:a to set:out service tcp/9 expires 2026-11-26 }\n";
    let tables = compiled(&policy(text), &["app:a", "app:b", "app:c"]).expect("small");
    let name = |id| {
        let labels = tables.identity(id).and_then(|one| one.labels.first());
        labels.map_or("outside".to_owned(), |labels| labels["app"].clone())
    };
    let cuts = |what: &str| {
        let found = tables
            .expired
            .iter()
            .find(|one| one.what == what)
            .expect("expired");
        assert_eq!(found.more_cuts, 0);
        let mut cuts: Vec<String> = found
            .cuts
            .iter()
            .map(|cut| format!("{} {} {}", name(cut.from), name(cut.to), cut.service))
            .collect();
        cuts.sort();
        cuts
    };
    // What `new` allows too is not cut, and neither is what the guard denies anyway.
    assert_eq!(cuts("kept/old"), ["a b tcp/1, tcp/3", "c b tcp/2-3"]);
    assert_eq!(cuts("gone/dropped"), ["a outside tcp/9"]);
    assert_eq!(cuts("g/g"), ["b c tcp/7"]);
}
