//! Limits of the language. Each has a diagnostic and a test at the limit and one past it.

/// Files of one policy.
pub const PARTS_MAX: usize = 256;
/// Bytes of a name: policy, label, value, set, service, scope, tier, rule, intent, control.
pub const NAME_BYTES_MAX: usize = 63;
/// Bytes of a text in quotes.
pub const QUOTED_BYTES_MAX: usize = 1_024;
/// Levels of `(` and `not` in a selector, with the scopes it names written out.
pub const NESTING_MAX: usize = 64;
/// Parts of one selector, with the scopes it names written out.
pub const SELECTOR_PARTS_MAX: usize = 4_096;
/// Parts of all selectors of one policy together.
pub const SELECTOR_PARTS_TOTAL_MAX: usize = 4_194_304;
/// Prefixes in one policy, over all sets.
pub const PREFIXES_MAX: usize = 65_536;
/// Labels that one policy may declare.
pub const LABELS_MAX: usize = 8_192;
/// New sessions in one second that a rule's limit may name.
pub const LIMIT_MAX: u64 = 1_000_000;
/// Events in one second that a rule's limit may name: more than a vnic may report anyway.
pub const LOG_LIMIT_MAX: u64 = 1_024;
/// Statements that put guests into observe mode.
pub const OBSERVATIONS_MAX: usize = 1_024;
/// Statements that isolate guests, and as many that exclude guests.
pub const STANDING_MAX: usize = 1_024;
/// Windows of time in one policy.
pub const WINDOWS_MAX: usize = 256;
/// Delegations in one policy.
pub const DELEGATIONS_MAX: usize = 4_096;
/// Bytes of a selector that a person asks about outside of a policy.
pub const QUERY_BYTES_MAX: usize = 65_536;
/// Hops that an intent may name.
pub const HOPS_MAX: u32 = 64;
/// Failed hosts that an intent may name.
pub const FAILURES_MAX: u64 = 1_000;
/// Diagnostics reported for one text; the last one says that there are more.
pub const DIAGNOSTICS_MAX: usize = 100;
/// Label sets that one compilation takes.
pub const LABEL_SETS_MAX: usize = 65_536;
/// Cuts listed for one expired rule; the rest is counted.
pub const CUTS_MAX: usize = 64;
