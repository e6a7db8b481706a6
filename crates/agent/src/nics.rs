//! Which NICs of a guest no hook guards: frames there pass without a verdict, whatever the others
//! are held to.

use lictor_estate::nics::{Backend, Nic};
use lictor_evidence::UnguardedNic;
use lictor_types::{Mac, NICS_TOLD_MAX};

/// An attached vnic of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hooked {
    pub(crate) device: String,
    pub(crate) mac: Mac,
}

/// The guest's NICs that are behind no attached vnic, each with the reason. What a QEMU that does
/// not tell its NICs has, is not known, and so it is guarded by nobody's word.
pub(crate) fn unguarded(nics: &Result<Vec<Nic>, String>, hooked: &[Hooked]) -> Vec<UnguardedNic> {
    let nics = match nics {
        Ok(nics) => nics,
        Err(text) => {
            return vec![UnguardedNic {
                nic: "all".into(),
                reason: format!("its QEMU does not tell what they are plugged into: {text}"),
            }];
        }
    };
    let found = nics.iter().filter_map(|nic| {
        let reason = why(nic, hooked)?;
        let nic = nic.name.clone();
        Some(UnguardedNic { nic, reason })
    });
    let mut all: Vec<_> = found.collect();
    if all.len() > NICS_TOLD_MAX {
        let more = all.len() - NICS_TOLD_MAX;
        all.truncate(NICS_TOLD_MAX);
        all.push(UnguardedNic {
            nic: "others".into(),
            reason: format!("{more} more NICs are not listed"),
        });
    }
    all
}

/// Why a NIC is not guarded; nothing if it is, or if no frame leaves it.
fn why(nic: &Nic, hooked: &[Hooked]) -> Option<String> {
    const INSTEAD: &str = "give the guest a tap that is attached, or take the NIC out";
    let what = match &nic.backend {
        Backend::Nothing => return None,
        Backend::Tap(Some(device)) if hooked.iter().any(|one| one.device == *device) => {
            return None;
        }
        Backend::Tap(Some(device)) => {
            format!("no vnic of the guest is attached to its tap {device}")
        }
        // Its name is not known, but whose address the frames of an attached vnic must have.
        Backend::Tap(None) => match nic.mac {
            Some(mac) if hooked.iter().any(|one| one.mac == mac) => return None,
            Some(mac) => format!("no attached vnic has the address {mac} of its tap"),
            None => "QEMU names neither its tap nor its address".into(),
        },
        Backend::Passthrough => {
            "the guest drives a device of the host: its frames never pass this kernel".into()
        }
        Backend::Other(kind) if kind.starts_with("vhost-") => {
            format!("a {kind} port hands frames to another program and has no device with hooks")
        }
        Backend::Other(kind) => {
            format!("a network of QEMU's kind `{kind}` has no device with hooks")
        }
    };
    Some(format!("{what}; {INSTEAD}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);
    const OTHER: Mac = Mac([0x52, 0x54, 0, 0, 0, 9]);

    fn hooked() -> [Hooked; 1] {
        let device = "tap1".to_owned();
        [Hooked { device, mac: OWN }]
    }

    fn check(backend: Backend, mac: Option<Mac>, expected: Option<&str>) {
        let name = "n1".to_owned();
        let nic = Nic { name, mac, backend };
        let found = unguarded(&Ok(vec![nic.clone()]), &hooked());
        match (expected, found.as_slice()) {
            (None, []) => {}
            (Some(text), [one]) => {
                assert!(one.nic == "n1" && one.reason.contains(text), "{one:?}");
            }
            _ => panic!("{nic:?}: {found:?}"),
        }
    }

    #[test]
    fn a_nic_is_guarded_by_an_attached_vnic_at_its_tap_and_by_nothing_else() {
        let tap = |name: &str| Backend::Tap(Some(name.into()));
        let other = |kind: &str| Backend::Other(kind.into());
        check(tap("tap1"), Some(OWN), None);
        check(tap("tap2"), Some(OWN), Some("its tap tap2"));
        check(Backend::Tap(None), Some(OWN), None);
        check(Backend::Tap(None), Some(OTHER), Some("52:54:00:00:00:09"));
        check(Backend::Tap(None), None, Some("neither"));
        check(Backend::Nothing, Some(OTHER), None);
        check(
            Backend::Passthrough,
            None,
            Some("drives a device of the host"),
        );
        check(other("vhost-user"), Some(OWN), Some("vhost-user port"));
        check(other("user"), Some(OWN), Some("`user`"));
    }

    #[test]
    fn who_tells_nothing_is_not_guarded_and_who_has_many_is_told_in_short() {
        let silent = unguarded(&Err("refused".into()), &hooked());
        assert!(silent.len() == 1 && silent[0].reason.contains("refused"));
        let nic = |number: usize| Nic {
            name: format!("n{number}"),
            mac: None,
            backend: Backend::Passthrough,
        };
        let listed = |count| unguarded(&Ok((0..count).map(nic).collect()), &hooked());
        assert_eq!(listed(NICS_TOLD_MAX).len(), NICS_TOLD_MAX);
        let more = listed(NICS_TOLD_MAX + 2);
        assert_eq!(more.len(), NICS_TOLD_MAX + 1);
        assert!(more[NICS_TOLD_MAX].reason.starts_with("2 more"), "{more:?}");
    }
}
