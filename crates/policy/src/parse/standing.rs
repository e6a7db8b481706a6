//! Statements that stand above every tier for a time: `isolate` cuts guests off, `exclude` takes
//! guests out. Each becomes rules of a tier of its own, so that whatever reads a policy needs to
//! know tiers only.

use super::{Failed, Noun, Parsed, Parser};
use crate::{
    Action, At, Log, Mode, OnExpiry, PortRange, Rule, STANDING_MAX, Selector, Service, Span, Tier,
    TierKind, diagnostic::Problem,
};
use lictor_types::Protocol;

/// What a statement does to its guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Isolate,
    Exclude,
}

impl Standing {
    /// The statement's word, which is also its tier's name.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Isolate => "isolate",
            Self::Exclude => "exclude",
        }
    }

    const fn noun(self) -> Noun {
        match self {
            Self::Isolate => Noun::Isolation,
            Self::Exclude => Noun::Exclusion,
        }
    }

    const fn action(self) -> Action {
        match self {
            Self::Isolate => Action::Deny,
            Self::Exclude => Action::Allow,
        }
    }

    /// A guest that is cut off is cut off at both ends; one that is taken out at its own only: the
    /// other end's guests keep what protects them.
    const fn at(self, side: At) -> At {
        match self {
            Self::Isolate => At::Both,
            Self::Exclude => side,
        }
    }

    const fn log(self) -> Log {
        match self {
            Self::Isolate => Log::Alert,
            Self::Exclude => Log::New,
        }
    }
}

impl Parser<'_> {
    /// `isolate | exclude NAME SELECTOR owner ".." justification ".." expires DATE`
    pub(super) fn standing(&mut self, standing: Standing) -> Parsed<()> {
        let start = self.advance().span;
        let (name, span) = self.name("a name")?;
        self.define(standing.noun(), &name, span);
        let (guests, ends) = self.ends()?;
        let given = self.answerable()?;
        let missing: Vec<&str> = [
            (given.owner.is_none(), "owner"),
            (given.justification.is_none(), "justification"),
            (given.expires.is_none(), "expires"),
        ]
        .into_iter()
        .filter_map(|(missing, clause)| missing.then_some(clause))
        .collect();
        if !missing.is_empty() {
            let (word, missing) = (standing.word(), missing.join(", no "));
            let message = format!("`{word} {name}` has no {missing}");
            let problem = Problem::new("incomplete-metadata", span, message)
                .expected("it overrides every tier: somebody answers for it, for a time")
                .help("add: owner \"team@example\" justification \"why\" expires 2026-12-31");
            self.report(problem);
        }
        if self.standing[standing as usize].len() >= 2 * STANDING_MAX {
            return self.too_many_standing(start);
        }
        if !ends.sound {
            return Ok(());
        }
        let text = self.text[start.start..self.previous.end].replace("\r\n", "\n");
        let sides = [
            ("from", guests.clone(), Selector::Any, At::Egress),
            ("to", Selector::Any, guests, At::Ingress),
        ];
        for (side, from, to, at) in sides {
            let name = format!("{}/{name}.{side}", standing.word());
            let (file, line) = self.place(start);
            self.standing[standing as usize].push(Rule {
                id: Rule::id_of(&name),
                name,
                action: standing.action(),
                from,
                to,
                service: everything(),
                at: standing.at(at),
                owner: given.owner.clone(),
                justification: given.justification.clone(),
                requirements: Vec::new(),
                review_days: None,
                expires: given.expires,
                during: None,
                log: standing.log(),
                log_limit: None,
                limit: None,
                touches_sensitive: false,
                file,
                line,
                text: text.clone(),
            });
        }
        Ok(())
    }

    fn too_many_standing(&mut self, span: Span) -> Parsed<()> {
        let message = format!("there are more than {STANDING_MAX} of these statements");
        let problem = Problem::new("too-many-standing", span, message)
            .expected("one too many")
            .help("merge their selectors");
        self.report(problem);
        Err(Failed)
    }

    /// The tiers of these statements, isolations first: nothing takes a guest out of isolation.
    pub(super) fn standing_tiers(&mut self) -> Vec<Tier> {
        let both = [Standing::Isolate, Standing::Exclude];
        let tiers = both.into_iter().map(|standing| Tier {
            name: standing.word().to_owned(),
            kind: TierKind::Ordered,
            mode: Mode::Enforce,
            owner: None,
            within: None,
            on_expiry: OnExpiry::Drop,
            rules: std::mem::take(&mut self.standing[standing as usize]),
        });
        tiers.filter(|tier| !tier.rules.is_empty()).collect()
    }
}

/// Every packet, IP or not.
fn everything() -> Service {
    Service::new(Protocol::ALL.into_iter().map(PortRange::all).collect())
}
