//! What a policy means for a whole estate: who can reach whom, whether intents hold, and why.
//!
//! [`Universe`] sorts guests and outside addresses into classes and turns selectors into sets of
//! them, as words of bits. Nothing here goes through a host's decision tables, which have a row for
//! each allowed pair. Nothing does I/O or reads a clock.
#![forbid(unsafe_code)]

mod again;
mod bitset;
mod certificate;
mod change;
mod decide;
mod diff;
mod diff_pairs;
mod diff_scopes;
mod diff_sessions;
mod explain;
mod explain_reach;
mod flow;
mod hosts;
mod lint;
mod lint_cover;
mod lint_region;
mod outside;
mod overlay;
mod ports;
mod prove;
mod relation;
mod remedy;
mod report;
mod row;
mod universe;
mod vocabulary;

pub use bitset::Bits;
pub use certificate::Document;
pub use decide::{Because, Said};
pub use diff::{Change, Diff, Effect, diff, diff_live};
pub use diff_pairs::{PairChange, diff_pairs};
pub use diff_scopes::ScopeChange;
pub use diff_sessions::{Cuts, Live, Simulation, simulate};
pub use explain::{
    Clause, EndSays, Explanation, NEAR_MAX, NearMiss, Part, RuleStep, WouldSay, explain,
};
pub use explain_reach::{Asked, Ends, Group, Lets, REACH_ROWS_MAX, Reach, reach};
pub use hosts::{FUNCTION_LABEL, HostBreach};
pub use lint::{EXPIRING_DAYS, LintCode, LintFinding, LintInput, lint};
pub use ports::minus;
pub use prove::{Breach, Chain, Prover, Verdict};
pub use remedy::Cut;
pub use report::{
    Counterexample, EndName, Finding, Hop, Likelihood, Outcome, Packet, Placed, Remedy, RuleName,
    SaidHow, Words,
};
pub use universe::{Kind, Member, NODES_MAX, SelectorId, Universe, Weak};

/// Why there is no analysis.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnalysisError {
    /// The estate and the sets have too many classes.
    #[error(
        "the policy tells {found} classes of guests and outside addresses apart; at most {max} can \
         be analysed: analyse a part of the estate"
    )]
    Nodes {
        /// How many there are.
        found: usize,
        /// How many fit.
        max: usize,
    },
    /// More pairs may talk than one answer lists.
    #[error(
        "more than {REACH_ROWS_MAX} groups of pairs may talk; ask about fewer ends, or one service"
    )]
    Rows,
    /// A change of something that is not there.
    #[error("there is no {0}; expected a place that the policy or the estate has")]
    NoPlace(String),
    /// Two interpreters of the policy differ: a fault of this program.
    #[error("comparison and reference evaluator say different things of {0}; please report that")]
    Disagree(String),
    /// A selector that the universe was not made for.
    #[error(
        "`{0}` asks for a label value or a set that the policy did not name before; begin anew"
    )]
    Unknown(String),
}
