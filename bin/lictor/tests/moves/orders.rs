//! Orders of two persons, as they type them.

use super::*;
use lictor_lab::site::command;

/// Writes an order of this kind for db to a host. It gets as many signatures as asked for: the
/// author's, then the approver's.
pub(super) fn write(
    site: &Site,
    (kind, to): (&str, &str),
    what: &[&str],
    signatures: usize,
) -> Result<PathBuf> {
    let folder = site.people.author.dir();
    let number = std::fs::read_dir(&folder)?.count();
    let file = folder.join(format!("{kind}-{number}"));
    let mut write = site.people.author.lictor();
    write
        .args(["move", kind, "write", DB.name, "--to", to])
        .args(["--deployment", site.deployment().as_str(), "--key"])
        .arg(&site.keys.author)
        .args(what)
        .arg("--out")
        .arg(&file);
    command::output(write)?;
    if signatures > 1 {
        let mut sign = site.people.approver.lictor();
        sign.args(["move", kind, "sign"])
            .arg(&file)
            .arg("--key")
            .arg(&site.keys.approver);
        command::output(sign)?;
    }
    Ok(file)
}

/// Shows an order to the agent of a host; whether it counts, and what is printed.
pub(super) fn present(
    agent: &Agent,
    site: &Site,
    (kind, file): (&str, &Path),
) -> Result<(bool, String)> {
    let program = site.programs().lictor.to_string_lossy();
    let mut present = agent.host().node().command(&program);
    present
        .args(["move", kind, "present"])
        .arg(file)
        .arg("--socket")
        .arg(agent.socket());
    let output = command::run(present)?;
    Ok((output.status.success(), command::words(&output)))
}

pub(super) fn refused(agent: &Agent, site: &Site, order: (&str, &Path), part: &str) -> Result<()> {
    let (done, words) = present(agent, site, order)?;
    assert!(!done && words.contains(part), "{part:?}: {words}");
    Ok(())
}
