//! Processors that stay awake while a guest stands still. QEMU and an agent say a dozen things to
//! each other in a pause, each of which wakes somebody up; a processor that has gone to sleep
//! meanwhile takes longer to wake than what was said takes to do.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// While this is open the kernel keeps processors out of idle states that take longer to leave than
/// the number of microseconds written here (`Documentation/power/pm_qos_interface.rst`).
const QUALITY: &str = "/dev/cpu_dma_latency";
/// Longer than a pause should be. A host that idles without sleep draws power, so it ends by
/// itself.
const HELD: Duration = Duration::from_millis(250);

static AWAKE: AtomicBool = AtomicBool::new(false);

/// Keeps this host's processors awake for a moment. Where the kernel does not offer that, a pause
/// takes a little longer.
pub(crate) fn keep_awake() {
    if AWAKE.swap(true, Ordering::AcqRel) {
        return;
    }
    match hold() {
        Ok(held) => {
            std::thread::spawn(move || {
                std::thread::sleep(HELD);
                drop(held);
                AWAKE.store(false, Ordering::Release);
            });
        }
        Err(error) => {
            AWAKE.store(false, Ordering::Release);
            tracing::debug!(%error, "processors may sleep while a guest stands still");
        }
    }
}

fn hold() -> std::io::Result<File> {
    let mut file = OpenOptions::new().write(true).open(QUALITY)?;
    file.write_all(&0_i32.to_ne_bytes())?;
    Ok(file)
}
