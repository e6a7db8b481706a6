//! The checks and the report over a small deployment.

mod checks;
mod report;
mod world;
