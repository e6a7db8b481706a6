//! NSX-T's distributed firewall, as the policy API prints it: groups become a label each, which the
//! estate's guests have; the categories above `Application` are one ordered tier, so that
//! JUMP_TO_APPLICATION is `pass`, and `Application` is the next.

mod groups;
mod services;
mod tree;

use crate::draft::{Draft, NOBODY, Rule, all, either, every_port, not, prefix};
use crate::value::{file, items, json, list, scalar, str, unknown};
use crate::{Effect, ImportError, Source};
use groups::Groups;
use lictor_policy::PortRange;
use serde_json::Value;
use services::Services;
use tree::truth;

/// Evaluated in this order; Ethernet rules are not about IP.
const ABOVE: [&str; 3] = ["Emergency", "Infrastructure", "Environment"];
const APPLICATION: &str = "Application";
const EVERY: &str = "ANY";

/// Fields of a rule that are read, or that say nothing about who may talk with whom.
const RULE_FIELDS: [&str; 37] = [
    "action",
    "description",
    "destination_groups",
    "destinations_excluded",
    "direction",
    "disabled",
    "display_name",
    "rule_id",
    "scope",
    "services",
    "service_entries",
    "source_groups",
    "sources_excluded",
    "firewall_rule",
    "id",
    "path",
    "relative_path",
    "parent_path",
    "unique_id",
    "realization_id",
    "owner_id",
    "marked_for_delete",
    "overridden",
    "resource_type",
    "sequence_number",
    "logged",
    "tag",
    "notes",
    "ip_protocol",
    "is_default",
    "remote_path",
    "tags",
    "profiles",
    "marked_as_default",
    "children",
    "is_policy_default",
    "origin_site_id",
];

pub(crate) fn import(sources: &[Source]) -> Result<Draft, ImportError> {
    let mut draft = Draft::default();
    let mut printed = Vec::new();
    let mut found = false;
    for source in sources {
        let value = json(source)?;
        if value["domains"].is_array() {
            found = true;
            one(&mut draft, &value, &source.path);
        } else {
            printed.push((source, value));
        }
    }
    let Some((first, _)) = printed.first() else {
        let nothing = ImportError::Nothing {
            what: "NSX domains",
        };
        return if found { Ok(draft) } else { Err(nothing) };
    };
    let Some(value) = tree::gathered(printed.iter().map(|(_, value)| value)) else {
        let what = "no `domains`: expected groups and security policies as the policy API \
                    prints them, with virtual_machines and services";
        return Err(file(first, what));
    };
    one(&mut draft, &value, &first.path);
    Ok(draft)
}

fn one(draft: &mut Draft, value: &Value, path: &str) {
    let groups = Groups::read(draft, value, path);
    let services = Services::read(value);
    let domains = list(value, "domains").iter();
    let mut policies: Vec<&Value> = domains
        .flat_map(|domain| list(&domain["resources"], "security_policies"))
        .collect();
    policies.sort_by_key(|policy| policy["sequence_number"].as_i64().unwrap_or(0));
    // The manager's default, too.
    let category = |policy: &Value| match str(policy, "category") {
        "" => APPLICATION.to_owned(),
        given => given.to_owned(),
    };
    for policy in &policies {
        let name = category(policy);
        if !ABOVE.contains(&name.as_str()) && name != APPLICATION {
            let place = format!("{path}: policy {}", str(policy, "display_name"));
            let what = format!("the category {name:?} is not about IP, or not known; left out");
            draft.note(Effect::Opens, &place, what);
        }
    }
    told(draft, &policies, path);
    exclusions(draft, &groups, value, path);
    draft.tier("environment");
    for above in ABOVE {
        for policy in policies.iter().filter(|policy| category(policy) == above) {
            policy_rules(draft, (&groups, &services), policy, path);
        }
    }
    draft.tier("application");
    for policy in policies
        .iter()
        .filter(|policy| category(policy) == APPLICATION)
    {
        policy_rules(draft, (&groups, &services), policy, path);
    }
    for name in ["gateway_policies", "redirection_policies"] {
        let mut domains = list(value, "domains").iter();
        if domains.any(|domain| !list(&domain["resources"], name).is_empty()) {
            let what = format!("{name} are not of the distributed firewall, and are not imported");
            draft.note(Effect::Closes, path, what);
        }
    }
    let mut domains = list(value, "domains").iter();
    if domains.any(|domain| !list(&domain["resources"], "intrusion_policies").is_empty()) {
        let what = "policies of intrusion detection are not imported";
        draft.note(Effect::None, path, what);
    }
}

/// What is so of policies as a whole.
fn told(draft: &mut Draft, policies: &[&Value], path: &str) {
    let mut rules = policies.iter().flat_map(|policy| list(policy, "rules"));
    if !rules.any(|rule| truth(rule, "is_default")) {
        let what = "the default rule is not in these files: what no rule allows is denied here, \
                    and allowed there unless that rule says otherwise";
        draft.note(Effect::Closes, path, what);
    }
    for policy in policies {
        let place = format!("{path}: policy {}", str(policy, "display_name"));
        if truth(policy, "missing") {
            let what = "only its rules are in these files: it is taken to stand first in \
                        Application, for everybody";
            draft.note(Effect::Opens, &place, what);
        }
        if policy["stateful"] == false {
            let what = "stateless there; here answers belong to the session that a rule allows";
            draft.note(Effect::Opens, &place, what);
        }
    }
}

/// Machines that the firewall leaves alone: everything passes at their own end.
fn exclusions(draft: &mut Draft, groups: &Groups, value: &Value, path: &str) {
    let names: Vec<String> = list(value, "excluded").iter().map(scalar).collect();
    if names.is_empty() {
        return;
    }
    let place = format!("{path}: exclude list");
    let ends = groups.ends(draft, &names, (&place, Effect::Closes));
    draft.tier("excluded");
    for (at, name) in [("egress", "excluded.out"), ("ingress", "excluded.in")] {
        let (mut from, mut to) = ("any".to_owned(), "any".to_owned());
        *(if at == "egress" { &mut from } else { &mut to }) = ends.clone();
        draft.rule(Rule {
            name: name.to_owned(),
            action: "allow",
            from,
            to,
            service: every_port(),
            at,
            ..Rule::default()
        });
    }
}

fn policy_rules(
    draft: &mut Draft,
    (groups, services): (&Groups, &Services),
    policy: &Value,
    path: &str,
) {
    let section = str(policy, "display_name");
    let mut rules: Vec<&Value> = list(policy, "rules").iter().collect();
    rules.sort_by_key(|rule| rule["sequence_number"].as_i64().unwrap_or(0));
    for rule in rules {
        if truth(rule, "marked_for_delete") {
            continue;
        }
        let name = rule_name(rule);
        let place = format!("{path}: {section}: rule {name}");
        if truth(rule, "disabled") {
            draft.note(Effect::None, &place, "disabled, and left out");
            continue;
        }
        let Some(action) = action(rule) else {
            let what = format!("the action {} is not known; left out", rule["action"]);
            draft.note(Effect::Opens, &place, what);
            continue;
        };
        let effect = match action {
            "allow" => Effect::Closes,
            _ => Effect::Opens,
        };
        for field in unknown(rule, &RULE_FIELDS) {
            draft.note(
                effect,
                &place,
                format!("the field {field} is not known, and is left out"),
            );
        }
        if !sayable(draft, (policy, rule), (&place, action == "allow")) {
            continue;
        }
        let mut end = |names: &str, excluded: &str| {
            let ends = groups.ends(draft, &list_of(rule, names), (&place, effect));
            let ends = match truth(rule, excluded) {
                true => not(&ends),
                false => ends,
            };
            of_family(draft, rule, ends)
        };
        let from = end("source_groups", "sources_excluded");
        let to = end("destination_groups", "destinations_excluded");
        let ports = services.of_rule(draft, rule, (&place, effect));
        let applied = applied(draft, groups, (policy, rule), (&place, effect));
        let name = format!("{section}.{name}");
        write(
            draft,
            rule,
            Written {
                name,
                action,
                from,
                to,
                ports,
                applied,
            },
        );
    }
}

fn action(rule: &Value) -> Option<&'static str> {
    Some(match str(rule, "action") {
        "ALLOW" => "allow",
        "DROP" => "deny",
        "REJECT" => "reject",
        "JUMP_TO_APPLICATION" => "pass",
        _ => return None,
    })
}

fn rule_name(rule: &Value) -> String {
    let given = ["display_name", "id", "rule_id"].map(|field| scalar(&rule[field]));
    given
        .into_iter()
        .find(|text| !text.is_empty())
        .unwrap_or_default()
}

/// Whether nothing narrows a rule that can't be said: such a rule is left out if it allows, and
/// holds without that condition if it denies.
fn sayable(
    draft: &mut Draft,
    (policy, rule): (&Value, &Value),
    (place, allows): (&str, bool),
) -> bool {
    let mut unsaid = Vec::new();
    let profiles = list_of(rule, "profiles");
    if profiles.iter().any(|name| name != EVERY) {
        unsaid.push("the context profiles");
    }
    if !str(policy, "scheduler_path").is_empty() {
        unsaid.push("the hours of the policy");
    }
    for what in &unsaid {
        let end = match allows {
            true => "left out, as it would allow more",
            false => "holds without that condition: it denies more",
        };
        let what = format!("{what} can't be said: {end}");
        draft.note(Effect::Closes, place, what);
    }
    unsaid.is_empty() || !allows
}

/// A rule of one family: outside addresses are of that family, guests are matched by labels only.
fn of_family(draft: &mut Draft, rule: &Value, ends: String) -> String {
    let whole = match str(rule, "ip_protocol") {
        "IPV4" => "0.0.0.0/0",
        "IPV6" => "::/0",
        _ => return ends,
    };
    let whole: Vec<_> = prefix(whole).into_iter().collect();
    let family = draft.everybody(&whole).unwrap_or_default();
    let what = "a rule of one family: between guests it holds for both, as guests are matched by \
                labels";
    draft.note(Effect::None, "rules of one family", what);
    all(&[ends, family])
}

/// Names of groups; none means any.
fn list_of(rule: &Value, field: &str) -> Vec<String> {
    items(&rule[field]).iter().map(scalar).collect()
}

/// To whose vnics a rule applies: the policy's scope takes precedence over the rule's.
fn applied(
    draft: &mut Draft,
    groups: &Groups,
    (policy, rule): (&Value, &Value),
    at: (&str, Effect),
) -> String {
    let given = |value: &Value| {
        let names = list_of(value, "scope");
        (!names.is_empty() && !names.iter().any(|name| name == EVERY)).then_some(names)
    };
    match given(policy).or_else(|| given(rule)) {
        Some(names) => groups.ends(draft, &names, at),
        None => "any".to_owned(),
    }
}

struct Written {
    name: String,
    action: &'static str,
    from: String,
    to: String,
    ports: Vec<PortRange>,
    applied: String,
}

/// A rule is enforced at the vnics that it applies to, in its direction: where it applies to all,
/// one rule says it for both ends.
fn write(draft: &mut Draft, rule: &Value, one: Written) {
    let ends: &[&str] = match str(rule, "direction") {
        "IN" => &["ingress"],
        "OUT" => &["egress"],
        _ if one.applied == "any" => &[""],
        _ => &["egress", "ingress"],
    };
    for at in ends {
        let (mut from, mut to) = (one.from.clone(), one.to.clone());
        match *at {
            "egress" => from = all(&[from, one.applied.clone()]),
            "ingress" => to = all(&[to, one.applied.clone()]),
            _ => {}
        }
        draft.rule(Rule {
            name: one.name.clone(),
            action: one.action,
            from,
            to,
            service: one.ports.clone(),
            at: if at.is_empty() { "" } else { at },
            comment: str(rule, "description").to_owned(),
            log: truth(rule, "logged"),
            ..Rule::default()
        });
    }
}

/// Joins what several names match; a name that is not known matches nothing.
fn joined(parts: Vec<String>) -> String {
    if parts.is_empty() {
        NOBODY.to_owned()
    } else {
        either(&parts)
    }
}
