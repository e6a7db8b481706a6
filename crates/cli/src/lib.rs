//! The lictor command.
#![forbid(unsafe_code)]
