//! Who can reach what.

use super::Read;
use crate::CliError;
use crate::output::{Answer, Cell, Ending, Page, Tone};
use lictor_analysis::{Asked, Ends, Group, Lets, reach};
use lictor_policy::{Selector, Service};
use lictor_types::{Verdict, words};
use serde_json::json;

/// Names of one group that are shown to people; programs get all.
const NAMES_SHOWN: usize = 4;

/// What was asked for. Whoever is not named may be anybody.
pub(super) struct Wanted {
    pub(super) from: Option<Ends>,
    pub(super) to: Option<Ends>,
    pub(super) service: Option<Service>,
}

impl Read {
    pub(super) fn reach(&self, wanted: Wanted) -> Result<Answer, CliError> {
        let anybody = || Ends::Selected(Selector::Any);
        let asked = Asked {
            from: wanted.from.unwrap_or_else(anybody),
            to: wanted.to.unwrap_or_else(anybody),
            service: wanted.service,
            date: self.date,
        };
        let rows = reach(&self.policy, &self.estate, &asked)?;
        let table = rows.iter().map(|row| {
            [
                group(&row.from).into(),
                group(&row.to).into(),
                (&row.service).into(),
                lets(row.egress.as_ref()),
                lets(row.ingress.as_ref()),
            ]
        });
        let head = ["from", "to", "ports", "at the source", "at the destination"];
        let page = Page::default()
            .fields([
                ("policy", self.policy_text().into()),
                ("release", self.release_text()),
                ("as of", self.date.into()),
            ])
            .section("who may begin a session")
            .table(head, table);
        let quarantined: Vec<&str> = self.estate.quarantined(&self.policy).collect();
        let page = match quarantined.as_slice() {
            [] => page,
            names => page.line(format!("in quarantine: {}", names.join(", "))),
        };
        let value = json!({
            "policy": self.policy.name, "version": self.policy.version,
            "release": self.release_value(), "date": self.date,
            "reaches": rows, "quarantined": quarantined,
        });
        let ending = match rows.is_empty() {
            true => Ending::No,
            false => Ending::Done,
        };
        Ok(Answer::new(page, &value).ending(ending))
    }
}

fn group(group: &Group) -> String {
    match group {
        Group::Guests(names) if names.len() > NAMES_SHOWN => {
            let (shown, more) = names.split_at(NAMES_SHOWN);
            format!("{} and {} more", shown.join(", "), more.len())
        }
        Group::Guests(names) => names.join(", "),
        Group::Outside { sets, example } if sets.is_empty() => {
            format!("{example} and others outside")
        }
        Group::Outside { sets, example } => {
            format!("{example} and others in {}", sets.join(", "))
        }
    }
}

fn lets(lets: Option<&Lets>) -> Cell {
    let Some(lets) = lets else {
        return Cell::optional(None::<&str>);
    };
    let rule = lets.rule.as_ref().map(|rule| rule.name.as_str());
    let tone = match rule {
        Some(_) => Tone::Plain,
        None => Tone::Doubt,
    };
    Cell::toned(tone, words::said(Verdict::Allow, lets.reason, rule))
}
