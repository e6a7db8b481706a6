//! How often a guest's sessions are looked at again while QEMU copies its memory.

use super::*;
use std::time::Instant;

/// Long enough for rounds of a second apart to be told from rounds of a tenth.
const GOES_ON: Duration = Duration::from_secs(5);

#[test]
fn rounds_come_closer_while_qemu_migrates() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let mut world = world()?;
    let target = copied(world.a(), world.b())?;
    let (began, mark) = (Instant::now(), world.db.qmp().mark());
    let slow = MigrateOptions {
        bandwidth: 1 << 20,
        ..MigrateOptions::default()
    };
    world.db.start_migration(&target, &slow)?;
    std::thread::sleep(GOES_ON);
    let fast = json!({ "max-bandwidth": 1 << 30 });
    world.db.qmp().execute("migrate-set-parameters", fast)?;
    let report = world.db.finish_migration(&target, mark, &slow)?;
    assert_eq!(report.status, "completed", "{report:?}");
    let seconds = began.elapsed().as_secs();
    world.db = target;
    let records = wait_recorded(world.a(), 1)?;
    let (record, _) = records.first().context("the move was recorded")?;
    let copied = record.copied.context("how it was copied")?;
    // One each second, and the first few, would be fewer.
    assert!(copied.rounds > 2 * seconds, "{seconds} s: {copied:?}");
    world.stream_goes_on()
}
