//! What is there: one module for each environment. [`qmp`] speaks to a guest's QEMU,
//! [`nics`] reads from it what the guest's NICs are plugged into.
#![forbid(unsafe_code)]

pub mod nics;
pub mod qmp;
