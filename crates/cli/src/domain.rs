//! A domain of libvirt as an XML tree: what a hook reads of it, and what is added to it.

use lictor_types::GuestId;
use std::net::IpAddr;
use xmltree::{Element, EmitterConfig, Namespace, XMLNode};

/// The namespace of arguments that libvirt passes to QEMU as they are.
const QEMU: &str = "http://libvirt.org/schemas/domain/qemu/1.0";
const DBUS_VMSTATE: &str = "dbus-vmstate";
/// The namespace of the addresses in a domain's metadata.
const ADDRESSES: &str = "urn:lictor:guest";

/// Kinds of interfaces that libvirt makes a tap for, which carries the programs.
const WITH_TAP: [&str; 3] = ["bridge", "network", "ethernet"];

/// One argument of QEMU with its value. What begins and ends like that is the same one, as another
/// host or an earlier version of this program has written it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QemuArgument {
    pub(crate) option: &'static str,
    pub(crate) value: String,
    pub(crate) begins: String,
    pub(crate) ends: String,
}

impl QemuArgument {
    fn is(&self, value: &str) -> bool {
        value.starts_with(&self.begins) && value.ends_with(&self.ends)
    }
}

/// An interface and what the management layer knows about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tap {
    pub(crate) device: String,
    pub(crate) addresses: Vec<IpAddr>,
}

/// A domain.
#[derive(Debug)]
pub(crate) struct Domain(Element);

impl Domain {
    /// Parses what libvirt prints.
    pub(crate) fn parse(xml: &[u8]) -> Result<Self, String> {
        let root = Element::parse(xml).map_err(|error| format!("no XML: {error}"))?;
        if root.name == "domain" {
            Ok(Self(root))
        } else {
            Err(format!("expected <domain>, found <{}>", root.name))
        }
    }

    /// The guest, whose name is the domain's.
    pub(crate) fn guest(&self) -> Result<GuestId, String> {
        let name = self.0.get_child("name").and_then(Element::get_text);
        let name = name.ok_or("the domain has no <name>; expected the guest's")?;
        GuestId::new(name.trim()).map_err(|error| {
            format!(
                "the domain's name {name:?} is no guest's: {error}; name it as its binding does"
            )
        })
    }

    /// The taps of all interfaces with their addresses, or every reason why there is one without.
    pub(crate) fn taps(&self) -> Result<Vec<Tap>, String> {
        let devices = self.0.get_child("devices").into_iter();
        let devices = devices.flat_map(elements);
        let (mut taps, mut faults) = (Vec::new(), Vec::new());
        for interface in devices.filter(|one| one.name == "interface") {
            match tap(interface) {
                Ok(device) => taps.push(Tap {
                    device,
                    addresses: Vec::new(),
                }),
                Err(fault) => faults.push(fault),
            }
        }
        for address in self.addresses() {
            match addressed(address) {
                Err(fault) => faults.push(fault),
                Ok((vnic, address)) => match taps.iter_mut().find(|tap| tap.device == vnic) {
                    Some(tap) => tap.addresses.push(address),
                    None if faults.is_empty() => faults.push(format!(
                        "{address} is of vnic {vnic}, and no interface has <target dev='{vnic}'/>"
                    )),
                    None => {}
                },
            }
        }
        if faults.is_empty() {
            Ok(taps)
        } else {
            Err(faults.join("; "))
        }
    }

    fn addresses(&self) -> impl Iterator<Item = &Element> {
        let metadata = self.0.get_child("metadata").into_iter();
        let ours = metadata
            .flat_map(elements)
            .filter(|one| is_of(one, ADDRESSES));
        let ours = ours.filter(|one| one.name == "addresses");
        ours.flat_map(elements).filter(|one| one.name == "address")
    }

    /// Adds arguments for QEMU. One that is there already is the same afterwards as if it had not
    /// been: another host may have written it.
    pub(crate) fn add(&mut self, arguments: &[QemuArgument]) -> Result<(), String> {
        let foreign = self.values().into_iter().find(|value| {
            value.contains(DBUS_VMSTATE) && !arguments.iter().any(|one| one.is(value))
        });
        if let Some(value) = foreign {
            return Err(format!(
                "the domain passes {value:?} to QEMU, which takes one {DBUS_VMSTATE} only; take \
                 it out of the definition"
            ));
        }
        let command_line = self.command_line();
        let prefix = command_line.prefix.clone();
        for argument in arguments {
            let mut present = command_line.children.iter_mut();
            let same = present.find_map(|node| {
                let value = node.as_mut_element()?.attributes.get_mut("value")?;
                argument.is(value).then_some(value)
            });
            if let Some(value) = same {
                value.clone_from(&argument.value);
                continue;
            }
            for value in [argument.option, &argument.value] {
                let mut element = Element::new("arg");
                element.prefix.clone_from(&prefix);
                element.namespace = Some(QEMU.into());
                element.attributes.insert("value".into(), value.into());
                command_line.children.push(XMLNode::Element(element));
            }
        }
        Ok(())
    }

    /// Values of all arguments that the domain passes to QEMU.
    fn values(&self) -> Vec<String> {
        let arguments = elements(&self.0).filter(|one| is_command_line(one));
        let arguments = arguments.flat_map(elements);
        arguments
            .filter_map(|one| one.attributes.get("value").cloned())
            .collect()
    }

    /// The element with QEMU's arguments, made if there is none.
    fn command_line(&mut self) -> &mut Element {
        let elements = self.0.children.iter();
        let found = elements
            .map(|node| node.as_element().is_some_and(is_command_line))
            .position(|found| found);
        let at = found.unwrap_or(self.0.children.len());
        if found.is_none() {
            let mut element = Element::new("commandline");
            let mut namespaces = Namespace::empty();
            namespaces.put("qemu", QEMU);
            element.prefix = Some("qemu".into());
            element.namespace = Some(QEMU.into());
            element.namespaces = Some(namespaces);
            self.0.children.push(XMLNode::Element(element));
        }
        self.0.children[at]
            .as_mut_element()
            .expect("it was found or made as an element")
    }

    /// As libvirt takes it.
    pub(crate) fn print(&self) -> Result<String, String> {
        let mut bytes = Vec::new();
        let config = EmitterConfig::new().write_document_declaration(false);
        let written = self.0.write_with_config(&mut bytes, config);
        written.map_err(|error| format!("it cannot be written: {error}"))?;
        String::from_utf8(bytes).map_err(|error| format!("it cannot be written: {error}"))
    }
}

fn elements(element: &Element) -> impl Iterator<Item = &Element> {
    element.children.iter().filter_map(XMLNode::as_element)
}

fn is_of(element: &Element, namespace: &str) -> bool {
    element.namespace.as_deref() == Some(namespace)
}

fn is_command_line(element: &Element) -> bool {
    element.name == "commandline" && is_of(element, QEMU)
}

/// One address of the metadata, with its vnic's name.
fn addressed(element: &Element) -> Result<(String, IpAddr), String> {
    let text = element.get_text().unwrap_or_default();
    let address = text.trim().parse();
    let address = address.map_err(|_| {
        format!("the metadata has {text:?} for an address; expected one of IPv4 or IPv6")
    })?;
    let vnic = element.attributes.get("vnic").cloned();
    vnic.map(|vnic| (vnic, address)).ok_or_else(|| {
        format!("address {address} of the metadata has no vnic='...'; name the tap that has it")
    })
}

fn tap(interface: &Element) -> Result<String, String> {
    let child = |name, attribute| {
        let child = interface.get_child(name)?;
        child.attributes.get(attribute).cloned()
    };
    let kind = interface.attributes.get("type").map_or("", String::as_str);
    let mac = child("mac", "address").unwrap_or_else(|| "without a MAC".into());
    if !WITH_TAP.contains(&kind) {
        return Err(format!(
            "interface {mac} is of type {kind:?}, which no hook guards; expected one of {}",
            WITH_TAP.join(", ")
        ));
    }
    child("target", "dev").ok_or_else(|| {
        format!("interface {mac} has no <target dev='...'/>; name its tap as its binding does")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NIC: &str = "<interface type='bridge'><mac address='52:54:00:77:00:10'/>\
                       <target dev='db-0'/></interface>";

    fn domain(devices: &str, more: &str) -> Domain {
        let xml = format!(
            "<?xml version='1.0'?><domain type='qemu' id='3'><!-- kept --><name>db</name>\
             <devices>{devices}</devices>{more}</domain>"
        );
        Domain::parse(xml.as_bytes()).expect("a domain")
    }

    fn monitor() -> [QemuArgument; 1] {
        let (begins, ends) = ("unix:", "/db.sock,server=on,wait=off");
        [QemuArgument {
            option: "-qmp",
            value: format!("{begins}/run/lictor/qemu{ends}"),
            begins: begins.into(),
            ends: ends.into(),
        }]
    }

    fn without_addresses(device: &str) -> Tap {
        let (device, addresses) = (device.into(), Vec::new());
        Tap { device, addresses }
    }

    #[test]
    fn what_is_no_domain_of_a_guest_is_said_to_be_none() {
        let check = |xml: &str, part: &str| {
            let found = Domain::parse(xml.as_bytes()).and_then(|domain| domain.guest());
            let error = found.expect_err(xml);
            assert!(error.contains(part), "{xml}: {error}");
        };
        check("", "no XML");
        check("<domain><name>db</name>", "no XML");
        check("<network><name>db</name></network>", "found <network>");
        check("<domain/>", "no <name>");
        check("<domain><name>a b/c</name></domain>", "is no guest's");
        assert_eq!(domain("", "").guest().expect("a guest").as_str(), "db");
    }

    #[test]
    fn every_interface_needs_a_tap_and_all_without_one_are_named() {
        assert_eq!(domain(NIC, "").taps(), Ok(vec![without_addresses("db-0")]));
        assert_eq!(domain("<disk type='file'/>", "").taps(), Ok(vec![]));
        let faults = domain(
            "<interface type='hostdev'><mac address='52:54:00:77:00:11'/></interface>\
             <interface type='network'><mac address='52:54:00:77:00:12'/></interface>",
            "",
        );
        let faults = faults.taps().expect_err("neither is guarded");
        for part in ["00:11 is of type \"hostdev\"", "00:12 has no <target"] {
            assert!(faults.contains(part), "{faults}");
        }
    }

    #[test]
    fn addresses_of_the_metadata_belong_to_the_tap_that_they_name() {
        let metadata = |addresses: &str| {
            let more = format!(
                "<metadata><x:note xmlns:x='urn:x'><x:address>1</x:address></x:note>\
                 <l:addresses xmlns:l='urn:lictor:guest'>{addresses}</l:addresses></metadata>"
            );
            domain(NIC, &more).taps()
        };
        let found = metadata(
            "<l:address vnic='db-0'>10.77.0.11</l:address>\
             <l:address vnic='db-0'> fd00::11 </l:address>",
        );
        let addresses = ["10.77.0.11", "fd00::11"];
        let addresses = addresses.map(|one| one.parse().expect("an address")).into();
        let device = "db-0".to_owned();
        assert_eq!(found, Ok(vec![Tap { device, addresses }]));
        let check = |addresses: &str, part: &str| {
            let fault = metadata(addresses).expect_err(addresses);
            assert!(fault.contains(part), "{fault}");
        };
        check("<l:address vnic='db-0'>10.77</l:address>", "\"10.77\"");
        check("<l:address>10.77.0.11</l:address>", "has no vnic=");
        check(
            "<l:address vnic='web-0'>10.77.0.11</l:address>",
            "vnic web-0",
        );
    }

    #[test]
    fn an_argument_of_another_host_is_replaced() {
        let mut domain = domain(
            "",
            "<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\
             <qemu:arg value='-qmp'/>\
             <qemu:arg value='unix:/run/there/qemu/db.sock,server=on,wait=off'/>\
             <qemu:arg value='-S'/></qemu:commandline>",
        );
        domain.add(&monitor()).expect("added");
        let monitor = monitor();
        let expected = ["-qmp", monitor[0].value.as_str(), "-S"];
        assert_eq!(domain.values(), expected);
    }

    #[test]
    fn arguments_are_added_once_and_the_rest_is_kept() {
        let check = |more: &str, before: &[&str]| {
            let mut domain = domain(NIC, more);
            domain.add(&monitor()).expect("added");
            let xml = domain.print().expect("printed");
            let mut again = Domain::parse(xml.as_bytes()).expect("well-formed");
            let monitor = monitor();
            let added = ["-qmp", monitor[0].value.as_str()];
            assert_eq!(again.values(), [before, &added].concat(), "{xml}");
            assert!(xml.contains("<!-- kept -->"), "{xml}");
            assert_eq!(again.taps(), Ok(vec![without_addresses("db-0")]));
            again.add(&monitor).expect("it is there");
            assert_eq!(again.print().expect("printed"), xml);
        };
        check("", &[]);
        // Another prefix for the same namespace, and an element that only looks like ours.
        check(
            "<q:commandline xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'>\
             <q:arg value='-S'/></q:commandline>",
            &["-S"],
        );
        check("<commandline><arg value='-S'/></commandline>", &[]);
    }

    #[test]
    fn a_foreign_interlock_is_refused() {
        let mut domain = domain(
            "",
            "<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\
             <qemu:arg value='-object'/><qemu:arg value='dbus-vmstate,id=x'/></qemu:commandline>",
        );
        let error = domain.add(&monitor()).expect_err("QEMU takes one");
        assert!(error.contains("dbus-vmstate,id=x"), "{error}");
    }
}
