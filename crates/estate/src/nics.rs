//! The NICs of a QEMU guest and what each of them is plugged into. A firewall at a tap says nothing
//! of a NIC that has another way out.
//!
//! QEMU has no machine-readable list of them: `info network` names every emulated NIC with its
//! peer, and what is passed through is among the devices of the object tree and of the PCI buses.

use crate::qmp::{Monitor, QmpError};
use lictor_types::Mac;
use serde_json::{Value, json};

/// The PCI class of network controllers, in the upper byte.
const PCI_NETWORK: u64 = 2;
/// Where QEMU keeps the devices that somebody has asked for, with and without a name of their own.
const DEVICES: [&str; 2] = ["/machine/peripheral", "/machine/peripheral-anon"];
/// Types of devices of the host that a guest drives itself.
const PASSED_THROUGH: [&str; 3] = ["vfio-pci", "vfio-pci-nohotplug", "vfio-platform"];

/// A guest's NIC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// As QEMU calls it.
    pub name: String,
    /// Its address, if QEMU says it.
    pub mac: Option<Mac>,
    /// What it is plugged into.
    pub backend: Backend,
}

/// What a NIC is plugged into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    /// A tap, by its name; QEMU does not know the name of one that was handed to it open.
    Tap(Option<String>),
    /// Nothing: no frame leaves it.
    Nothing,
    /// It is a device of the host, which the guest drives itself.
    Passthrough,
    /// Something else, as QEMU calls it: `user`, `vhost-user`, `socket`, `hub`, ...
    Other(String),
}

/// Whether a NIC has a carrier. Without one QEMU passes no frame of it, either way, and the state
/// goes along with the guest when it migrates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Frames pass.
    Up,
    /// None does.
    Down,
}

impl Monitor {
    /// Sets the link of every emulated NIC. Gives their names.
    ///
    /// # Errors
    /// As for [`Self::execute`]; the others are set all the same if one is refused.
    pub fn set_links(&self, link: Link) -> Result<Vec<String>, QmpError> {
        let line = json!({ "command-line": "info network" });
        let network = self.execute("human-monitor-command", &line)?;
        let (mut names, mut refused) = (Vec::new(), None);
        for nic in emulated(network.as_str().unwrap_or_default()) {
            let up = link == Link::Up;
            match self.execute("set_link", &json!({ "name": nic.name, "up": up })) {
                Err(error @ QmpError::Refused { .. }) => refused = Some(error),
                set => drop(set?),
            }
            names.push(nic.name);
        }
        refused.map_or(Ok(names), Err)
    }

    /// All NICs of the guest now.
    ///
    /// # Errors
    /// As for [`Self::execute`].
    pub fn nics(&self) -> Result<Vec<Nic>, QmpError> {
        let line = json!({ "command-line": "info network" });
        let network = self.execute("human-monitor-command", &line)?;
        let mut nics = emulated(network.as_str().unwrap_or_default());
        let buses = self.execute("query-pci", &json!({}))?;
        for folder in DEVICES {
            let devices = self.execute("qom-list", &json!({ "path": folder }))?;
            for (name, kind) in passed_through(&devices) {
                // A name of QEMU's own says nothing, so such a device is known by its place.
                let named = folder == DEVICES[0];
                let place = match named || !kind.contains("pci") {
                    true => None,
                    false => {
                        let path = format!("{folder}/{name}");
                        let asked = json!({ "path": path, "property": "addr" });
                        self.execute("qom-get", &asked)?.as_u64()
                    }
                };
                let known = Known {
                    name: named.then_some(&name),
                    place,
                };
                if may_be_network(&buses, &known) {
                    nics.push(Nic {
                        name,
                        mac: None,
                        backend: Backend::Passthrough,
                    });
                }
            }
        }
        Ok(nics)
    }
}

/// The emulated NICs in what `info network` prints: one line for each NIC, with its peers below it;
/// one that is plugged into a hub is a line below the hub instead.
fn emulated(text: &str) -> Vec<Nic> {
    let mut nics: Vec<Nic> = Vec::new();
    // Whether the lines that are indented belong to the NIC that was found last.
    let mut below = false;
    for line in text.lines() {
        let indented = line.starts_with(' ');
        let nic = nic_of(line);
        match (indented, nic) {
            (false, Some(nic)) => {
                nics.push(nic);
                below = true;
            }
            (false, None) => below = false,
            (true, Some(nic)) => nics.push(Nic {
                backend: Backend::Other("hub".into()),
                ..nic
            }),
            (true, None) if below => {
                if let Some(last) = nics.last_mut() {
                    last.backend = worse(&last.backend, backend_of(line));
                }
            }
            (true, None) => {}
        }
    }
    nics
}

/// Of several queues the one that is no tap counts.
fn worse(known: &Backend, next: Backend) -> Backend {
    match known {
        Backend::Nothing | Backend::Tap(_) => next,
        Backend::Passthrough | Backend::Other(_) => known.clone(),
    }
}

/// The value of `key=value` in a line's list.
fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let fields = line.split([',', ' ']);
    fields
        .filter_map(|field| field.split_once('='))
        .find(|(name, _)| *name == key)
        .map(|(_, value)| value)
}

/// The name before the last colon that a blank follows: `nic1: index=0,...`.
fn name_of(line: &str) -> Option<&str> {
    let (names, _) = line.split_once(": index=")?;
    names.rsplit(": ").next()
}

fn nic_of(line: &str) -> Option<Nic> {
    if value(line, "type")? != "nic" {
        return None;
    }
    Some(Nic {
        name: name_of(line)?.trim().to_owned(),
        mac: value(line, "macaddr").and_then(|mac| mac.parse().ok()),
        backend: Backend::Nothing,
    })
}

fn backend_of(line: &str) -> Backend {
    match value(line, "type") {
        Some("tap") => Backend::Tap(value(line, "ifname").map(str::to_owned)),
        Some(kind) => Backend::Other(kind.to_owned()),
        None => Backend::Other("unknown".into()),
    }
}

/// Name and type of the devices that are passed through.
fn passed_through(devices: &Value) -> Vec<(String, String)> {
    let all = devices.as_array().into_iter().flatten();
    let named = all.filter_map(|device| {
        let kind = device["type"].as_str()?;
        let kind = kind.strip_prefix("child<")?.strip_suffix('>')?;
        let name = device["name"].as_str()?;
        PASSED_THROUGH
            .contains(&kind)
            .then(|| (name.to_owned(), kind.to_owned()))
    });
    named.collect()
}

/// By what a passed-through device is found on the PCI buses.
struct Known<'a> {
    name: Option<&'a String>,
    /// Slot and function, as QEMU's `addr` has them.
    place: Option<u64>,
}

/// Whether a device is a network controller. What is not found may be one.
fn may_be_network(buses: &Value, known: &Known<'_>) -> bool {
    let mut found = Vec::new();
    functions(buses, &mut found);
    let classes: Vec<_> = found
        .into_iter()
        .filter(|function| match (known.name, known.place) {
            (Some(name), _) => function["qdev_id"].as_str() == Some(name),
            (None, Some(place)) => {
                let of = |what: &str| function[what].as_u64().unwrap_or_default();
                function["qdev_id"] == "" && of("slot") << 3 | of("function") == place
            }
            (None, None) => false,
        })
        .map(|function| function["class_info"]["class"].as_u64())
        .collect();
    let network = |class: &Option<u64>| class.is_none_or(|class| class >> 8 == PCI_NETWORK);
    classes.is_empty() || classes.iter().any(network)
}

/// All functions, those behind bridges too.
fn functions<'a>(buses: &'a Value, into: &mut Vec<&'a Value>) {
    let mut waiting: Vec<&Value> = buses.as_array().into_iter().flatten().collect();
    while let Some(bus) = waiting.pop() {
        for function in bus["devices"].as_array().into_iter().flatten() {
            into.push(function);
            waiting.extend(function.get("pci_bridge"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, address and backend of each NIC, as one line.
    fn listed(text: &str) -> Vec<String> {
        let nics = emulated(text).into_iter();
        nics.map(|nic| {
            let mac = nic.mac.map(|mac| mac.to_string()).unwrap_or_default();
            format!("{} {mac} {:?}", nic.name, nic.backend)
        })
        .collect()
    }

    #[test]
    fn each_nic_is_found_with_what_it_is_plugged_into() {
        let text = "hub 3\r\n \\ h1: spare: index=0,type=user,net=10.0.2.0,restrict=off\r\n \
                    \\ h0: e1000.2: index=0,type=nic,model=e1000,macaddr=52:54:00:12:34:58\r\n\
                    v: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:00:00:01\r\n \
                    \\ t0: index=0,type=tap,ifname=tap7,script=no,downscript=no\r\n\
                    fd: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:00:00:02\r\n \
                    \\ host: index=0,type=tap,fd=25\r\n\
                    q: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:00:00:03\r\n \
                    \\ a: index=0,type=tap,fd=26\r\n \\ b: index=1,type=vhost-user\r\n\
                    lone: index=0,type=nic,model=e1000,macaddr=52:54:00:00:00:04\r\n\
                    spare: index=0,type=user,net=10.0.3.0,restrict=off\r\n \\ odd\r\n";
        let expected = [
            "e1000.2 52:54:00:12:34:58 Other(\"hub\")",
            "v 52:54:00:00:00:01 Tap(Some(\"tap7\"))",
            "fd 52:54:00:00:00:02 Tap(None)",
            "q 52:54:00:00:00:03 Other(\"vhost-user\")",
            "lone 52:54:00:00:00:04 Nothing",
        ];
        assert_eq!(listed(text), expected);
        assert_eq!(listed(""), [""; 0]);
    }

    #[test]
    fn only_network_controllers_count_among_what_is_passed_through() {
        let devices = json!([
            { "name": "type", "type": "string" },
            { "name": "nic1", "type": "child<virtio-net-pci>" },
            { "name": "hostdev0", "type": "child<vfio-pci>" },
        ]);
        let vfio = ("hostdev0".to_owned(), "vfio-pci".to_owned());
        assert_eq!(passed_through(&devices), [vfio]);
        let function = |id: &str, slot: u64, class: u64| {
            json!({ "qdev_id": id, "slot": slot, "function": 1,
                    "class_info": { "class": class } })
        };
        let bridge = json!({ "qdev_id": "", "slot": 9, "function": 0,
            "class_info": { "class": 0x0604 },
            "pci_bridge": { "devices": [function("deep", 0, 0x0200)] } });
        let buses = json!([{ "devices": [
            function("nic", 1, 0x0200), function("gpu", 2, 0x0300),
            function("", 3, 0x0280), function("", 4, 0x0108), bridge,
        ] }]);
        let check = |name: Option<&str>, place: Option<u64>, expected: bool| {
            let name = name.map(str::to_owned);
            let known = Known {
                name: name.as_ref(),
                place,
            };
            assert_eq!(
                may_be_network(&buses, &known),
                expected,
                "{name:?} {place:?}"
            );
        };
        check(Some("nic"), None, true);
        check(Some("gpu"), None, false);
        check(Some("deep"), None, true);
        check(None, Some(3 << 3 | 1), true);
        check(None, Some(4 << 3 | 1), false);
        // What is not found, and what is no PCI device, may be one.
        check(Some("other"), None, true);
        check(None, None, true);
    }
}
