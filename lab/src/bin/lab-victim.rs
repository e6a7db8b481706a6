//! Makes a lab with one of everything, says so, and waits to be ended: a test of the clean-up.
#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use lictor_lab::{GuestSpec, Lab, Process};
use lictor_types::Mac;
use std::time::Duration;

fn main() -> Result<()> {
    let ending = std::env::args()
        .nth(1)
        .context("usage: lab-victim wait|panic|kill")?;
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let spec = GuestSpec {
        name: "web".into(),
        mac: Mac([0x52, 0x54, 0, 0x77, 0, 1]),
        addresses: vec![([10, 77, 0, 1].into(), 16)],
        gateways: vec![],
        services: vec![],
        more: Vec::new(),
    };
    let _guest = host.namespace_guest(&spec, |_| Ok(()))?;
    let mut command = host.node().command("sleep");
    command.arg("1000");
    let process = Process::start("sleep", command)?;
    // setpriv and nsenter run first; the reader wants to see the program that stays.
    std::thread::sleep(Duration::from_millis(100));
    println!("{}", process.pid());
    if ending == "panic" {
        std::thread::sleep(Duration::from_millis(500));
        panic!("as told");
    }
    std::thread::sleep(Duration::from_secs(60));
    Ok(())
}
