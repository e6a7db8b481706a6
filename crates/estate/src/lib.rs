//! What is there: one module for each environment. [`qmp`] speaks to a guest's QEMU.
#![forbid(unsafe_code)]

pub mod qmp;
