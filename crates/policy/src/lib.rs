//! The policy language: text to rules to identities and decision tables.
#![forbid(unsafe_code)]
