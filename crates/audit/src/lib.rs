//! Checks over packed facts, findings, reports.
#![forbid(unsafe_code)]
