//! Durable state of the manager.
#![forbid(unsafe_code)]
