//! Which devices can carry the firewall: those whose every frame, from the guest and toward it,
//! passes the device's own hooks.

/// What a device is, as far as that matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Tap,
    Veth,
    /// It says no kind: a NIC, or a function of one.
    Hardware,
    /// By the kernel's name for it.
    Other(String),
}

/// Ethernet among the hardware types of a link; a tun without frames says another one.
const ARPHRD_ETHER: u16 = 1;

impl Kind {
    /// By the kernel's name of the kind, if it says one, and the hardware type.
    pub(crate) fn of(name: Option<&str>, hardware: u16) -> Self {
        match name {
            Some("tun") if hardware == ARPHRD_ETHER => Self::Tap,
            Some("veth") => Self::Veth,
            Some(name) => Self::Other(name.into()),
            None => Self::Hardware,
        }
    }

    /// Why a guest behind it cannot be guarded, and what to do instead; nothing if it can be.
    pub(crate) fn unhookable(&self) -> Option<String> {
        const INSTEAD: &str =
            "give the guest a tap, or the host's side of a veth pair, on a bridge";
        let why = match self {
            Self::Tap | Self::Veth => return None,
            Self::Hardware => {
                "it is no virtual device: frames of a NIC or a function that is passed through to \
                 a guest never pass this kernel"
                    .into()
            }
            Self::Other(kind) => match kind.as_str() {
                "macvtap" | "macvlan" | "ipvlan" | "ipvtap" => format!(
                    "a {kind} takes frames from its parent and from its neighbours below the \
                     device's hooks"
                ),
                "netkit" => "a netkit runs programs of its own kind and has no hooks for tc".into(),
                "tun" => "a tun carries packets without the frames that are to be checked".into(),
                _ => format!("a {kind} is not what a guest is plugged into"),
            },
        };
        Some(format!("{why}; {INSTEAD}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_taps_and_veths_carry_guests() {
        let ethernet = |name| Kind::of(Some(name), ARPHRD_ETHER);
        assert_eq!(ethernet("tun").unhookable(), None);
        assert_eq!(ethernet("veth").unhookable(), None);
        for (kind, expected) in [
            (ethernet("macvtap"), "below the device's hooks"),
            (ethernet("macvlan"), "below the device's hooks"),
            (ethernet("ipvlan"), "below the device's hooks"),
            (ethernet("netkit"), "no hooks for tc"),
            (ethernet("dummy"), "a dummy is not"),
            (Kind::of(Some("tun"), 65_534), "without the frames"),
            (Kind::of(None, ARPHRD_ETHER), "passed through"),
        ] {
            let found = kind.unhookable().expect("refused");
            assert!(
                found.contains(expected) && found.contains("give the guest a tap"),
                "{found}"
            );
        }
    }
}
