//! The agent: reconcile loop and handover on one host.
#![forbid(unsafe_code)]
